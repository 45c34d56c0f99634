"""The units of a study: each is one arm with one seed, and a few ordinary commands in a folder."""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medart_cli import cli
from medart_cli.data.output import write_json
from medart_cli.errors import ConfigError
from medart_cli.log import log
from medart_cli.shell import complete, type_command, word_command
from medart_cli.study import sets as own_sets
from medart_cli.study.arms import Arm, split_options
from medart_cli.study.options import StudyConfig

UNIT_NAME = "unit.json"  # stands in a unit's folder once all its commands are done
COMPARED = "compare"  # folder of the reports that have all arms of one seed


@dataclass(frozen=True)
class Plan:
    """What a study does.

    Attributes:
        config: The options.
        arms: What is compared.
        seeds: Of each arm.
        roots: What file names of the training and the test images are relative to.
        classes: Whether the images have labels, so that classifiers can be trained.
    """

    config: StudyConfig
    arms: list[Arm]
    roots: tuple[Path, Path]
    classes: bool

    @property
    def seeds(self) -> list[int]:
        """The seeds of each arm."""
        return list(range(self.config.seed, self.config.seed + self.config.seeds))

    @property
    def units(self) -> list[tuple[Arm, int]]:
        """All units: first all arms of the first seed."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def folder(self, arm: Arm, seed: int) -> Path:
        """Return the folder of a unit."""
        return self.config.out / arm.name / f"seed-{seed}"

    def data(self, name: str) -> str:
        """Return the path of one of the study's manifests."""
        return str(self.config.out / own_sets.FOLDER / name)


def list_commands(plan: Plan, arm: Arm, seed: int) -> list[list[str]]:
    """List the commands of a unit, each as its words without `medart`."""
    config, folder = plan.config, plan.folder(arm, seed)
    train, test = str(plan.roots[0]), str(plan.roots[1])
    own = {
        name: split_options(f"--{name}", getattr(config, name))
        for name in ("finetune", "sample", "evaluate", "classify")
    }
    training = plan.data(own_sets.name_training(arm.captions))
    ends = ["--seed", str(seed)]
    real = _allow(config)
    commands = []
    drawn_by, size = str(folder / "run"), []
    if arm.finetune is None:
        settings = cli.read_options(["finetune", "-", "--out", "-", *own["finetune"]]).settings()
        drawn_by = settings["base"]
        size = ["--resolution", str(settings["resolution"])] if "resolution" in settings else []
    else:
        words = ["finetune", training, "--root", train, *real, *own["finetune"], *arm.finetune]
        commands.append([*words, "--out", drawn_by, *ends])
    captions = plan.data(own_sets.name_drawn(arm.captions, seed))
    words = ["sample", drawn_by, "--from", captions, "--root", train, *size]
    images = str(folder / "images")
    commands.append([*words, *own["sample"], *arm.sample, "--out", images, *ends])
    words = ["evaluate", plan.data(own_sets.TEST_NAME), images, "--root", test]
    trained = arm.finetune is not None
    if trained or "--no-copies" not in own["evaluate"]:  # else nothing looks at training images
        words += ["--training", plan.data(own_sets.TRAIN_NAME), "--training-root", train]
    words += ["--run", drawn_by] if trained else []
    commands.append([*words, *real, *own["evaluate"], "--out", str(folder / "report"), *ends])
    if plan.classes:
        words = ["classify", plan.data(own_sets.TRAIN_NAME), "--root", train, "--synthetic", images]
        words += ["--test", plan.data(own_sets.TEST_NAME), "--test-root", test, *real]
        commands.append([*words, *own["classify"], "--out", str(folder / "classifier"), *ends])
    return commands


