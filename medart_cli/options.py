"""What the options of all commands have in common: `--config`, checks, marks, the common options.

Each command's own options are in `COMMAND/options.py`: one frozen dataclass is the command's
signature. An option says all about itself there: its help, its bounds (`min`, `max`), and by a mark
whether an output may be resumed with another value of it. Bounds are checked when the dataclass is
made, so the command line and a notebook give the same message.
"""

import difflib
import tomllib
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from typer import CallbackParam, Context, Option

from medart_cli.errors import ConfigError
from medart_cli.versions import SETTINGS_HEAD

DEFAULT_BASE = "PixArt-alpha/PixArt-XL-2-512x512"  # the paper's base model
# The captioner: open to all, small enough for one GPU, and an instruct model, which does not think
# aloud; docs/captioners.md compares it with others. The paper's own is in the recipe `paper`.
DEFAULT_CAPTIONER = "Qwen/Qwen3-VL-8B-Instruct"

FEATURES = ("inception", "efficientnet-lite0", "dinov2")  # networks with short names
MOST_SHARDS = 10_000  # a mistyped number is likelier than more
# Options that name what is read, whichever command has them.
SOURCES = (
    "images data real test synthetic holdout training run from_data prompts base model backbone "
    "checkpoint classifier captioner features inception classes labels texts profile"
).split()
SETTINGS_FILES = ("settings.toml", "caption.toml")  # of an output folder; beside a manifest
NOTHING: Mapping[str, Any] = MappingProxyType({})
# What takes less memory: an option, the values at which it helps (None: all), and what to say.
Hint = tuple[str, Container[Any] | None, str]
MORE_THAN_ONE = range(2, 1 << 31)

_common_option = partial(Option, rich_help_panel="Common")
_data_option = partial(Option, rich_help_panel="Data")


@dataclass(frozen=True)
class Mark:
    """What an option is, besides its type and its text; stands beside them in its annotation.

    Attributes:
        saved: Whether it stands in the settings file of an output.
    """

    saved: bool


# It says how to run and not what to make: an output may be continued with another value of it.
RUN_ONLY = Mark(saved=True)
# The same, and it belongs to this one call, so that it stands in no settings file either.
ONE_CALL = Mark(saved=False)


def complete_profile(incomplete: str) -> list[str]:
    """Offer the packaged profiles, and TOML files, to a shell that completes --profile."""
    return _complete("profiles", incomplete)


def complete_config(incomplete: str) -> list[str]:
    """Offer the packaged recipes, and TOML files, to a shell that completes --config."""
    return _complete("recipes", incomplete)


def complete_features(incomplete: str) -> list[str]:
    """Offer the networks of --features that have short names."""
    return [name for name in FEATURES if name.startswith(incomplete)]


def _complete(folder: str, incomplete: str) -> list[str]:
    names = [name for name in list_packaged(folder) if name.startswith(incomplete)]
    place = Path(incomplete if incomplete.endswith("/") else incomplete + "?").parent
    seen = [path for path in place.glob("*") if not path.name.startswith(".")]
    files = sorted(str(path) for path in seen if path.suffix == ".toml" or path.is_dir())
    return [*names, *(file for file in files if file.startswith(incomplete))]


def list_packaged(folder: str) -> list[str]:
    """Name the TOML files of a folder of the package, `profiles` or `recipes`, without ending."""
    items = (resources.files("medart_cli") / folder).iterdir()
    return sorted(it.name.removesuffix(".toml") for it in items if it.name.endswith(".toml"))


Folders = Annotated[
    str | None,
    _data_option(
        help="Subfolder levels from the top, joined by /: split, label, group_id (a patient) "
        "or - (ignored); by default the top level is the label, or the level below a "
        "split such as train."
    ),
]


Classes = Annotated[
    Path | None,
    _data_option(
        help='TOML file that says how classes are spoken: mel = "melanoma", or a table with '
        "name and synonyms; in the template caption and, in caption, in the prompt and the rules."
    ),
]


AllowSynthetic = Annotated[
    bool,
    _data_option("--allow-synthetic", help="Accept synthetic images where real ones are expected."),
]


