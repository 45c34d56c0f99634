"""Compare ways to fine-tune on one's own images: the ordinary commands in folders -> one page.

Every unit, one arm with one seed, is done by commands that a user could type; so it resumes where
it was stopped, and shards of the units run on different machines. What they measured is gathered in
the end.
"""

import os
from dataclasses import replace
from typing import Any

from medart_cli.data.output import Output, open_output
from medart_cli.errors import ConfigError
from medart_cli.log import log
from medart_cli.options import parse_shard
from medart_cli.shell import complete
from medart_cli.study.arms import Arm, read_arms
from medart_cli.study.needs import check_needs
from medart_cli.study.options import StudyConfig
from medart_cli.study.sets import FOLDER, StudySets, read_sets, write_sets
from medart_cli.study.units import (
    Plan,
    check_commands,
    check_units,
    run_units,
    write_script,
)


def run(config: StudyConfig) -> dict[str, Any]:
    """Run the units that are not done, compare the arms, and write the report."""
    arms = read_arms(config.arms)
    sets = read_sets(config)
    # Units are known by their commands, so these name the same paths from any working folder.
    typed, config = config.out, replace(config, out=config.out.absolute())
    plan = make_plan(config, arms, sets)
    check_commands(plan)
    if not config.overwrite:
        check_units(plan)
    part = parse_shard(config.shard)
    if not config.dry_run:
        check_needs(plan)
    with open_output(describe_output(config, sets)):
        write_sets(config.out / FOLDER, sets, plan.seeds, shared=config.shard is not None)
        if config.dry_run:
            return {"result": write_script(plan, repeat(config)), "inputs": sets.inputs}
        run_units(plan, part)
        if config.shard is not None:
            log.info("shard %s is done; when all are, run without --shard", config.shard)
            return {"result": str(typed), "inputs": sets.inputs}
        from medart_cli.study.report import write_study  # loads matplotlib

        facts = write_study(plan, sets)
    return {
        "result": str(typed / "report.html"),
        "verdicts": facts["verdicts"],
        "inputs": sets.inputs,
    }


def make_plan(config: StudyConfig, arms: list[Arm], sets: StudySets) -> Plan:
    """Plan the units; leave out what these images cannot show.

    Raises:
        ConfigError: Nothing is left to compare.
    """
    if not sets.captioned and len(arms) > 1:
        same = [arm.name for arm in arms if arm.captions == "simple"]
        for name in same:
            log.warning("arm %s: is left out, since no image has a caption of its own", name)
        arms = [arm for arm in arms if arm.name not in same]
    if not any(arm.finetune is not None for arm in arms):
        raise ConfigError("--arms: no arm that is fine-tuned is left")
    classes = config.classify.strip() != "none" and len(sets.labels) > 1
    if not classes and config.classify.strip() != "none":
        log.warning("no classifiers: training and test images share fewer than two labels")
    if classes:
        refuse_unlabeled(sets)
    roots = sets.train[0].folder.absolute(), sets.test[0].folder.absolute()
    return Plan(config, arms, roots, classes)


def refuse_unlabeled(sets: StudySets) -> None:
    """Refuse rows without a label where a classifier is trained, before hours of training.

    Raises:
        ConfigError: Names the first one.
    """
    row = next((row for row in [*sets.train, *sets.test] if row.label is None), None)
    if row is not None:
        raise ConfigError(
            f"{row.place}: no label, and a classifier needs one of every row; give it one, or "
            "leave the classifiers out with --classify none"
        )


def describe_output(config: StudyConfig, sets: StudySets) -> Output:
    """Say what the folder belongs to: the settings, and the images by their content."""
    settings = config.settings() | {"_images": sets.hash_all()}
    return Output(
        config.out, "study", settings, config.name_run_only(), config.overwrite,
        inputs=(config.data, config.test, *_list_files(config)),
        part=parse_shard(config.shard)[0] if config.shard else 0,
    )  # fmt: skip


def _list_files(config: StudyConfig) -> list[str]:
    """Return the file that --arms names, if it does."""
    return [config.arms] if config.arms.endswith(".toml") else []


def repeat(config: StudyConfig) -> list[str]:
    """Write the command of the study itself, for the end of its script; paths are absolute."""
    words = ["study", os.path.abspath(config.data), "--out", str(config.out)]
    paths = ("test", "root", "test_root", *(["arms"] if _list_files(config) else []))
    for name, value in config.settings().items():
        default = type(config).__dataclass_fields__[name].default
        if name in ("data", "out", "device", "offline", "max_failures") or value == default:
            continue
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        else:
            words += [option, os.path.abspath(value) if name in paths else str(value)]
    return complete(words, config)
