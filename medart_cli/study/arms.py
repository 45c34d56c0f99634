"""What a study compares: arms, each a way to fine-tune.

The default ones are the paper's ablation (Med-Art, arXiv 2506.20449, tables 1 and 2) on one's own
images: each differs from LoRA alone in one thing.
"""

import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from medart_cli.errors import ConfigError

Captions = Literal["own", "simple"]
REFERENCE = "lora"  # what the others are compared with
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")  # it names a folder, also on file systems elsewhere
OWN_FOLDERS = ("data", "compare")  # of the study itself


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune, and to draw.

    Attributes:
        name: Of its folder.
        title: What tables call it.
        finetune: Options of finetune, after those of all arms; None where nothing is trained.
        captions: `own` or `simple`: the template caption in place of each.
        sample: Options of sample, after those of all arms.
    """

    name: str
    title: str
    finetune: tuple[str, ...] | None = ()
    captions: Captions = "own"
    sample: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Return all but its names, as JSON has it."""
        return {
            "finetune": None if self.finetune is None else list(self.finetune),
            "captions": self.captions,
            "sample": list(self.sample),
        }


# HLDF is off wherever it is not what the arm is about, so that each differs in one thing.
NO_HLDF = ("--hldf-every", "0")
ARMS = {
    arm.name: arm
    for arm in (
        Arm("before", "before fine-tuning", None),
        Arm("lora", "LoRA", NO_HLDF),
        # Not every 500 steps, where a short run would have no color loss at all.
        Arm("hldf", "HLDF as published", ("--hldf-loss", "published", "--hldf-every", "auto")),
        Arm("score", "HLDF, color score", ("--hldf-loss", "score")),
        Arm("frozen", "text encoder frozen", (*NO_HLDF, "--freeze-text-encoder")),
        Arm("simple", "simple captions", NO_HLDF, "simple"),
        Arm("dora", "DoRA", (*NO_HLDF, "--method", "dora")),
        Arm("full", "all weights", (*NO_HLDF, "--method", "full")),
    )
}


def read_arms(source: str) -> list[Arm]:
    """Read the arms of a study: names of default ones, or a TOML file with a table for each.

    Raises:
        ConfigError: There is no such arm or file, or a table says what no arm has.
    """
    if source.endswith(".toml"):
        arms = _read_file(Path(source))
    else:
        names = [name.strip() for name in source.split(",") if name.strip()]
        for name in names:
            if name not in ARMS:
                raise ConfigError(
                    f"--arms {name}: there are {', '.join(ARMS)}; others are defined in a TOML file"
                )
        arms = [ARMS[name] for name in names]
    if len({arm.name for arm in arms}) < len(arms):
        raise ConfigError(f"--arms {source}: names one twice")
    if not any(arm.finetune is not None for arm in arms):
        raise ConfigError(f"--arms {source}: at least one arm must be fine-tuned")
    return arms


def is_default(arm: Mapping[str, Any]) -> bool:
    """Say whether what study.json has of an arm is a default one, and no other under its name."""
    known = ARMS.get(arm["name"])
    return known is not None and known.settings().items() <= arm.items()


def find_reference(arms: list[Arm]) -> Arm:
    """Return what the others are compared with: LoRA alone, else the first that is trained."""
    trained = [arm for arm in arms if arm.finetune is not None]
    return next((arm for arm in trained if arm.name == REFERENCE), trained[0])


def _read_file(path: Path) -> list[Arm]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--arms {path}: cannot be read as TOML: {reason}") from error
    return [_read_table(path, name, table) for name, table in tables.items()]


def _read_table(path: Path, name: str, table: object) -> Arm:
    place = f"--arms {path}: [{name}]"
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place}: is no table; write [{name}] and its settings below")
    if not NAME.fullmatch(name) or name in OWN_FOLDERS:
        raise ConfigError(
            f"{place}: cannot name a folder; use small letters, digits, . _ -, and not "
            f"{' or '.join(OWN_FOLDERS)}"
        )
    if not table and name in ARMS:
        return ARMS[name]
    kinds: dict[str, type] = {"title": str, "finetune": str, "captions": str, "sample": str,
                              "train": bool}  # fmt: skip
    for key, value in table.items():
        if key not in kinds or not isinstance(value, kinds[key]):
            raise ConfigError(
                f"{place}: {key} = {value!r}: an arm has title, finetune, sample (texts), captions "
                "(own or simple) and train (false draws from the base)"
            )
    captions: Any = table.get("captions", "own")
    if captions not in get_args(Captions):
        raise ConfigError(f"{place}: captions must be own or simple, not {captions!r}")
    trained = table.get("train", True)
    if not trained and "finetune" in table:
        raise ConfigError(f"{place}: finetune has no effect with train = false; leave it out")
    words = _split_words(f"{place}: finetune", table.get("finetune", ""))
    return Arm(
        name,
        table.get("title", name),
        words if trained else None,
        captions,
        _split_words(f"{place}: sample", table.get("sample", "")),
    )


def _split_words(place: str, text: str) -> tuple[str, ...]:
    return tuple(split_options(place, text))


def split_options(place: str, text: str) -> list[str]:
    """Split options into words, as a shell does.

    Raises:
        ConfigError: A quote is open.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{place} {text}: cannot be split into options: {error}") from error