def read_settings(source: str, kind: "type[CommonConfig] | None" = None) -> dict[str, Any]:
    """Read settings: a TOML file, an output folder's, a model card's, or a packaged recipe's.

    Args:
        source: The file, the folder, or the name of the recipe.
        kind: Options of the command that it is read for: where that command wrote the settings
            before there was an option, they mean what was done then.

    Raises:
        ConfigError: There is no such file or recipe, or it is not TOML.
    """
    known = list_packaged("recipes")
    try:
        if source in known and not Path(source).is_file():
            recipe = resources.files("medart_cli") / "recipes" / f"{source}.toml"
            return _choose_table(tomllib.loads(recipe.read_text(encoding="utf-8")), kind)
        text = _find_settings(source)
        if text is not None:
            own = kind is not None and text.startswith(f"{SETTINGS_HEAD}{kind.name_command()},")
            return (dict(kind.formerly) if kind and own else {}) | tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {source}: cannot be read as TOML: {error}") from error
    raise ConfigError(f"--config {source}: no such file; packaged recipes: {', '.join(known)}")


def _find_settings(source: str) -> str | None:
    """Return the text of a settings file, of an output folder or a model card; None for neither."""
    path = Path(source)
    if path.is_dir():
        files = [path / name for name in SETTINGS_FILES if (path / name).is_file()]
        if not files:
            raise ConfigError(f"--config {source}: no output of medart: it has no settings.toml")
        path = files[0]
    if path.suffix != ".md":
        there = path.suffix == ".toml" or path.is_file()
        return path.read_text(encoding="utf-8") if there else None
    _, found, block = path.read_text(encoding="utf-8").partition("## Settings\n```toml\n")
    if not found:
        raise ConfigError(f"--config {source}: no model card of medart: it has no settings")
    return f"{SETTINGS_HEAD}finetune, of its model card\n{block.partition('```')[0]}"


def _choose_table(recipe: dict[str, Any], kind: "type[CommonConfig] | None") -> dict[str, Any]:
    """Return what a packaged recipe says for a command: its own table, else what stands above."""
    own = recipe.get(kind.name_command()) if kind else None
    if isinstance(own, dict):
        return own
    return {name: value for name, value in recipe.items() if not isinstance(value, dict)}


