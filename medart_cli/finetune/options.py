"""The options of `medart finetune`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from typer import Argument, Option

from medart_cli.errors import ConfigError
from medart_cli.finetune.hldf import parse_every, plan_hldf
from medart_cli.models.optimizers import OPTIMIZERS, OptimizerName, check_rate
from medart_cli.options import (
    DEFAULT_BASE,
    MORE_THAN_ONE,
    ONE_CALL,
    RUN_ONLY,
    AllowSynthetic,
    Classes,
    CommonConfig,
    Folders,
    Hint,
    complete_profile,
    parse_levels,
)

_output_option = partial(Option, rich_help_panel="Output")
_data_option = partial(Option, rich_help_panel="Data")
_model_option = partial(Option, rich_help_panel="Model")
_hldf_option = partial(Option, rich_help_panel="HLDF")
_training_option = partial(Option, rich_help_panel="Training")
_val_option = partial(Option, rich_help_panel="Held-out loss")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(CommonConfig):
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
        ("precision", ("fp32",), "--precision bf16"),
        ("base_format", (None,), "--base-format nf4 (under adapters)"),
        ("resolution", None, "a smaller --resolution"),
    )

    data: Annotated[
        str,
        Argument(help="Image folder, manifest file, or - for a manifest on standard input."),
        RUN_ONLY,
    ]
    out: Annotated[Path, _output_option(help="Output folder (the run folder)."), RUN_ONLY]
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
            help="Only estimate memory, disk space, steps and hours; nothing is downloaded, "
            "written or trained.",
        ),
        ONE_CALL,
    ] = False
    save_every: Annotated[
        int, _output_option(help="Optimizer steps between checkpoints.", min=1), RUN_ONLY
    ] = 500
    save_minutes: Annotated[
        float, _output_option(help="Maximum minutes between checkpoints.", min=0), RUN_ONLY
    ] = 20.0
    keep: Annotated[
        int, _output_option(help="Number of latest checkpoints to keep.", min=1), RUN_ONLY
    ] = 2
    preview_every: Annotated[
        int,
        _output_option(help="Optimizer steps between preview grids; 0 for none.", min=0),
        RUN_ONLY,
    ] = 500
    preview_count: Annotated[
        int, _output_option(help="Images per preview grid.", min=1), RUN_ONLY
    ] = 4
    merge: Annotated[
        bool,
        _output_option(
            "--merge", help="Also write RUN/merged, a complete diffusers pipeline folder."
        ),
        RUN_ONLY,
    ] = False
    log_with: Annotated[
        list[str] | None,
        _output_option(help="Tracker of accelerate: tensorboard, wandb, ... (repeatable)."),
        RUN_ONLY,
    ] = None

    root: Annotated[
        Path | None,
        _data_option(
            help="Folder that file names are relative to; also allows absolute file names."
        ),
        RUN_ONLY,
    ] = None
    folders: Folders = None
    allow_synthetic: AllowSynthetic = False
    profile: Annotated[
        str,
        _data_option(
            autocompletion=complete_profile,
            help="Modality profile for the template caption of rows without text: packaged name "
            "or TOML file.",
        ),
    ] = "generic"
    classes: Classes = None
    resolution: Annotated[
        int | None,
        _data_option(
            help="Image resolution (side in pixels); the base model's by default.", min=16
        ),
    ] = None
    crop: Annotated[
        Literal["center", "pad", "random"],
        _data_option(
            help="How images are made square; random may crop out what the caption describes."
        ),
    ] = "center"
    buckets: Annotated[
        bool,
        _data_option(
            "--buckets",
            help="Aspect buckets: images keep their shape, but for a small margin that --crop cuts "
            "or pads; each batch has images of one shape.",
        ),
    ] = False
    flip: Annotated[
        bool,
        _data_option(
            "--flip", help="Random horizontal flips; these swap left and right in the image."
        ),
    ] = False
    balance: Annotated[
        bool, _data_option("--balance", help="Class balancing: sample all labels equally often.")
    ] = False
    cache: Annotated[
        Path | None,
        _data_option(
            help="Cache folder for latents and text embeddings; medart's cache by default."
        ),
        RUN_ONLY,
    ] = None
    use_cache: Annotated[
        bool,
        _data_option(
            "--use-cache/--no-cache", help="Encode each image once and cache its latents."
        ),
        RUN_ONLY,
    ] = True

    base: Annotated[
        str,
        _model_option(
            help="Base model: PixArt-alpha or -Sigma, SANA, PRX or FLUX.2-klein-base; a pipeline "
            "folder or a hub id."
        ),
    ] = DEFAULT_BASE
    base_format: Annotated[
        Literal["bf16", "int8", "nf4"] | None,
        _model_option(
            help="Quantization of the frozen base under adapters (nf4: QLoRA); by default its "
            "weights are kept as --precision. int8 and nf4 need bitsandbytes: pip install "
            "bitsandbytes."
        ),
    ] = None
    method: Annotated[
        Literal["lora", "dora", "rslora", "lokr", "loha", "full"],
        _model_option(
            help="Adapter type (LoRA, DoRA, rsLoRA, LoKr, LoHa), or full fine-tuning of the "
            "transformer."
        ),
    ] = "lora"
    rank: Annotated[int, _model_option(help="Adapter rank.", min=1)] = 8
    alpha: Annotated[
        float | None, _model_option(help="Adapter alpha; equals the rank by default.", min=0)
    ] = None
    target: Annotated[
        list[str] | None,
        _model_option(
            help="Adapter target modules of the transformer, by name suffix; * in one stands for "
            "any text (repeatable)."
        ),
    ] = None
    text_target: Annotated[
        list[str] | None,
        _model_option(
            help="Adapter target modules of the text encoder, by name suffix, as --target "
            "(repeatable)."
        ),
    ] = None
    train_text_encoder: Annotated[
        bool,
        _model_option(
            "--train-text-encoder/--freeze-text-encoder",
            help="Train adapters in the text encoder too (PixArt only); if frozen, it runs once "
            "and is then unloaded.",
        ),
    ] = True

    hldf_loss: Annotated[
        Literal["published", "score"],
        _hldf_option(
            help="Color loss. score: energy score, keeps colors as varied as real ones; "
            "published: squared difference to one real image, as in the paper, makes colors "
            "uniform."
        ),
    ] = "score"
    hldf_every: Annotated[
        str | None,
        _hldf_option(
            help="Optimizer steps between color losses (N in the paper); 0 turns HLDF off. 20 by "
            "default, which about doubles training time; 500 with published. auto: the "
            "paper's share of the time, but at least 20 color losses per run."
        ),
    ] = None
    hldf_steps: Annotated[
        int | None,
        _hldf_option(
            help="Inference (solver) steps per generated image, M in the paper; 12 by default, 20 "
            "with published.",
            min=1,
        ),
    ] = None
    hldf_weight: Annotated[
        float | None,
        _hldf_option(
            help="Color loss weight. score: its gradient norm relative to that of the noise loss, "
            "1 by default; published: factor of the loss, 1/M by default.",
            min=0,
        ),
    ] = None
    hldf_statistics: Annotated[
        Literal["moments", "grid"],
        _hldf_option(
            help="Color statistics to compare: channel means and standard deviations (moments), "
            "plus the mean colors of a 4 x 4 grid (grid)."
        ),
    ] = "moments"
    hldf_region: Annotated[
        Literal["image", "mask"],
        _hldf_option(
            help="Where colors are compared: in the whole image, or weighted by the mean of the "
            "training images' masks (manifest key mask)."
        ),
    ] = "image"
    hldf_draws: Annotated[
        int | None,
        _hldf_option(help="Images generated per caption; 2 by default, 1 with published.", min=2),
    ] = None
    hldf_grad_draws: Annotated[
        int | None,
        _hldf_option(
            help="Generated images per caption that carry gradients; all by default.", min=1
        ),
    ] = None
    hldf_guidance: Annotated[
        float,
        _hldf_option(
            help="Guidance scale (classifier-free) of generated images and previews.", min=1
        ),
    ] = 4.5
    hldf_grad_steps: Annotated[
        int | None,
        _hldf_option(
            help="Backpropagate through the last K solver steps only; 3 by default, all with "
            "published.",
            min=1,
        ),
    ] = None
    hldf_checkpoint: Annotated[
        Literal["auto", "none", "block", "step"],
        _hldf_option(
            help="Activation checkpointing of the color loss: none, per block, or per solver step "
            "(least memory)."
        ),
        RUN_ONLY,
    ] = "auto"

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
        Literal["none", "text-encoder"],
        _training_option(
            help="What runs on the CPU in place of the GPU: slow, but it takes no GPU memory. A "
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
        files = [*sorted((self.out / "previews").glob("*.png"))[-1:], self.out / "loss.png"]
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
        moved = self.offload == "text-encoder" and self.train_text_encoder
        if moved and (self.ema or self.optimizer == "adamw8bit"):
            option = "--ema" if self.ema else "--optimizer adamw8bit"
            raise ConfigError(
                f"--offload text-encoder: trained on the CPU it cannot have {option}; leave that "
                "out, or add --freeze-text-encoder"
            )
        every = parse_every(self.hldf_every)
        object.__setattr__(self, "hldf_every", every)  # a number is one, also from the command line
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", OPTIMIZERS[self.optimizer].rate)
        check_rate(self.optimizer, self.peak_rate)
        if self.hldf_region == "mask" and self.hldf_statistics == "grid":
            raise ConfigError("--hldf-region mask: has no grid; use --hldf-statistics moments")
        if self.hldf_region == "mask" and self.buckets:
            raise ConfigError("--hldf-region mask: needs images of one shape; leave out --buckets")
        self._check_draws()
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

    def _check_draws(self) -> None:
        for name in ("hldf_draws", "hldf_grad_draws"):
            if self.hldf_loss == "published" and getattr(self, name) is not None:
                option = "--" + name.replace("_", "-")
                raise ConfigError(f"{option}: --hldf-loss published has one image for each caption")
        hldf = plan_hldf(self)
        if hldf.grad_steps > hldf.steps:
            raise ConfigError(
                f"--hldf-grad-steps {hldf.grad_steps} is more than --hldf-steps {hldf.steps}"
            )
        if hldf.with_gradient > hldf.draws:
            raise ConfigError(
                f"--hldf-grad-draws {hldf.with_gradient} is more than --hldf-draws {hldf.draws}"
            )