def list_comparisons(plan: Plan) -> Iterator[tuple[int, list[str]]]:
    """List for each seed the command that compares all its arms on the same test images."""
    if len(plan.arms) < 2:
        return
    words = split_options("--evaluate", plan.config.evaluate)
    for seed in plan.seeds:
        images = [str(plan.folder(arm, seed) / "images") for arm in plan.arms]
        out = str(plan.config.out / COMPARED / f"seed-{seed}")
        test = [plan.data(own_sets.TEST_NAME), *images, "--root", str(plan.roots[1])]
        ends = [*_allow(plan.config), "--no-copies", "--overall", "--out", out, "--seed", str(seed)]
        yield seed, ["evaluate", *test, *words, *ends]


def _allow(config: StudyConfig) -> list[str]:
    """Return the option by which a command takes synthetic images where it expects real ones."""
    return ["--allow-synthetic"] if config.allow_synthetic else []


def check_commands(plan: Plan) -> None:
    """Read the options of all commands as their command lines do, before any of them runs.

    Raises:
        ConfigError: One would be refused; names the arm.
    """
    for arm in plan.arms:
        for words in list_commands(plan, arm, plan.seeds[0]):
            try:
                cli.read_options(words)
            except ConfigError as error:
                raise ConfigError(f"arm {arm.name}: medart {words[0]}: {error}") from error
    for _, words in list_comparisons(plan):
        cli.read_options(words)


def write_script(plan: Plan, again: Sequence[str]) -> str:
    """Write all commands as a shell script.

    Args:
        plan: What is done.
        again: The command of the study itself, which ends the script with its report.
    """
    lines = ["#!/bin/sh", "set -e"]
    for arm, seed in plan.units:
        lines += ["", f"# {arm.title}, seed {seed}"]
        lines += [
            word_command(complete(words, plan.config)) for words in list_commands(plan, arm, seed)
        ]
    lines += ["", "# all arms of a seed on the same test images"]
    lines += [word_command(complete(words, plan.config)) for _, words in list_comparisons(plan)]
    return "\n".join([*lines, "", "# the report", word_command(again)])


def run_units(plan: Plan, part: tuple[int, int]) -> None:
    """Run the units of a part that are not done yet.

    Args:
        plan: What is done.
        part: Number of the part, from 1, and how many there are.
    """
    mine = plan.units[part[0] - 1 :: part[1]]
    left = [(arm, seed) for arm, seed in mine if read_unit(plan, arm, seed) is None]
    log.info("%d units, %d of them done", len(mine), len(mine) - len(left))
    started = time.monotonic()
    for number, (arm, seed) in enumerate(left):
        pace = (time.monotonic() - started) / max(1, number)
        rest = f"; about {pace * (len(left) - number) / 60:.0f} min left" if number else ""
        log.info("\nunit %d of %d: %s, seed %d%s", number + 1, len(left), arm.title, seed, rest)
        run_unit(plan, arm, seed)


def run_unit(plan: Plan, arm: Arm, seed: int) -> None:
    """Run the commands of a unit; those that are done say so and end at once."""
    folder, seconds = plan.folder(arm, seed), {}
    commands = list_commands(plan, arm, seed)
    for words in commands:
        started = time.monotonic()
        type_command(complete(words, plan.config), plan.config)
        seconds[words[0]] = round(time.monotonic() - started, 1)
    lines = [word_command(words) for words in commands]
    write_json(folder / UNIT_NAME, {"format": 1, "commands": lines, "seconds": seconds})


def read_unit(plan: Plan, arm: Arm, seed: int) -> dict[str, Any] | None:
    """Return what a unit that is done says of itself; None for one that is not, or was another."""
    lines = [word_command(words) for words in list_commands(plan, arm, seed)]
    try:
        facts = json.loads((plan.folder(arm, seed) / UNIT_NAME).read_text(encoding="utf-8"))
        outputs = [shlex.split(line) for line in facts["commands"]]
        there = all(Path(words[words.index("--out") + 1]).is_dir() for words in outputs)
        return dict(facts) if facts["commands"] == lines and there else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or corrupt: the commands look again
        return None


def run_comparisons(plan: Plan) -> None:
    """Compare all arms of each seed on the same test images."""
    for _, words in list_comparisons(plan):
        type_command(complete(words, plan.config), plan.config)
