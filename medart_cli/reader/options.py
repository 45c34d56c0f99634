"""The options of `medart reader`."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from medart_cli.errors import ConfigError
from medart_cli.options import (
    ONE_CALL,
    RUN_ONLY,
    AllowSynthetic,
    CommonConfig,
    Folders,
    parse_levels,
)

_output_option = partial(Option, rich_help_panel="Output")
_data_option = partial(Option, rich_help_panel="Data")
_kit_option = partial(Option, rich_help_panel="Kit")

# Options that count where answers are scored.
SCORING = "real synthetic answers out overwrite config seed offline json quiet verbose"
UNUSED = "device precision"  # no model is loaded


@dataclass(frozen=True, kw_only=True)
class ReaderConfig(CommonConfig):
    """Prepare a blinded reader study, real or synthetic, and score the readers' answers.

    REAL SYNTHETIC --out KIT writes KIT/reader.html, one offline page for the readers, and
    KIT/key.json, which they must not see. KIT --answers FILES scores the files that readers saved
    on the page: accuracy, sensitivity for synthetic, specificity, agreement, and a verdict.
    """

    real: Annotated[
        str,
        Argument(
            help="Real images: image folder, manifest, or - for a manifest on standard input; "
            "with --answers the kit folder."
        ),
    ]
    synthetic: Annotated[
        list[str] | None,
        Argument(
            help="Synthetic images: one image folder or manifest; with --answers more answer "
            "files, so that --answers *.json takes all of them."
        ),
    ] = None
    answers: Annotated[
        list[Path] | None,
        _data_option(help="Answer file that a reader saved on the page of the kit (repeatable)."),
        RUN_ONLY,
    ] = None
    out: Annotated[
        Path | None,
        _output_option(help="Output folder; with --answers by default KIT/results."),
        RUN_ONLY,
    ] = None
    overwrite: Annotated[
        bool,
        _output_option(
            "--overwrite", help="Delete the contents of the output folder and start over."
        ),
        ONE_CALL,
    ] = False

    root: Annotated[
        Path | None,
        _data_option(
            help="Folder that file names of REAL are relative to; also allows absolute file names."
        ),
        RUN_ONLY,
    ] = None
    synthetic_root: Annotated[
        Path | None,
        _data_option(help="Folder that file names of SYNTHETIC are relative to."),
        RUN_ONLY,
    ] = None
    folders: Folders = None
    allow_synthetic: AllowSynthetic = False

    count: Annotated[
        int,
        _kit_option(
            help="Images of each kind, real and synthetic, as evenly over the labels as they "
            "allow; fewer if a set has fewer.",
            min=2,
        ),
    ] = 50
    image_size: Annotated[
        int | None,
        _kit_option(
            help="Side of all images on the page, pixels; by default the shortest side of any of "
            "them, at most 512, so that none is scaled up.",
            min=16,
            max=2048,
        ),
    ] = None
    crop: Annotated[
        Literal["center", "pad"],
        _kit_option(help="How images are made square; use what finetune used."),
    ] = "center"
    encoding: Annotated[
        Literal["png", "jpeg"],
        _kit_option(help="How all images are encoded on the page; jpeg makes a smaller page."),
    ] = "png"

    def suggest(self, result: str) -> tuple[list[Path], list[str]]:
        """Say what to look at first, and which command comes next."""
        if self.answers is not None:
            return [Path(result) / "report.html"], []
        words = ["reader", result, "--answers", "ANSWERS.json"]  # which a reader saves on the page
        return [Path(result) / "reader.html"], words

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        others = self.synthetic or []
        if self.answers is None and len(others) != 1:
            raise ConfigError(
                f"needs REAL and one SYNTHETIC set, got {1 + len(others)}; to score a kit, give "
                "its folder and --answers"
            )
        if self.answers is None and self.out is None:
            raise ConfigError("--out: missing; name the folder for the kit")
        if self.answers is None and [self.real, *others].count("-") > 1:
            raise ConfigError("only one of the sets can be -, standard input")

    @property
    def answer_files(self) -> list[Path]:
        """The answer files; a shell writes `--answers *.json` as one of them and more words."""
        return [*(self.answers or ()), *map(Path, self.synthetic or ())]

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options that have no effect in some calls."""
        others = {field.name for field in fields(self)} - {*SCORING.split(), *UNUSED.split()}
        return [
            (True, "here", UNUSED),
            (self.answers is not None, "with --answers", " ".join(sorted(others))),
        ]
