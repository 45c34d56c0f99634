"""The units of a study: each is one arm with one seed, and a few ordinary commands in a folder."""

import json
import time
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medart_cli import cli
from medart_cli.data.manifest import MANIFEST_NAME
from medart_cli.data.output import SETTINGS_NAME, first_change, write_json
from medart_cli.errors import ConfigError
from medart_cli.log import log
from medart_cli.outlook import Outlook, Piece
from medart_cli.shell import complete, type_command, word_command
from medart_cli.study import sets as own_sets
from medart_cli.study.arms import Arm, split_options
from medart_cli.study.options import StudyConfig

UNIT_NAME = "unit.json"  # in a unit's folder: whose it is, and which of its commands are done
COMPARED = "compare"  # folder of the reports that have all arms of one seed
RESULTS = {  # what each command writes when it is done
    "finetune": "run.json",
    "sample": MANIFEST_NAME,
    "evaluate": "metrics.json",
    "classify": "metrics.json",
}
# What the study itself says to each command, or what would make the arms' images others' than they
# are taken for.
OWN_OPTIONS = {
    "finetune": "out root seed overwrite dry-run val-fraction",
    "sample": "out root seed overwrite from prompt prompts split count per-label shard merge-to",
    "evaluate": "out root seed overwrite training training-root run synthetic-root shard "
    "fail-on-copies",
    "classify": "out root seed overwrite test test-root synthetic synthetic-root run checkpoint",
}
# Options of evaluate, each with a value, that say nothing where no run is looked at.
OF_RUNS = frozenset({"--member-count", "--base"})
# And those that the report of all arms does not need: each unit has it already.
OF_UNITS = OF_RUNS | {
    "--by", "--holdout", "--holdout-root", "--copy-rate", "--classifier", "--captioner",
    "--captions", "--profile", "--classes",
}  # fmt: skip


Unit = tuple[Arm, int]  # with a seed


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
    def units(self) -> list[Unit]:
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
        size += ["--buckets"] if settings["buckets"] else []
        size = [] if "--size" in own["sample"] else size
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
    told = own["evaluate"] if trained else _leave_out(OF_RUNS, own["evaluate"])
    commands.append([*words, *real, *told, "--out", str(folder / "report"), *ends])
    if plan.classes:
        words = ["classify", plan.data(own_sets.TRAIN_NAME), "--root", train, "--synthetic", images]
        words += ["--test", plan.data(own_sets.TEST_NAME), "--test-root", test, *real]
        commands.append([*words, *own["classify"], "--out", str(folder / "classifier"), *ends])
    return commands


def list_comparisons(plan: Plan) -> Iterator[tuple[int, list[str]]]:
    """List for each seed the command that compares all its arms on the same test images."""
    if len(plan.arms) < 2:
        return
    words = _leave_out(OF_UNITS, split_options("--evaluate", plan.config.evaluate))
    for seed in plan.seeds:
        images = [str(plan.folder(arm, seed) / "images") for arm in plan.arms]
        out = plan.config.out / COMPARED / f"seed-{seed}"
        test = [plan.data(own_sets.TEST_NAME), *images, "--root", str(plan.roots[1])]
        ends = [*_allow(plan.config), "--no-copies", "--overall", *_replace(out, images)]
        yield seed, ["evaluate", *test, *words, *ends, "--out", str(out), "--seed", str(seed)]


