"""The options of `medart finetune`.

Those of training are here, those of HLDF in hldf.py, and those of data, output and model in
options_data.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from typer import Option

from medart_cli.errors import ConfigError
from medart_cli.finetune.hldf import HldfOptions, parse_every
from medart_cli.finetune.options_data import DataOptions
from medart_cli.models.offload import BY_LAYERS, OffloadName, check_offload
from medart_cli.models.optimizers import OPTIMIZERS, OptimizerName, check_rate
from medart_cli.options import MORE_THAN_ONE, RUN_ONLY, CommonConfig, Hint, parse_levels

_training_option = partial(Option, rich_help_panel="Training")
_val_option = partial(Option, rich_help_panel="Held-out loss")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(HldfOptions, DataOptions, CommonConfig):
    """Fine-tune a text-to-image model on captioned images: LoRA or full, with HLDF.

    HLDF, the color loss, is the hybrid-level diffusion fine-tuning of Med-Art (arXiv 2506.20449).
    Run the same command again to resume from the last checkpoint.
    """

    result_names: ClassVar[tuple[str, ...]] = ("run.json",)
    formerly: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "hldf_loss": "published",
            "hldf_statistics": "moments",
            "hldf_region": "image",
            "mask_weight": 1.0,
            "keep_best": False,
            "buckets": False,
        }
    )
    less_memory: ClassVar[tuple[Hint, ...]] = (
        ("gradient_checkpointing", (False,), "--gradient-checkpointing"),
        ("hldf_checkpoint", ("auto", "none", "block"), "--hldf-checkpoint step"),
        ("batch_size", MORE_THAN_ONE, "a smaller --batch-size"),
        ("offload", ("none",), f"--offload {BY_LAYERS} (of a frozen text encoder, not nf4)"),
        ("precision", ("fp32",), "--precision bf16"),
        ("base_format", (None,), "--base-format nf4 (under adapters)"),
        ("resolution", None, "a smaller --resolution"),
    )

    steps: Annotated[
        int | None, _training_option(help="Optimizer steps; overrides --epochs.", min=1)
    ] = None
    epochs: Annotated[float, _training_option(help="Training epochs.", min=0)] = 15.0
    batch_size: Annotated[int, _training_option(help="Per-device batch size.", min=1)] = 1
    accumulate: Annotated[int, _training_option(help="Gradient accumulation steps.", min=1)] = 1
    learning_rate: Annotated[
        float | None,
        _training_option(
            help="Peak learning rate; 1e-4 by default, 3e-5 with lion. With prodigy a factor of "
            "the rate that it finds itself, 1 by default.",
            min=0,
        ),
    ] = None
    lr_schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        _training_option(help="Learning rate schedule after warmup."),
    ] = "constant"
    warmup_steps: Annotated[int, _training_option(help="Linear warmup steps.", min=0)] = 0
    optimizer: Annotated[
        OptimizerName,
        _training_option(
            help="Optimizer; adamw8bit needs a GPU and bitsandbytes: pip install bitsandbytes; "
            "prodigy: pip install prodigyopt."
        ),
    ] = "adamw"
    weight_decay: Annotated[
        float, _training_option(help="Weight decay, decoupled: times the learning rate.", min=0)
    ] = 1e-2
    max_grad_norm: Annotated[
        float, _training_option(help="Gradient clipping norm; 0 for no clipping.", min=0)
    ] = 1.0
    timesteps: Annotated[
        Literal["uniform", "logit-normal"] | None,
        _training_option(
            help="Timestep sampling; by default the base model's own recipe (PixArt: uniform, "
            "SANA, PRX and FLUX.2-klein: logit-normal)."
        ),
    ] = None
    timestep_shift: Annotated[
        float | None,
        _training_option(
            help="Shift of sampled timesteps towards more noise; 1 for none, by default the base "
            "model's own.",
            min=0,
        ),
    ] = None
    caption_dropout: Annotated[
        float,
        _training_option(
            help="Caption dropout probability; classifier-free guidance relies on empty captions.",
            min=0,
            max=1,
        ),
    ] = 0.1
    min_snr: Annotated[
        float | None,
        _training_option(help="Gamma of min-SNR loss weighting; off by default.", min=0),
    ] = None
    mask_weight: Annotated[
        float,
        _training_option(
            help="Weight of the noise loss inside an image's mask (manifest key mask), relative to "
            "outside; the mean weight is 1.",
            min=0.01,
            max=1000,
        ),
    ] = 1.0
    ema: Annotated[
        float, _training_option(help="EMA decay of the weights; 0 for no EMA.", min=0)
    ] = 0.0
    gradient_checkpointing: Annotated[
        bool,
        _training_option(
            "--gradient-checkpointing",
            help="Activation checkpointing of transformer and text encoder blocks: less memory, "
            "slower.",
        ),
        RUN_ONLY,
    ] = False
    compile: Annotated[
        bool,
        _training_option(
            "--compile",
            help="Compile the transformer blocks (torch.compile): faster steps after a minute or "
            "more of compiling; same results to rounding.",
        ),
        RUN_ONLY,
    ] = False

    offload: Annotated[
        OffloadName,
        _training_option(
            help="What is kept in the machine's memory instead of the GPU's: text-encoder-layers, "
            "the weights of a frozen text encoder, of which the GPU gets a layer at a time; "
            "text-encoder, all of it, which then runs on the CPU: no GPU memory, but slow. A "
            "frozen text encoder runs only once for each caption."
        ),
        RUN_ONLY,
    ] = "none"
    fit: Annotated[
        int | None,
        _training_option(
            help="Fit a GPU of so many GB: choose activation checkpointing, batch size and "
            "offloading by the estimate of --dry-run; options that are given stay.",
            min=1,
        ),
        RUN_ONLY,
    ] = None

    val_fraction: Annotated[
        float | None,
        _val_option(
            help="Fraction of the training images to hold out, by patient (group_id) and of each "
            "label; rows of split val by default. They are not trained on.",
            min=0.01,
            max=0.5,
        ),
    ] = None
    val_every: Annotated[
        int | None,
        _val_option(
            help="Optimizer steps between measurements of the held-out loss; 0 for none. 200 by "
            "default, where images are held out.",
            min=0,
        ),
        RUN_ONLY,
    ] = None
    val_count: Annotated[
        int | None,
        _val_option(
            help="Maximum number of held-out images to measure; 64 by default. As many training "
            "images are measured with them.",
            min=1,
        ),
        RUN_ONLY,
    ] = None
    keep_best: Annotated[
        bool,
        _val_option(
            "--keep-best",
            help="The result is the checkpoint with the lowest held-out loss, not the last one.",
        ),
    ] = False

    def suggest(self, result: str) -> tuple[list[Path], list[str]]:
        """Say what to look at first, and which command comes next."""
        files = [self.out / "report.html"]
        words = ["sample", str(self.out), "--from", self.data, "--out", "synthetic"]
        return files, [] if self.dry_run or self.data == "-" else words

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        self._check_resolution(self.resolution)
        self._refuse_zero(
            "timestep_shift", "alpha", "min_snr", "epochs", "hldf_weight", "learning_rate"
        )
        if self.precision == "fp16":
            raise ConfigError("--precision fp16: overflows in text encoders; use bf16 or fp32")
        if self.offline and set(self.log_with or ()) - {"tensorboard"}:
            raise ConfigError("--log-with: with --offline only tensorboard, which stays local")
        if self.base_format is not None and self.method == "full":
            raise ConfigError(
                f"--base-format {self.base_format}: is for a frozen base under adapters; --method "
                "full trains its weights, leave one of them out"
            )
        if self.ema >= 1:
            raise ConfigError(f"--ema must be below 1, got {self.ema}")
        check_offload(self.offload, self.precision, self.base_format)
        if self.offload == BY_LAYERS and self.train_text_encoder:
            raise ConfigError(
                f"--offload {BY_LAYERS}: is for a frozen text encoder, since training would hold "
                "the layers on the GPU; add --freeze-text-encoder, or use --offload text-encoder"
            )
        moved = self.offload == "text-encoder" and self.train_text_encoder
        if moved and (self.ema or self.optimizer == "adamw8bit"):
            option = "--ema" if self.ema else "--optimizer adamw8bit"
            raise ConfigError(
                f"--offload text-encoder: trained on the CPU it cannot have {option}; leave that "
                "out, or add --freeze-text-encoder"
            )
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", OPTIMIZERS[self.optimizer].rate)
        check_rate(self.optimizer, self.peak_rate)
        self.check_hldf()
        if self.compile and self.method == "dora":
            raise ConfigError(
                "--compile: peft's DoRA layers cannot be compiled; use --method lora or rslora"
            )

    @property
    def peak_rate(self) -> float:
        """The learning rate after warmup, with the default that belongs to the optimizer."""
        return float(self.learning_rate or 0)

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options that have no effect in some calls."""
        off, full = parse_every(self.hldf_every) == 0, self.method == "full"
        frozen = not self.train_text_encoder
        parts = "steps weight statistics region draws grad_draws grad_steps checkpoint".split()
        words = [f"hldf_{part}" for part in parts]
        return [
            (off, "with --hldf-every 0, which turns HLDF off", " ".join(words)),
            (not self.use_cache, "with --no-cache, which keeps nothing", "cache"),
            (full, "with --method full, which trains all weights of the transformer", "target"),
            (frozen, "with --freeze-text-encoder, which trains no text encoder", "text_target"),
            (full and frozen, "where nothing gets an adapter", "rank alpha"),
            (
                self.base_format == self.precision,
                f"with --precision {self.precision}, as which the base is kept anyway",
                "base_format",
            ),
            (
                self.val_every == 0,
                "with --val-every 0, which measures no held-out image",
                "val_fraction val_count keep_best",
            ),
        ]