def _apply_settings(context: Context, parameter: CallbackParam, value: str | None) -> str | None:
    """Let the settings of `--config` stand between the defaults and the command line.

    The context's object is the command's class of options.
    """
    if value is None or context.resilient_parsing:
        return value
    known = {item.name for item in context.command.params if item.name}
    settings = {}
    for key, setting in read_settings(value, context.obj).items():
        name = key.replace("-", "_")
        if name.startswith("_"):  # not an option: medart notes there what an output belongs to
            continue
        if name not in known and context.obj.reads_others:
            continue
        if name not in known - {"help", "config"}:
            close = difflib.get_close_matches(name, sorted(item for item in known if item), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            command = context.obj.name_command()
            raise ConfigError(f"--config {value}: {command} has no option {key}{hint}")
        if isinstance(setting, dict):
            raise ConfigError(f"--config {value}: {key} is a table; settings are flat: key = value")
        settings[name] = setting
    context.default_map = settings
    return value


LEVELS = ("split", "label", "group_id", "-")


def parse_levels(text: str | None) -> tuple[str, ...] | None:
    """Return what the folders of a data set mean, from the top; None where that is to be found out.

    Raises:
        ConfigError: A level is unknown or stands twice.
    """
    if text is None:
        return None
    levels = tuple(text.split("/"))
    named = [level for level in levels if level != "-"]
    if not set(levels) <= set(LEVELS) or len(set(named)) < len(named):
        raise ConfigError(
            f"--folders {text}: must be some of split, label, group_id and -, from the top, joined "
            "by /, such as group_id/label for patient folders with class folders in them"
        )
    return levels


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return the number of a shard, from 1, and how many there are; (1, 1) without --shard.

    Raises:
        ConfigError: The text is not I/N.
    """
    if text is None:
        return 1, 1
    number, _, count = text.partition("/")
    plain = all(part.isascii() and part.isdigit() for part in (number, count))
    if not plain or not 1 <= int(number) <= int(count) <= MOST_SHARDS:
        raise ConfigError(f"--shard {text}: must be I/N, such as 2/3 for the second of three")
    return int(number), int(count)


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    """Options that every command has.

    Attributes:
        formerly: What an option of an output means where its settings do not name it, since they
            are from before there was that option.
        less_memory: What to say where memory is full, the least loss first.
        reads_others: Whether `--config` may name options of another command, which are passed on.
        result_names: Files below --out that are new whenever the command has something new to say.
        beside_sources: Endings of what the command itself writes into the folders that it reads.
    """

    formerly: ClassVar[Mapping[str, Any]] = NOTHING
    less_memory: ClassVar[tuple[Hint, ...]] = ()
    reads_others: ClassVar[bool] = False
    result_names: ClassVar[tuple[str, ...]] = ()
    beside_sources: ClassVar[frozenset[str]] = frozenset()

    config: Annotated[
        str | None,
        _common_option(
            help="Source of settings: a TOML file, an output folder, a model card (README.md) "
            "or a packaged recipe; command-line options override them.",
            callback=_apply_settings,
            is_eager=True,
            autocompletion=complete_config,
        ),
        ONE_CALL,
    ] = None
    device: Annotated[str, _common_option(help="Device: auto, cpu, cuda or cuda:N."), RUN_ONLY] = (
        "auto"
    )
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        _common_option(
            help="Model precision; auto is bf16 if the GPU supports it, else fp32; in evaluate it "
            "is fp32."
        ),
    ] = "auto"
    seed: Annotated[int, _common_option(help="Random seed.", min=0)] = 0
    offline: Annotated[
        bool, _common_option("--offline", help="Never use the network."), RUN_ONLY
    ] = False
    max_failures: Annotated[
        int,
        _common_option(
            help="Failed rows (such as broken images) allowed before the exit code is 3.", min=0
        ),
        RUN_ONLY,
    ] = 0
    json: Annotated[
        bool, _common_option("--json", help="Print the summary as one JSON object."), ONE_CALL
    ] = False
    quiet: Annotated[
        bool, _common_option("--quiet", "-q", help="Log warnings and errors only."), ONE_CALL
    ] = False
    verbose: Annotated[bool, _common_option("--verbose", "-v", help="Debug logging."), ONE_CALL] = (
        False
    )

    def __post_init__(self) -> None:
        kind, colon, index = self.device.partition(":")
        if kind not in ("auto", "cpu", "cuda") or (
            colon and (kind != "cuda" or not (index.isascii() and index.isdigit()))
        ):
            raise ConfigError(f"--device {self.device}: not auto, cpu, cuda or cuda:N")
        self._check_bounds()
        self.refuse_idle()

    def _check_bounds(self) -> None:
        """Check each number by the bounds that its option states."""
        for name, notes in list_options(type(self)):
            low, high = getattr(notes[0], "min", None), getattr(notes[0], "max", None)
            check_bounds("--" + name.replace("_", "-"), getattr(self, name), low, high)

    def suggest(self, result: str) -> tuple[list[Path], list[str]]:
        """Say what to look at first once the command is done, and which comes next.

        Args:
            result: What the command printed as its result.

        Returns:
            Files, of which those that are there are named; and the words of a command.
        """
        return [], []

    def list_results(self, result: str) -> list[Path]:
        """List the files by whose times `make` sees that a command is done; none where it is not.

        Args:
            result: What the command printed as its result.
        """
        out = getattr(self, "out", None)
        partly = getattr(self, "shard", None) is not None or getattr(self, "dry_run", False)
        return [] if out is None or partly else [out / name for name in self.result_names]

    def list_sources(self) -> list[Path]:
        """List the files and folders that the options name and the command reads.

        Roots are left out: more lies there than is read.
        """
        values = [self.config, *(getattr(self, name, None) for name in SOURCES)]
        names = [it for value in values for it in (value if isinstance(value, list) else [value])]
        return [Path(name) for name in names if name is not None and Path(name).exists()]

    @classmethod
    def name_command(cls) -> str:
        """Name the command whose options these are."""
        return cls.__name__.removesuffix("Config").lower()

    @classmethod
    def name_run_only(cls) -> frozenset[str]:
        """Name the options with another value of which an output may be continued."""
        marked = [name for name, notes in list_options(cls) if isinstance(notes[-1], Mark)]
        return frozenset(marked)

    def settings(self) -> dict[str, Any]:
        """Return the flat table that `--config` reads: no unset options, paths as text.

        What belongs to one call is left out; so all parts of an output have the same settings.
        """
        table: dict[str, Any] = {}
        for name, notes in list_options(type(self)):
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                value = [str(item) if isinstance(item, Path) else item for item in value]
            if notes[-1] != ONE_CALL and value is not None:
                table[name] = str(value) if isinstance(value, Path) else value
        return table

    def name_less_memory(self, full: str) -> str:
        """Name the options that would take less memory than this call took.

        Args:
            full: Whose memory was full, `GPU` or `machine`.
        """
        hints = [
            text
            for name, helps, text in self.less_memory
            if (helps is None or getattr(self, name) in helps)
            and (full == "GPU" or name != "offload")  # which fills the machine's
        ]
        if full == "GPU":
            hints.append("--device cpu")
        return " or ".join(part for part in (", ".join(hints[:-1]), *hints[-1:]) if part) or (
            "more memory"
        )

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options without effect in some calls: whether this is one, why, and which."""
        return []

    def refuse_idle(self, typed: Collection[str] = ()) -> None:
        """Refuse a given option that has no effect in this call.

        An option is given if it has another value than its default, unless that stands in the
        settings file, which may be for other calls too.

        Args:
            typed: Names of options that stand on the command line, given whatever their values.

        Raises:
            ConfigError: Names the option, and why it has no effect.
        """
        defaults = {field.name: field.default for field in fields(self)}
        idle = [(name, why) for applies, why, names in self.list_idle() if applies
                for name in names.split()]  # fmt: skip
        for name, why in idle:
            value, option = getattr(self, name), "--" + name.replace("_", "-")
            given = value != defaults[name] and value != self.find_in_file(name)
            if name in typed or given:
                raise ConfigError(f"{option}: has no effect {why}; leave it out")

    def find_in_file(self, name: str) -> object:
        """Return what the settings file says of an option; None where it says nothing."""
        file = read_settings(self.config, type(self)) if self.config else {}
        return file.get(name, file.get(name.replace("_", "-")))

    def _check_roots(self, *names: str) -> None:
        """Refuse a root for a set that is not there."""
        for name in names:
            if getattr(self, f"{name}_root") is not None and getattr(self, name) is None:
                raise ConfigError(f"--{name}-root: needs --{name}, which is missing")

    def _refuse_zero(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) == 0:
                raise ConfigError(f"--{name.replace('_', '-')} 0 would train nothing")

    def _check_resolution(self, resolution: int | None) -> None:
        if resolution is not None and resolution % 8:
            raise ConfigError(f"--resolution must be a multiple of 8, 16 or more, got {resolution}")


def refuse_twice(option: str, values: Sequence[str] | None) -> None:
    """Refuse a repeatable option that names one thing twice.

    Raises:
        ConfigError: It does.
    """
    if values is not None and len(set(values)) < len(values):
        raise ConfigError(f"{option}: one is named twice")


def check_bounds(option: str, value: object, low: float | None, high: float | None) -> None:
    """Check a number, or nothing else, by the bounds of its option; NaN is refused as well.

    Raises:
        ConfigError: It is beyond one.
    """
    if not isinstance(value, int | float):
        return
    if low is not None and not value >= low:
        raise ConfigError(f"{option} must be {low} or more, got {value}")
    if high is not None and not value <= high:
        raise ConfigError(f"{option} must be {high} or less, got {value}")


def list_options(kind: type[CommonConfig]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """List the options of a command with what stands beside the type of each: option, mark."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        yield field.name, getattr(hints[field.name], "__metadata__", (None,))
