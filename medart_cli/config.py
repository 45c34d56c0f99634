"""Every option of every stage, written once: one frozen dataclass is one command's signature.

Values are checked in `__post_init__`, so the command line and a notebook hear the same sentence.
"""

import difflib
import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, CallbackParam, Context, Option

from medart_cli.errors import ConfigError

DEFAULT_BASE = "PixArt-alpha/PixArt-XL-2-512x512"  # the paper's base model

# Options that say how to run and not what to make: another value may continue the same output.
RUN_ONLY = frozenset(
    "config data run root out device offline json quiet verbose max_failures overwrite "
    "save_every save_minutes keep preview_every log_with cache merge hldf_checkpoint".split()
)


def read_settings(source: str) -> dict[str, Any]:
    """Read a TOML settings file, or a packaged recipe by its name.

    Raises:
        ConfigError: There is no such file or recipe, or it is not TOML.
    """
    path = Path(source)
    recipe = resources.files("medart_cli") / "recipes" / f"{source}.toml"
    try:
        if path.suffix == ".toml" or path.is_file():
            return tomllib.loads(path.read_text(encoding="utf-8"))
        if recipe.is_file():
            return tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {source}: cannot be read as TOML: {error}") from error
    known = sorted(
        item.name.removesuffix(".toml")
        for item in (resources.files("medart_cli") / "recipes").iterdir()
        if item.name.endswith(".toml")
    )
    raise ConfigError(f"--config {source}: no such file; packaged recipes: {', '.join(known)}")


