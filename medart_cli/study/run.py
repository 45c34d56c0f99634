"""Compare ways to fine-tune on one's own images: the ordinary commands in folders -> one page.

Every unit, one arm with one seed, is done by commands that a user could type; so it resumes where
it was stopped, and shards of the units run on different machines. What they measured is gathered in
the end.
"""

from typing import Any

from medart_cli.data.output import Output, open_output
from medart_cli.errors import ConfigError
from medart_cli.log import log
from medart_cli.options import parse_shard
from medart_cli.shell import complete
from medart_cli.study.arms import Arm, read_arms
from medart_cli.study.options import StudyConfig
from medart_cli.study.sets import FOLDER, StudySets, read_sets, write_sets
from medart_cli.study.units import (
    Plan,
    check_commands,
    run_comparisons,
    run_units,
    write_script,
)


def run(config: StudyConfig) -> dict[str, Any]:
    """Run the units that are not done, compare the arms, and write the report."""
    arms = read_arms(config.arms)
    sets = read_sets(config)
    plan = make_plan(config, arms, sets)
    check_commands(plan)
    part = parse_shard(config.shard)
    with open_output(describe_output(config, sets)):
        write_sets(config.out / FOLDER, sets, plan.seeds)
        if config.dry_run:
            return {"result": write_script(plan, repeat(config)), "inputs": sets.inputs}
        run_units(plan, part)
        if config.shard is not None:
            log.info("shard %s is done; when all are, run without --shard", config.shard)
            return {"result": str(config.out), "inputs": sets.inputs}
        run_comparisons(plan)
        from medart_cli.study.report import write_study  # loads matplotlib

        facts = write_study(plan, sets)
    return {
        "result": str(config.out / "report.html"),
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
        log.warning("no classifiers: the images have fewer than two labels")
    roots = sets.train[0].folder, sets.test[0].folder
    return Plan(config, arms, roots, classes)


def describe_output(config: StudyConfig, sets: StudySets) -> Output:
    """Say what the folder belongs to: the settings, and the images by their content."""
    settings = config.settings() | {"_images": sets.hash_all()}
    return Output(
        config.out, "study", settings, config.name_run_only(), config.overwrite,
        inputs=(config.data, config.test), part=parse_shard(config.shard)[0] if config.shard else 0,
    )  # fmt: skip


def repeat(config: StudyConfig) -> list[str]:
    """Write the command of the study itself, for the end of its script."""
    words = ["study", config.data, "--out", str(config.out)]
    for name, value in config.settings().items():
        default = type(config).__dataclass_fields__[name].default
        if name not in ("data", "out", "device", "offline", "max_failures") and value != default:
            words += ["--" + name.replace("_", "-"), str(value)]
    return complete(words, config)
