"""The options of `medart evaluate`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

from typer import Argument, Option

from medart_cli.errors import ConfigError
from medart_cli.models.offload import BY_LAYERS, OffloadName, check_offload
from medart_cli.options import (
    MORE_THAN_ONE,
    ONE_CALL,
    RUN_ONLY,
    AllowSynthetic,
    Classes,
    CommonConfig,
    Folders,
    Hint,
    complete_features,
    complete_profile,
    parse_levels,
    parse_shard,
    refuse_twice,
)

_output_option = partial(Option, rich_help_panel="Output")
_data_option = partial(Option, rich_help_panel="Data")
_measures_option = partial(Option, rich_help_panel="Metrics")
_copies_option = partial(Option, rich_help_panel="Near-copies")
_contents_option = partial(Option, rich_help_panel="Contents")
_training_option = partial(Option, rich_help_panel="Training images")

MEMBERS = 256  # images a side whose loss is compared, where no option says otherwise


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CommonConfig):
    """Measure how close synthetic images are to real ones, and whether they copy them.

    Writes metrics.json, copies.jsonl, plots and report.html. Several synthetic sets are ranked in
    one table.
    """

    result_names: ClassVar[tuple[str, ...]] = ("metrics.json", "report.html")
    less_memory: ClassVar[tuple[Hint, ...]] = (
        ("batch_size", MORE_THAN_ONE, "a smaller --batch-size"),
        ("offload", ("none",), f"--offload {BY_LAYERS} (with --run)"),
        ("precision", ("auto", "fp32"), "--precision bf16"),  # its auto is fp32
    )

    real: Annotated[
        str,
        Argument(
            help="Real images: image folder, manifest, or - for a manifest on standard input."
        ),
    ]
    synthetic: Annotated[
        list[str], Argument(help="One or more synthetic sets: image folders or manifests.")
    ]
    out: Annotated[Path, _output_option(help="Output folder for the report."), RUN_ONLY]
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
        list[Path] | None,
        _data_option(
            help="Folder that file names of a synthetic set are relative to (repeatable: one for "
            "all sets, or one per set, in order)."
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
        bool, _data_option("--per-label/--overall", help="Also compute metrics per label.")
    ] = True
    batch_size: Annotated[int, _data_option(help="Per-device batch size.", min=1), RUN_ONLY] = 32
    workers: Annotated[
        int, _data_option(help="Data-loading threads; 0 loads in the main thread.", min=0), RUN_ONLY
    ] = 2
    cache: Annotated[
        Path | None,
        _data_option(help="Cache folder for features; medart's cache by default."),
        RUN_ONLY,
    ] = None
    shard: Annotated[
        str | None,
        _data_option(
            help="Only compute the features of shard I/N of the images, such as 2/3, for job "
            "arrays; then the same command without --shard reads all from the cache and "
            "computes the metrics."
        ),
        ONE_CALL,
    ] = None

    features: Annotated[
        list[str] | None,
        _measures_option(
            autocompletion=complete_features,
            help="Feature network (repeatable): inception, efficientnet-lite0, dinov2, a folder "
            "that medart classify wrote, any image model of transformers or timm. By default "
            "inception if its weights are found, else efficientnet-lite0.",
        ),
    ] = None
    inception: Annotated[
        Path | None,
        _measures_option(
            help="Inception weights: inception-2015-12-05.pt or its folder; medart's cache by "
            "default."
        ),
    ] = None
    bootstrap: Annotated[
        int,
        _measures_option(
            help="Bootstrap resamples for 95% confidence intervals; 0 for none.", min=0
        ),
    ] = 200
    floor_repeats: Annotated[
        int,
        _measures_option(
            help="Random splits of the real set for the real-vs-real baseline (floor).", min=1
        ),
    ] = 10

    by: Annotated[
        list[str] | None,
        _measures_option(
            help="Also measure subgroups of the real images by this key of their rows, such as "
            "sex, site or age (repeatable); numbers of many values are cut at their quartiles."
        ),
    ] = None

    copies: Annotated[
        bool,
        _copies_option(
            "--copies/--no-copies", help="Detect near-copies of real images (memorization)."
        ),
    ] = True
    holdout: Annotated[
        str | None,
        _copies_option(
            help="Real images not used for training, to set the near-copy threshold; by default "
            "each real image is compared with the others (leave-one-out)."
        ),
    ] = None
    copy_rate: Annotated[
        float,
        _copies_option(
            help="Maximum false-positive rate of near-copy detection on unseen real images.", min=0
        ),
    ] = 0.01
    fail_on_copies: Annotated[
        float | None,
        _copies_option(
            help="Exit with code 1 if more than this fraction of a set are near-copies.", min=0
        ),
        RUN_ONLY,
    ] = None

    classifier: Annotated[
        Path | None,
        _contents_option(
            help="Do synthetic images show their class? Folder that medart classify wrote: the "
            "share of synthetic images that it puts in their class, beside that of real ones (of "
            "REAL and --holdout) that it has not seen."
        ),
    ] = None
    captioner: Annotated[
        str | None,
        _contents_option(
            help="Do synthetic images show their caption? Folder or hub id of an "
            "image-text-to-text model, or tiny: captions synthetic and real images again, and "
            "compares the attributes."
        ),
    ] = None
    captions: Annotated[
        int,
        _contents_option(help="Images of each set to caption again, at random.", min=10),
    ] = 200
    profile: Annotated[
        str | None,
        _contents_option(
            autocompletion=complete_profile,
            help="Modality profile of the new captions: packaged name or TOML file; by default "
            "that of the captions of REAL, else generic.",
        ),
    ] = None
    classes: Classes = None
    training: Annotated[
        str | None,
        _training_option(
            help="The images that the model was trained on (rows of split train, or none). "
            "Near-copies are then searched among them, and REAL sets the threshold unless "
            "--holdout is given."
        ),
    ] = None
    training_root: Annotated[
        Path | None,
        _training_option(help="Folder that file names of --training are relative to."),
        RUN_ONLY,
    ] = None
    run: Annotated[
        str | None,
        _training_option(
            help="Run folder that drew a synthetic set, or one of its checkpoints: tests whether "
            "its weights tell which images they were trained on (membership). --training is by "
            "default the run's own data."
        ),
    ] = None
    base: Annotated[
        str | None,
        _training_option(
            help="Base model of --run, if it has moved: a folder or a hub id. Its weights must be "
            "the same."
        ),
        RUN_ONLY,
    ] = None
    member_count: Annotated[
        int | None,
        _training_option(
            help="Maximum number of training images, and of held-out images, whose loss is "
            "compared for membership; 256 by default.",
            min=2,
        ),
    ] = None
    offload: Annotated[
        OffloadName,
        _training_option(
            help="What is kept in the machine's memory instead of the GPU's while the captions are "
            "read that the weights are tested with: text-encoder-layers, the weights of the run's "
            "text encoder, of which the GPU gets a layer at a time; text-encoder, all of it, which "
            "then runs on the CPU."
        ),
        RUN_ONLY,
    ] = "none"

    def suggest(self, result: str) -> tuple[list[Path], list[str]]:
        """Say what to look at first, and which command comes next."""
        words = ["classify", self.training or self.real, "--synthetic", self.synthetic[0]]
        words += ["--test", self.real] if self.training else []  # those were not trained on
        words += ["--out", "classifier"]
        return [Path(result) / "report.html"], words if self.shard is None else []

    def __post_init__(self) -> None:
        super().__post_init__()
        check_offload(self.offload, self.precision)
        parse_levels(self.folders)
        parse_shard(self.shard)
        if self.shard is not None and self.overwrite:
            raise ConfigError("--shard: cannot be used with --overwrite")
        if [self.real, self.holdout, self.training, *self.synthetic].count("-") > 1:
            raise ConfigError("only one of the sets can be -, standard input")
        if not 0 < self.copy_rate < 1:
            raise ConfigError(f"--copy-rate must be between 0 and 1, got {self.copy_rate}")
        if self.fail_on_copies is not None and not self.copies:
            raise ConfigError("--fail-on-copies needs --copies")
        self._check_roots("holdout", "training")
        if len(self.synthetic_root or ()) not in (0, 1, len(self.synthetic)):
            raise ConfigError(
                f"--synthetic-root: is given {len(self.synthetic_root or ())} times for "
                f"{len(self.synthetic)} synthetic sets; give it once for all, or once per set"
            )
        if len(set(self.synthetic)) < len(self.synthetic):
            raise ConfigError("a synthetic set is named twice")
        refuse_twice("--features", self.features)
        refuse_twice("--by", self.by)
        if self.bootstrap and self.bootstrap < 20:
            raise ConfigError(f"--bootstrap must be 0, or 20 or more, got {self.bootstrap}")

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options that have no effect in some calls."""
        asks = "captions profile classes"
        alone = "with --shard, which computes features alone"
        nothing = not self.copies and self.run is None
        return [
            (self.captioner is None, "without --captioner", asks),
            (self.shard is not None, alone, f"captioner {asks}"),
            (self.run is None, "without --run", "base member_count offload"),
            (nothing, "with --no-copies and without --run", "training training_root"),
        ]

    @property
    def synthetic_roots(self) -> list[Path | None]:
        """The root of each synthetic set; None for that of its own manifest."""
        named = list(self.synthetic_root or ())
        if len(named) == 1:
            return [*named] * len(self.synthetic)
        return [*named] or [None] * len(self.synthetic)
