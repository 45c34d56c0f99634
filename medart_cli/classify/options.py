"""The options of `medart classify`."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

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
    complete_profile,
    parse_levels,
    refuse_twice,
)

_output_option = partial(Option, rich_help_panel="Output")
_data_option = partial(Option, rich_help_panel="Data")
_training_option = partial(Option, rich_help_panel="Training")
_regimes_option = partial(Option, rich_help_panel="Regimes")

REGIMES = ("real", "control", "synthetic", "mix", "pretrain")
BASELINES = ("real", "control")  # regimes of real images alone: who is better is better than both
# Options that classify looks at where it only predicts.
PREDICTION = (
    "data out overwrite checkpoint root folders batch_size workers "
    "config device offline max_failures json quiet verbose"
)
# Options of a training with optimizer steps.
FINE_TUNING = (
    "equal epochs learning_rate weight_decay label_smoothing val_fraction patience augment profile "
    "precision"
)


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(CommonConfig):
    """Train classifiers with and without synthetic images and test all on the same real images.

    With --checkpoint it only predicts. Run the same command again to resume. Options that have no
    effect in a call are rejected.
    """

    result_names: ClassVar[tuple[str, ...]] = ("metrics.json", "report.html", "predictions.jsonl")
    less_memory: ClassVar[tuple[Hint, ...]] = (
        ("batch_size", MORE_THAN_ONE, "a smaller --batch-size"),
        ("precision", ("fp32",), "--precision bf16"),
        ("image_size", None, "a smaller --image-size"),
        ("freeze", (False,), "--freeze"),
    )

    data: Annotated[
        str,
        Argument(help="Labeled real training images (with --checkpoint: images to predict)."),
        RUN_ONLY,
    ]
    out: Annotated[
        Path, _output_option(help="Output folder for the classifier and its results."), RUN_ONLY
    ]
    overwrite: Annotated[
        bool,
        _output_option(
            "--overwrite", help="Delete the contents of the output folder and start over."
        ),
        ONE_CALL,
    ] = False
    checkpoint: Annotated[
        Path | None,
        _output_option(help="Only predict, with the classifier in this folder."),
        RUN_ONLY,
    ] = None

    test: Annotated[
        str | None,
        _data_option(
            help="Labeled real test images. By default the rows with split test, else a "
            "stratified subset of the training images."
        ),
        RUN_ONLY,
    ] = None
    synthetic: Annotated[
        str | None,
        _data_option(help="Labeled synthetic images, as medart sample writes them."),
        RUN_ONLY,
    ] = None
    run: Annotated[
        list[str] | None,
        _data_option(
            help="Run folder that generated the synthetic images, for its list of training images "
            "(repeatable)."
        ),
        RUN_ONLY,
    ] = None
    root: Annotated[
        Path | None, _data_option(help="Folder that file names of DATA are relative to."), RUN_ONLY
    ] = None
    synthetic_root: Annotated[
        Path | None,
        _data_option(help="Folder that file names of --synthetic are relative to."),
        RUN_ONLY,
    ] = None
    test_root: Annotated[
        Path | None,
        _data_option(help="Folder that file names of --test are relative to."),
        RUN_ONLY,
    ] = None
    workers: Annotated[
        int, _data_option(help="Data-loading threads; 0 loads in the main thread.", min=0), RUN_ONLY
    ] = 2
    cache: Annotated[
        Path | None,
        _data_option(help="Cache folder for features; medart's cache by default."),
        RUN_ONLY,
    ] = None
    folders: Folders = None
    allow_synthetic: AllowSynthetic = False
    test_fraction: Annotated[
        float,
        _data_option(help="Fraction of images to test on if no test set is given.", min=0, max=1),
    ] = 0.2
    duplicates: Annotated[
        Literal["drop", "refuse"],
        _data_option(
            help="What to do with training images that are also in the test set, byte-identical "
            "or re-encoded, scaled, mirrored or rotated."
        ),
    ] = "drop"
    allow_leak: Annotated[
        bool,
        _data_option(
            "--allow-leak",
            help="Continue despite leakage: a generator trained on test images, or on images "
            "outside --label-budget; the results note it.",
        ),
    ] = False

    regimes: Annotated[
        str | None,
        _regimes_option(
            help="Training regimes, comma-separated: real, control, synthetic, mix, pretrain; by "
            "default all that the other options allow."
        ),
        RUN_ONLY,
    ] = None
    equal: Annotated[
        Literal["steps", "epochs"],
        _regimes_option(
            help="What is equal across regimes. steps: all take the optimizer steps of mix, and "
            "control is real with that many; epochs: each trains --epochs epochs on its own "
            "images."
        ),
    ] = "steps"
    ratio: Annotated[
        float | None,
        _regimes_option(help="Synthetic images per real image in mix; all by default.", min=0),
    ] = None
    label_budget: Annotated[
        int | None,
        _regimes_option(help="Real training images per class; all by default.", min=1),
    ] = None
    seeds: Annotated[
        int | None,
        _regimes_option(
            help="Training seeds per regime; 5 by default, 1 with --freeze and no --label-budget "
            "or --ratio.",
            min=1,
        ),
        RUN_ONLY,
    ] = None
    by: Annotated[
        list[str] | None,
        _regimes_option(
            help="Also compare subgroups of the test images by this key of their rows, such as "
            "sex, site or age (repeatable); numbers of many values are cut at their quartiles."
        ),
        RUN_ONLY,
    ] = None
    bootstrap: Annotated[
        int,
        _regimes_option(
            help="Bootstrap resamples of the test images for confidence intervals of differences.",
            min=100,
        ),
        RUN_ONLY,
    ] = 2000

    backbone: Annotated[
        str,
        _training_option(
            help="Backbone: efficientnet-lite0 (bundled), timm:NAME, a hub id, or a folder."
        ),
    ] = "efficientnet-lite0"
    freeze: Annotated[
        bool,
        _training_option(
            "--freeze",
            help="Linear probe: train only the last layer, on fixed features; seconds on a CPU.",
        ),
    ] = False
    image_size: Annotated[
        int | None,
        _training_option(
            help="Input resolution (side in pixels); the backbone's by default. 128 is fast on a "
            "CPU.",
            min=32,
        ),
    ] = None
    profile: Annotated[
        str,
        _training_option(
            autocompletion=complete_profile,
            help="Modality profile, which decides whether flips are allowed: packaged name or "
            "TOML file.",
        ),
    ] = "generic"
    augment: Annotated[
        bool, _training_option("--augment/--no-augment", help="Data augmentation during training.")
    ] = True
    balance: Annotated[
        Literal["weights", "sampling", "none"],
        _training_option(help="Class balancing: loss weights or oversampling."),
    ] = "weights"
    epochs: Annotated[int, _training_option(help="Training epochs.", min=1)] = 15
    batch_size: Annotated[int, _training_option(help="Batch size.", min=1)] = 32
    learning_rate: Annotated[
        float, _training_option(help="Peak learning rate of AdamW.", min=0)
    ] = 3e-4
    weight_decay: Annotated[float, _training_option(help="Weight decay of AdamW.", min=0)] = 0.05
    label_smoothing: Annotated[
        float,
        _training_option(help="Label smoothing, against overconfidence.", min=0),
    ] = 0.1
    val_fraction: Annotated[
        float,
        _training_option(
            help="Fraction of training images held out for validation (early stopping), if that "
            "gives at least 10 per class; 0 for none.",
            min=0,
            max=0.5,
        ),
    ] = 0.15
    patience: Annotated[
        int,
        _training_option(
            help="Early stopping patience: epochs without a better validation score.", min=1
        ),
    ] = 5

    def suggest(self, result: str) -> tuple[list[Path], list[str]]:
        """Say what to look at first, and which command comes next."""
        return [Path(result) / "report.html"], []

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"--test-fraction must be between 0 and 1, got {self.test_fraction}")
        if self.label_smoothing >= 1:
            raise ConfigError(f"--label-smoothing must be below 1, got {self.label_smoothing}")
        self._refuse_zero("learning_rate")
        if self.ratio == 0:
            raise ConfigError("--ratio 0: leaves no synthetic image to mix; use --regimes real")
        if self.freeze and self.balance == "sampling":
            raise ConfigError("--balance sampling: nothing is sampled with --freeze; use weights")
        if [self.data, self.test, self.synthetic].count("-") > 1:
            raise ConfigError("only one of the sets can be -, standard input")
        self._check_roots("test", "synthetic")
        refuse_twice("--by", self.by)
        self._check_regimes()

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options that have no effect in some calls."""
        predicts, frozen, regimes = self.checkpoint is not None, self.freeze, self.chosen_regimes
        one_seed = "with --freeze, where all seeds give the same without --label-budget or --ratio"
        unmixed = "mix" not in regimes and (frozen or self.equal == "epochs")
        others = {field.name for field in fields(self)} - {*PREDICTION.split()}
        return [
            (predicts, "with --checkpoint, which only predicts", " ".join(sorted(others))),
            (frozen, "with --freeze, which fits the last layer in one go", FINE_TUNING),
            (frozen and self._draws_nothing, one_seed, "seeds"),
            (self.synthetic is None, "without --synthetic", "run allow_leak ratio equal"),
            (len(regimes) < 2, "where no regimes are compared", "bootstrap"),
            (unmixed, "without the regime mix", "ratio"),
            (self.test is not None, "with --test", "test_fraction"),
            (not self.val_fraction, "with --val-fraction 0", "patience"),
            (not self.augment, "with --no-augment", "profile"),
        ]

    def _check_regimes(self) -> None:
        chosen = self.chosen_regimes
        for name in chosen:
            if name not in REGIMES:
                raise ConfigError(f"--regimes {name}: there are {', '.join(REGIMES)}")
            if name != "real" and self.synthetic is None:
                raise ConfigError(f"--regimes {name}: needs --synthetic")
        if len(set(chosen)) < len(chosen):
            raise ConfigError(f"--regimes {self.regimes}: names one twice")
        if "control" in chosen and (self.freeze or self.equal == "epochs"):
            raise ConfigError(
                "--regimes control: has no effect with --freeze, since a last layer fitted to "
                "repeated images is the same; leave out one of the two"
                if self.freeze
                else "--regimes control: is real with equal steps; leave out --equal epochs"
            )
        if self.freeze and "pretrain" in chosen:
            raise ConfigError(
                "--regimes pretrain: has no effect with --freeze, since a linear probe ends at the "
                "same weights whatever it starts from; leave out one of the two"
            )

    @property
    def chosen_regimes(self) -> list[str]:
        """The regimes to train: those named, or all that make sense.

        Where regimes with synthetic images are compared with `real`, `control` is one of them.
        """
        controlled = self.equal == "steps" and not self.freeze
        if self.regimes is not None:
            named = [name.strip() for name in self.regimes.split(",")]
            if controlled and "control" not in named and "real" in named and len(named) > 1:
                named.insert(named.index("real") + 1, "control")
            return named
        if self.synthetic is None:
            return ["real"]
        left_out = {"pretrain", "control"} if self.freeze else set()
        left_out |= set() if controlled else {"control"}
        return [name for name in REGIMES if name not in left_out]

    @property
    def chosen_seeds(self) -> list[int]:
        """The seeds of the trainings; one alone where nothing in a training depends on it."""
        count = self.seeds or (1 if self.freeze and self._draws_nothing else 5)
        return list(range(self.seed, self.seed + count))

    @property
    def _draws_nothing(self) -> bool:
        return self.label_budget is None and self.ratio is None