def _replace(report: Path, images: list[str]) -> list[str]:
    """Return the option by which a report of other arms, of an earlier call, is written anew."""
    try:
        settings = tomllib.loads((report / SETTINGS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or corrupt: evaluate looks at it
        return []
    return [] if settings.get("synthetic") == images else ["--overwrite"]


def _leave_out(options: Collection[str], words: Sequence[str]) -> list[str]:
    """Leave options out of words, each with its value."""
    left, values = [], iter(words)
    for word in values:
        if word in options:
            next(values, None)
        elif word.partition("=")[0] not in options:
            left.append(word)
    return left


def _allow(config: StudyConfig) -> list[str]:
    """Return the option by which a command takes synthetic images where it expects real ones."""
    return ["--allow-synthetic"] if config.allow_synthetic else []


def check_commands(plan: Plan) -> None:
    """Read the options of all commands as their command lines do, before any of them runs.

    Raises:
        ConfigError: One would be refused, or is the study's own to set; names the arm.
    """
    for arm in plan.arms:
        for words in list_commands(plan, arm, plan.seeds[0]):
            try:
                _check_command(plan, arm, words)
            except ConfigError as error:
                raise ConfigError(f"arm {arm.name}: medart {words[0]}: {error}") from error
    for _, words in list_comparisons(plan):
        try:
            cli.read_options(words)
        except ConfigError as error:
            raise ConfigError(f"comparing all arms: medart evaluate: {error}") from error


def _check_command(plan: Plan, arm: Arm, words: Sequence[str]) -> None:
    """Read a command's options, and refuse those of a user that are the study's own.

    Raises:
        ConfigError: Names the first one; it stands on the command line, or in a settings file.
    """
    command = words[0]
    given = split_options(f"--{command}", getattr(plan.config, command))
    given += {"finetune": arm.finetune or (), "sample": arm.sample}.get(command, ())
    typed = {word.partition("=")[0] for word in given}
    settings = cli.read_options(words)
    for name in OWN_OPTIONS[command].split():
        option, field = f"--{name}", name.replace("-", "_")
        in_file = option not in words and getattr(settings, field, None) not in (None, False)
        if option in typed or in_file:
            more = "; mark rows with split val instead" if name == "val-fraction" else ""
            raise ConfigError(f"{option}: is the study's own to set; leave it out{more}")


def check_units(plan: Plan) -> None:
    """Check that what an earlier call began under an arm's name is of the same arm.

    Raises:
        ConfigError: Its settings were others.
    """
    for arm, seed in plan.units:
        folder = plan.folder(arm, seed)
        was = _read_facts(folder).get("arm")
        change = first_change(was, arm.settings(), frozenset()) if was else None
        if change:
            raise ConfigError(
                f"arm {arm.name}: {folder} was written with other settings: {change}; give the arm "
                f"another name, or delete {folder.parent}"
            )


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
    """Run the units of a part that are not done yet, and compare their arms where it is the whole.

    Args:
        plan: What is done.
        part: Number of the part, from 1, and how many there are.
    """
    mine = plan.units[part[0] - 1 :: part[1]]
    left = [(arm, seed) for arm, seed in mine if read_unit(plan, arm, seed) is None]
    log.info("%d units, %d of them done", len(mine), len(mine) - len(left))
    if not left and plan.config.shard is None:
        log.info("%s: already finished; only its report is written anew", plan.config.out)
    comparisons = list(list_comparisons(plan)) if plan.config.shard is None else []
    outlook = plan_outlook(plan, mine, left, len(comparisons))
    with outlook.shown():
        for arm, seed in left:
            run_unit(plan, arm, seed, outlook)
        for seed, words in comparisons:
            with outlook.part():
                log.info("\n%s: all arms, seed %d", outlook.tell(), seed)
                type_command(complete(words, plan.config), plan.config)


def plan_outlook(
    plan: Plan, mine: Sequence[Unit], left: Sequence[Unit], comparisons: int
) -> Outlook:
    """Plan the commands of units, with the seconds that those of an earlier call took.

    Args:
        plan: What is done.
        mine: The units of this call.
        left: Those of them that are not done yet.
        comparisons: How many commands come after them.
    """
    known: defaultdict[Piece, list[float]] = defaultdict(list)
    for arm, seed in plan.units:
        for command, seconds in _read_facts(plan.folder(arm, seed))["seconds"].items():
            known[command, arm.name].append(seconds)
    parts = [(words[0], arm.name) for arm, seed in left for words in list_commands(plan, arm, seed)]
    total = sum(len(list_commands(plan, arm, seed)) for arm, seed in mine)
    parts += [("evaluate", COMPARED)] * comparisons
    return Outlook("study", parts, done=total + comparisons - len(parts), known=known)


def run_unit(plan: Plan, arm: Arm, seed: int, outlook: Outlook) -> None:
    """Run the commands of a unit; those that are done say so and end at once.

    The seconds are those of commands that ran in one go: what one took that was stopped on its way
    is not known, and is not told.
    """
    folder = plan.folder(arm, seed)
    known = _read_facts(folder)
    facts = {"format": 1, "arm": arm.settings()}
    if known.get("arm") != facts["arm"]:  # whose it is, before anything of it is there
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / UNIT_NAME, known | facts)
    lines: list[str] = []
    seconds: dict[str, float] = {}
    for words in list_commands(plan, arm, seed):
        lines.append(word_command(words))
        begun = _place(words).exists()
        started = time.monotonic()
        with outlook.part(whole=not begun):
            log.info("\n%s: %s, seed %d", outlook.tell(), arm.title, seed)
            type_command(complete(words, plan.config), plan.config)
        if not begun:
            seconds[words[0]] = round(time.monotonic() - started, 1)
        elif lines[-1] in known["commands"] and words[0] in known["seconds"]:
            seconds[words[0]] = known["seconds"][words[0]]
        write_json(folder / UNIT_NAME, facts | {"commands": lines, "seconds": seconds})


def read_unit(plan: Plan, arm: Arm, seed: int) -> dict[str, Any] | None:
    """Return what a unit that is done says of itself; None for one that is not, or was another."""
    commands = list_commands(plan, arm, seed)
    facts = _read_facts(plan.folder(arm, seed))
    same = facts["commands"] == [word_command(words) for words in commands]
    there = all((_place(words) / RESULTS[words[0]]).is_file() for words in commands)
    return facts if same and there else None


def _read_facts(folder: Path) -> dict[str, Any]:
    """Read what a unit says of itself; if it says nothing or is corrupt, no command is done."""
    try:
        facts = json.loads((folder / UNIT_NAME).read_text(encoding="utf-8"))
        return {**facts, "commands": list(facts["commands"]), "seconds": dict(facts["seconds"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"commands": [], "seconds": {}}


def _place(words: Sequence[str]) -> Path:
    """Return the folder that a command writes."""
    return Path(words[words.index("--out") + 1])
