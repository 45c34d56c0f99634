"""The options of `medart evaluate`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

from typer import Argument, Option

from medart_cli.errors import ConfigError
from medart_cli.options import (
    MORE_THAN_ONE,
    ONE_CALL,
    RUN_ONLY,
    AllowSynthetic,
    CommonConfig,
    Folders,
    Hint,
    complete_features,
    parse_levels,
    parse_shard,
)

_output_option = partial(Option, rich_help_panel="Output")
_data_option = partial(Option, rich_help_panel="Data")
_measures_option = partial(Option, rich_help_panel="Measures")
_copies_option = partial(Option, rich_help_panel="Copies")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CommonConfig):
    """Measure how close synthetic images are to real ones, and whether they copy them.

    Writes metrics.json, copies.jsonl, plots and report.html. Several sets are ranked in one table.
    """

    less_memory: ClassVar[tuple[Hint, ...]] = (
        ("batch_size", MORE_THAN_ONE, "a smaller --batch-size"),
        ("precision", ("auto", "fp32"), "--precision bf16"),  # its auto is fp32
    )

    real: Annotated[
        str, Argument(help="Real images: folder, manifest, or - for one on standard input.")
    ]
    synthetic: Annotated[
        list[str], Argument(help="One synthetic set or several: folders or manifests.")
    ]
    out: Annotated[Path, _output_option(help="Report folder to write."), RUN_ONLY]
    overwrite: Annotated[
        bool,
        _output_option("--overwrite", help="Start anew where the report folder is not empty."),
        ONE_CALL,
    ] = False

    root: Annotated[
        Path | None,
        _data_option(
            help="Folder that file names of REAL are relative to; they may then be absolute."
        ),
        RUN_ONLY,
    ] = None
    synthetic_root: Annotated[
        list[Path] | None,
        _data_option(
            help="Folder that file names of a synthetic set are relative to (repeatable: one for "
            "all sets, or one for each, in order)."
        ),
        RUN_ONLY,
    ] = None
    holdout_root: Annotated[
        Path | None,
        _data_option(help="Folder that file names of --holdout are relative to."),
        RUN_ONLY,
    ] = None
    folders: Folders = None
    allow_synthetic: AllowSynthetic = False
    per_label: Annotated[
        bool, _data_option("--per-label/--overall", help="Measure each label by itself as well.")
    ] = True
    batch_size: Annotated[
        int, _data_option(help="Images in one pass of a network.", min=1), RUN_ONLY
    ] = 32
    workers: Annotated[
        int, _data_option(help="Threads that read images ahead; 0 for none.", min=0), RUN_ONLY
    ] = 2
    cache: Annotated[
        Path | None, _data_option(help="Folder for features; medart's cache by default."), RUN_ONLY
    ] = None
    shard: Annotated[
        str | None,
        _data_option(
            help="Only compute the features of part I/N of the images, as 2/3, for job arrays; "
            "then the same command without --shard finds all in the cache, and measures."
        ),
        ONE_CALL,
    ] = None

    features: Annotated[
        list[str] | None,
        _measures_option(
            autocompletion=complete_features,
            help="Network (repeatable): inception, efficientnet-lite0, dinov2, a folder that "
            "medart classify wrote, any image model of transformers or timm. By default inception "
            "where its weights are, else efficientnet-lite0.",
        ),
    ] = None
    inception: Annotated[
        Path | None,
        _measures_option(
            help="File inception-2015-12-05.pt or its folder; medart's cache by default."
        ),
    ] = None
    bootstrap: Annotated[
        int, _measures_option(help="Resamples of a 95% interval; 0 for no intervals.", min=0)
    ] = 200
    floor_repeats: Annotated[
        int, _measures_option(help="Random splits of the real set for its floor.", min=1)
    ] = 10

    copies: Annotated[
        bool, _copies_option("--copies/--no-copies", help="Look for near-copies of real images.")
    ] = True
    holdout: Annotated[
        str | None,
        _copies_option(
            help="Real images that were not trained on, to set the threshold of copies; by default "
            "each real image is held against the others."
        ),
    ] = None
    copy_rate: Annotated[
        float,
        _copies_option(help="Share of unseen real images that may be taken for copies.", min=0),
    ] = 0.01
    fail_on_copies: Annotated[
        float | None,
        _copies_option(
            help="Exit with code 1 if more than this share of a set are near-copies.", min=0
        ),
        RUN_ONLY,
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        parse_shard(self.shard)
        if self.shard is not None and self.overwrite:
            raise ConfigError("--shard: goes without --overwrite")
        if [self.real, self.holdout, *self.synthetic].count("-") > 1:
            raise ConfigError("only one of the sets can be -, standard input")
        if not 0 < self.copy_rate < 1:
            raise ConfigError(f"--copy-rate must be between 0 and 1, got {self.copy_rate}")
        if self.fail_on_copies is not None and not self.copies:
            raise ConfigError("--fail-on-copies needs --copies")
        self._check_roots("holdout")
        if len(self.synthetic_root or ()) not in (0, 1, len(self.synthetic)):
            raise ConfigError(
                f"--synthetic-root: is given {len(self.synthetic_root or ())} times for "
                f"{len(self.synthetic)} synthetic sets; give it once for all, or once for each"
            )
        if len(set(self.synthetic)) < len(self.synthetic):
            raise ConfigError("a synthetic set is named twice")
        if self.features is not None and len(set(self.features)) < len(self.features):
            raise ConfigError("--features: one is named twice")
        if self.bootstrap and self.bootstrap < 20:
            raise ConfigError(f"--bootstrap must be 0, or 20 or more, got {self.bootstrap}")

    @property
    def synthetic_roots(self) -> list[Path | None]:
        """The root of each synthetic set; None for that of its own manifest."""
        named = list(self.synthetic_root or ())
        if len(named) == 1:
            return [*named] * len(self.synthetic)
        return [*named] or [None] * len(self.synthetic)
