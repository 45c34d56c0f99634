"""The options of `medart study`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from medart_cli.errors import ConfigError
from medart_cli.options import (
    ONE_CALL,
    RUN_ONLY,
    AllowSynthetic,
    CommonConfig,
    Folders,
    parse_levels,
    parse_shard,
)

_output_option = partial(Option, rich_help_panel="Output")
_data_option = partial(Option, rich_help_panel="Data")
_arms_option = partial(Option, rich_help_panel="Arms")
_commands_option = partial(Option, rich_help_panel="Commands")

DEFAULT_ARMS = "before,lora,hldf,score,frozen,simple,dora"


@dataclass(frozen=True, kw_only=True)
class StudyConfig(CommonConfig):
    """Compare ways to fine-tune on your own images: the paper's ablation, with several seeds.

    Each arm and seed is one unit: finetune, sample, evaluate and classify, in a folder of its own.
    Writes report.html, study.json, table.csv, .tex and .md, and methods.md. Run the same command
    again to resume; --shard runs the units as a job array.
    """

    data: Annotated[
        str,
        Argument(help="Real images to train on, with captions: image folder or manifest."),
        RUN_ONLY,
    ]
    out: Annotated[
        Path, _output_option(help="Output folder for all units and the report."), RUN_ONLY
    ]
    overwrite: Annotated[
        bool,
        _output_option(
            "--overwrite", help="Delete the contents of the output folder and start over."
        ),
        ONE_CALL,
    ] = False
    dry_run: Annotated[
        bool,
        _output_option(
            "--dry-run",
            help="Print all commands as a shell script and run none; only the manifests that they "
            "read are written.",
        ),
        ONE_CALL,
    ] = False

    test: Annotated[
        str | None,
        _data_option(
            help="Real images to test on: image folder or manifest. By default the rows with split "
            "test."
        ),
        RUN_ONLY,
    ] = None
    root: Annotated[
        Path | None, _data_option(help="Folder that file names of DATA are relative to."), RUN_ONLY
    ] = None
    test_root: Annotated[
        Path | None,
        _data_option(help="Folder that file names of --test are relative to."),
        RUN_ONLY,
    ] = None
    folders: Folders = None
    allow_synthetic: AllowSynthetic = False

    arms: Annotated[
        str,
        _arms_option(
            help="What is compared, comma-separated: before (no fine-tuning), lora, hldf (as "
            "published), score (HLDF with the color score), frozen (text encoder), simple "
            "(template captions), dora, full (all weights); or a TOML file with a table per arm.",
        ),
        RUN_ONLY,
    ] = DEFAULT_ARMS
    seeds: Annotated[
        int, _arms_option(help="Training seeds per arm; more can be added later.", min=1), RUN_ONLY
    ] = 3
    shard: Annotated[
        str | None,
        _arms_option(
            help="Run only shard I/N of the units, such as 2/3, for job arrays. When all shards "
            "are done, the same command without --shard writes the report."
        ),
        ONE_CALL,
    ] = None

    finetune: Annotated[
        str,
        _commands_option(
            help='Options of finetune for all arms, such as "--steps 2000 --rank 16".'
        ),
    ] = ""
    sample: Annotated[
        str, _commands_option(help='Options of sample, such as "--batch-size 16 --steps 15".')
    ] = ""
    evaluate: Annotated[
        str, _commands_option(help='Options of evaluate, such as "--features dinov2".')
    ] = ""
    classify: Annotated[
        str,
        _commands_option(
            help='Options of classify, such as "--freeze"; none leaves the classifiers out.'
        ),
    ] = "--seeds 1"

    def suggest(self, result: str) -> tuple[list[Path], list[str]]:
        """Say what to look at first; what comes next is the reader's own."""
        return [] if self.dry_run or self.shard else [Path(result)], []

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        parse_shard(self.shard)
        self._check_roots("test")
        if self.overwrite + self.dry_run + (self.shard is not None) > 1:
            raise ConfigError("only one of --shard, --overwrite and --dry-run can be given")
        if self.precision != "auto":
            raise ConfigError(
                "--precision: each command has its own; use --finetune, --sample, --evaluate or "
                '--classify, such as --sample "--precision bf16"'
            )
        if "-" in (self.data, self.test):
            raise ConfigError("-: a study reads its images many times; use a file")