def _apply_settings(context: Context, parameter: CallbackParam, value: str | None) -> str | None:
    """Let the settings of `--config` stand between the defaults and the command line."""
    if value is None or context.resilient_parsing:
        return value
    known = {item.name for item in context.command.params if item.name}
    settings = {}
    for key, setting in read_settings(value).items():
        name = key.replace("-", "_")
        if name not in known - {"help", "config"}:
            close = difflib.get_close_matches(name, sorted(item for item in known if item), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"--config {value}: {context.info_name} has no option {key}{hint}")
        if isinstance(setting, dict):
            raise ConfigError(f"--config {value}: {key} is a table; settings are flat: key = value")
        settings[name] = setting
    context.default_map = settings
    return value


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    """Options that every stage has."""

    config: Annotated[
        str | None,
        Option(
            help="Settings to start from: a TOML file, or a packaged recipe by name.",
            callback=_apply_settings,
            is_eager=True,
            rich_help_panel="Common",
        ),
    ] = None
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel="Common")] = (
        "auto"
    )
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        Option(
            help="Number format of the models; auto is bf16 on a GPU, fp32 on a CPU.",
            rich_help_panel="Common",
        ),
    ] = "auto"
    seed: Annotated[
        int, Option(help="All randomness follows from it.", rich_help_panel="Common")
    ] = 0
    offline: Annotated[
        bool, Option("--offline", help="Never use the network.", rich_help_panel="Common")
    ] = False
    max_failures: Annotated[
        int,
        Option(
            help="Rows that may fail (a broken image, say) before the exit code is 3.",
            rich_help_panel="Common",
        ),
    ] = 0
    json: Annotated[
        bool,
        Option("--json", help="Print the summary as one JSON object.", rich_help_panel="Common"),
    ] = False
    quiet: Annotated[
        bool, Option("--quiet", "-q", help="Warnings and errors only.", rich_help_panel="Common")
    ] = False
    verbose: Annotated[
        bool, Option("--verbose", "-v", help="Say more.", rich_help_panel="Common")
    ] = False

    def __post_init__(self) -> None:
        kind, _, index = self.device.partition(":")
        if kind not in ("auto", "cpu", "cuda") or (
            index and (kind != "cuda" or not index.isdigit())
        ):
            raise ConfigError(f"--device {self.device}: not auto, cpu, cuda or cuda:N")
        self._check_least(max_failures=0, seed=0)

    def _check_least(self, **least: float) -> None:
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not value >= smallest:  # `not >=` refuses NaN as well
                option = "--" + name.replace("_", "-")
                raise ConfigError(f"{option} must be {smallest} or more, got {value}")

    def _check_resolution(self, resolution: int | None) -> None:
        if resolution is not None and (resolution < 16 or resolution % 8):
            raise ConfigError(f"--resolution must be a multiple of 8 from 16 on, got {resolution}")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(CommonConfig):
    """Fine-tune PixArt on captioned images: LoRA or all weights, with the HLDF color loss.

    The same command again goes on at the last checkpoint.
    """

    data: Annotated[
        str, Argument(help="Image folder, manifest file, or - for a manifest on standard input.")
    ]
    out: Annotated[Path, Option(help="Run folder to write.", rich_help_panel="Output")]
    overwrite: Annotated[
        bool,
        Option(
            "--overwrite",
            help="Start anew where the run folder is not empty.",
            rich_help_panel="Output",
        ),
    ] = False
    save_every: Annotated[
        int, Option(help="Optimizer steps between checkpoints.", rich_help_panel="Output")
    ] = 500
    save_minutes: Annotated[
        float, Option(help="Minutes between checkpoints.", rich_help_panel="Output")
    ] = 20.0
    keep: Annotated[int, Option(help="Checkpoints to keep.", rich_help_panel="Output")] = 2
    preview_every: Annotated[
        int,
        Option(
            help="Optimizer steps between preview pictures; 0 for none.", rich_help_panel="Output"
        ),
    ] = 500
    preview_count: Annotated[
        int, Option(help="Images in a preview picture.", rich_help_panel="Output")
    ] = 4
    merge: Annotated[
        bool,
        Option(
            "--merge",
            help="Also write RUN/merged, a whole diffusers pipeline folder.",
            rich_help_panel="Output",
        ),
    ] = False
    log_with: Annotated[
        list[str] | None,
        Option(
            help="A tracker of accelerate: tensorboard, wandb, ... (repeatable).",
            rich_help_panel="Output",
        ),
    ] = None

    root: Annotated[
        Path | None,
        Option(
            help="Folder that file names are relative to; they may then be absolute.",
            rich_help_panel="Data",
        ),
    ] = None
    profile: Annotated[
        str,
        Option(
            help="Modality that words the simple caption where a row has no text: a packaged "
            "name or a TOML file.",
            rich_help_panel="Data",
        ),
    ] = "generic"
    resolution: Annotated[
        int | None,
        Option(
            help="Image side in pixels; the base model's own by default.", rich_help_panel="Data"
        ),
    ] = None
    crop: Annotated[
        Literal["center", "pad", "random"],
        Option(
            help="How an image becomes square. random may cut away what the caption names.",
            rich_help_panel="Data",
        ),
    ] = "center"
    flip: Annotated[
        bool,
        Option(
            "--flip",
            help="Mirror images at random; swaps left and right in them.",
            rich_help_panel="Data",
        ),
    ] = False
    balance: Annotated[
        bool,
        Option("--balance", help="Draw all labels equally often.", rich_help_panel="Data"),
    ] = False
    cache: Annotated[
        Path | None,
        Option(
            help="Folder for latents and text embeddings; medart's cache by default.",
            rich_help_panel="Data",
        ),
    ] = None
    use_cache: Annotated[
        bool,
        Option(
            "--use-cache/--no-cache",
            help="Encode each image once and keep its latents.",
            rich_help_panel="Data",
        ),
    ] = True

    base: Annotated[
        str,
        Option(
            help="PixArt-alpha or -Sigma pipeline: a folder or a hub id.", rich_help_panel="Model"
        ),
    ] = DEFAULT_BASE
    method: Annotated[
        Literal["lora", "dora", "rslora", "full"],
        Option(
            help="What is trained: adapters of a kind, or all transformer weights.",
            rich_help_panel="Model",
        ),
    ] = "lora"
    rank: Annotated[int, Option(help="Rank of the adapters.", rich_help_panel="Model")] = 8
    alpha: Annotated[
        float | None,
        Option(help="Scale of the adapters; the rank by default.", rich_help_panel="Model"),
    ] = None
    target: Annotated[
        list[str] | None,
        Option(
            help="End of the names of transformer modules that get an adapter (repeatable).",
            rich_help_panel="Model",
        ),
    ] = None
    text_target: Annotated[
        list[str] | None,
        Option(help="The same for the text encoder (repeatable).", rich_help_panel="Model"),
    ] = None
    train_text_encoder: Annotated[
        bool,
        Option(
            "--train-text-encoder/--freeze-text-encoder",
            help="Train adapters in T5 too; frozen, it is run once and then released.",
            rich_help_panel="Model",
        ),
    ] = True

    hldf_every: Annotated[
        int,
        Option(
            help="Optimizer steps between color losses, N in the paper; 0 turns HLDF off.",
            rich_help_panel="HLDF",
        ),
    ] = 500
    hldf_steps: Annotated[
        int,
        Option(help="Solver steps of the generated image, M in the paper.", rich_help_panel="HLDF"),
    ] = 20
    hldf_weight: Annotated[
        float | None,
        Option(help="Weight of the color loss; 1/M by default.", rich_help_panel="HLDF"),
    ] = None
    hldf_guidance: Annotated[
        float, Option(help="Guidance scale of the generated image.", rich_help_panel="HLDF")
    ] = 4.5
    hldf_grad_steps: Annotated[
        int | None,
        Option(
            help="Let the gradient through the last K solver steps only; all M by default.",
            rich_help_panel="HLDF",
        ),
    ] = None
    hldf_checkpoint: Annotated[
        Literal["auto", "none", "block", "step"],
        Option(
            help="Recompute instead of remember: nothing, transformer blocks, or solver steps "
            "(least memory).",
            rich_help_panel="HLDF",
        ),
    ] = "auto"

    steps: Annotated[
        int | None, Option(help="Optimizer steps; overrides --epochs.", rich_help_panel="Training")
    ] = None
    epochs: Annotated[float, Option(help="Passes over the data.", rich_help_panel="Training")] = (
        15.0
    )
    batch_size: Annotated[
        int, Option(help="Images a step and process.", rich_help_panel="Training")
    ] = 1
    accumulate: Annotated[
        int, Option(help="Batches whose gradients make one step.", rich_help_panel="Training")
    ] = 1
    learning_rate: Annotated[
        float, Option(help="Peak learning rate.", rich_help_panel="Training")
    ] = 1e-4
    lr_schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        Option(help="Course of the learning rate after the warm-up.", rich_help_panel="Training"),
    ] = "constant"
    warmup_steps: Annotated[
        int, Option(help="Steps of linear warm-up.", rich_help_panel="Training")
    ] = 0
    optimizer: Annotated[
        Literal["adamw", "adamw8bit"],
        Option(
            help="adamw8bit needs bitsandbytes: pip install 'medart-cli[8bit]'.",
            rich_help_panel="Training",
        ),
    ] = "adamw"
    weight_decay: Annotated[
        float, Option(help="Weight decay of AdamW.", rich_help_panel="Training")
    ] = 1e-2
    max_grad_norm: Annotated[
        float, Option(help="Gradient norm to clip at.", rich_help_panel="Training")
    ] = 1.0
    caption_dropout: Annotated[
        float,
        Option(
            help="Share of captions replaced by the empty one, which guidance relies on.",
            rich_help_panel="Training",
        ),
    ] = 0.1
    min_snr: Annotated[
        float | None,
        Option(help="Gamma of min-SNR loss weighting; off by default.", rich_help_panel="Training"),
    ] = None
    ema: Annotated[
        float,
        Option(help="Decay of the averaged weights; 0 for none.", rich_help_panel="Training"),
    ] = 0.0
    gradient_checkpointing: Annotated[
        bool,
        Option(
            "--gradient-checkpointing",
            help="Recompute transformer and T5 blocks in backward: less memory, slower.",
            rich_help_panel="Training",
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_resolution(self.resolution)
        self._check_least(
            save_every=1, save_minutes=0, keep=1, preview_every=0, preview_count=1, rank=1, alpha=0,
            hldf_every=0, hldf_steps=1, hldf_weight=0, hldf_guidance=1, hldf_grad_steps=1, steps=1,
            epochs=0, batch_size=1, accumulate=1, learning_rate=0, warmup_steps=0, weight_decay=0,
            max_grad_norm=0, caption_dropout=0, min_snr=0, ema=0,
        )  # fmt: skip
        if self.caption_dropout > 1:
            raise ConfigError(f"--caption-dropout must be 1 or less, got {self.caption_dropout}")
        if self.ema >= 1:
            raise ConfigError(f"--ema must be below 1, got {self.ema}")
        if self.hldf_grad_steps is not None and self.hldf_grad_steps > self.hldf_steps:
            raise ConfigError(
                f"--hldf-grad-steps {self.hldf_grad_steps} is more than --hldf-steps "
                f"{self.hldf_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class SampleConfig(CommonConfig):
    """Draw images from a run folder or a base model, one for each prompt.

    Prompts come from --prompt, --prompts or --from. The same command again skips finished images.
    """

    run: Annotated[
        str, Argument(help="Run folder, one of its checkpoints, a pipeline folder or a hub id.")
    ]
    out: Annotated[
        Path | None,
        Option(help="Folder for the images and their manifest.", rich_help_panel="Output"),
    ] = None
    overwrite: Annotated[
        bool,
        Option(
            "--overwrite",
            help="Start anew where the folder is not empty.",
            rich_help_panel="Output",
        ),
    ] = False
    merge_to: Annotated[
        Path | None,
        Option(
            help="Write the run as a whole diffusers pipeline folder; draws only with --out.",
            rich_help_panel="Output",
        ),
    ] = None

    prompt: Annotated[
        list[str] | None, Option(help="A prompt (repeatable).", rich_help_panel="Prompts")
    ] = None
    prompts: Annotated[
        str | None, Option(help="Text file with a prompt a line, or -.", rich_help_panel="Prompts")
    ] = None
    from_data: Annotated[
        str | None,
        Option(
            "--from",
            help="Image folder or manifest whose captions are drawn, or -.",
            rich_help_panel="Prompts",
        ),
    ] = None
    root: Annotated[
        Path | None,
        Option(help="Folder that file names of --from are relative to.", rich_help_panel="Prompts"),
    ] = None
    profile: Annotated[
        str,
        Option(
            help="Modality that words the simple caption where a row has no text.",
            rich_help_panel="Prompts",
        ),
    ] = "generic"
    count: Annotated[
        int | None,
        Option(help="Images in all; by default one for each prompt.", rich_help_panel="Prompts"),
    ] = None
    per_label: Annotated[
        int | None, Option(help="Images for each label of --from.", rich_help_panel="Prompts")
    ] = None

    resolution: Annotated[
        int | None,
        Option(help="Image side in pixels; the run's own by default.", rich_help_panel="Drawing"),
    ] = None
    steps: Annotated[int, Option(help="Solver steps an image.", rich_help_panel="Drawing")] = 20
    guidance: Annotated[
        float, Option(help="Guidance scale; 1 for none.", rich_help_panel="Drawing")
    ] = 4.5
    batch_size: Annotated[
        int, Option(help="Images drawn at a time.", rich_help_panel="Drawing")
    ] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_resolution(self.resolution)
        self._check_least(steps=1, guidance=1, batch_size=1, count=1, per_label=1)
        sources = [bool(self.prompt), self.prompts is not None, self.from_data is not None]
        if self.out is None and self.merge_to is None:
            raise ConfigError("--out: missing; name a folder for the images, or use --merge-to")
        if self.out is not None and sum(sources) != 1:
            raise ConfigError("give prompts by exactly one of --prompt, --prompts and --from")
        if self.per_label is not None and (self.from_data is None or self.count is not None):
            raise ConfigError("--per-label needs --from, and goes without --count")


def settings_of(config: CommonConfig) -> dict[str, Any]:
    """Turn a config into the flat table that `--config` reads: no unset options, paths as text."""
    table: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name != "config" and value is not None:
            table[field.name] = str(value) if isinstance(value, Path) else value
    return table
