"""Every option of every stage, written once: one frozen dataclass is one command's signature.

Values are checked in `__post_init__`, so the command line and a notebook hear the same sentence.
"""

import difflib
import tomllib
from collections.abc import Collection, Container
from dataclasses import dataclass, fields
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, CallbackParam, Context, Option

from medart_cli.errors import ConfigError

DEFAULT_BASE = "PixArt-alpha/PixArt-XL-2-512x512"  # the paper's base model
DEFAULT_CAPTIONER = "llava-hf/llama3-llava-next-8b-hf"  # the paper's captioner

# Options that say how to run and not what to make: another value may continue the same output.
RUN_ONLY = frozenset(
    "config data run root out device offline json quiet verbose max_failures overwrite "
    "save_every save_minutes keep preview_every preview_count log_with cache use_cache merge "
    "hldf_checkpoint gradient_checkpointing shard synthetic_root test_root holdout_root".split()
)

OF_ONE_CALL = frozenset("config shard json quiet verbose overwrite".split())  # in no settings file

# What settings of finetune mean that were written before these options were there.
FORMERLY: dict[str, Any] = {"hldf_loss": "published", "hldf_statistics": "moments"}

MOST_SHARDS = 10_000  # a mistyped number is likelier than more

# An option belongs to a panel of --help.
_common_option = partial(Option, rich_help_panel="Common")
_output_option = partial(Option, rich_help_panel="Output")
_data_option = partial(Option, rich_help_panel="Data")
_model_option = partial(Option, rich_help_panel="Model")
_hldf_option = partial(Option, rich_help_panel="HLDF")
_training_option = partial(Option, rich_help_panel="Training")
_prompts_option = partial(Option, rich_help_panel="Prompts")
_drawing_option = partial(Option, rich_help_panel="Drawing")
_caption_option = partial(Option, rich_help_panel="Caption")
_server_option = partial(Option, rich_help_panel="Server")
_regimes_option = partial(Option, rich_help_panel="Regimes")
_measures_option = partial(Option, rich_help_panel="Measures")
_copies_option = partial(Option, rich_help_panel="Copies")
_looking_option = partial(Option, rich_help_panel="What to look at")


Folders = Annotated[
    str | None,
    _data_option(
        help="What the folders of an image folder are, from the top: split, label, group_id (a "
        "patient) or -, joined by /; by default the first is the label, below one like train."
    ),
]


AllowSynthetic = Annotated[
    bool,
    _data_option("--allow-synthetic", help="Take generated images where real ones are expected."),
]


def read_settings(source: str) -> dict[str, Any]:
    """Read a TOML settings file, or a packaged recipe by its name.

    Raises:
        ConfigError: There is no such file or recipe, or it is not TOML.
    """
    path = Path(source)
    recipe = resources.files("medart_cli") / "recipes" / f"{source}.toml"
    try:
        if path.suffix == ".toml" or path.is_file():
            text = path.read_text(encoding="utf-8")
            ours = text.startswith("# Settings of medart finetune")
            return (FORMERLY if ours else {}) | tomllib.loads(text)
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
        if name.startswith("_"):  # not an option: medart notes there what an output belongs to
            continue
        if name not in known - {"help", "config"}:
            close = difflib.get_close_matches(name, sorted(item for item in known if item), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"--config {value}: {context.info_name} has no option {key}{hint}")
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
            "by /, as group_id/label for a folder a patient with a folder a class in it"
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
        raise ConfigError(f"--shard {text}: must be I/N, as 2/3 for the second part of three")
    return int(number), int(count)


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    """Options that every stage has."""

    config: Annotated[
        str | None,
        _common_option(
            help="Settings to start from: a TOML file, or a packaged recipe by name.",
            callback=_apply_settings,
            is_eager=True,
        ),
    ] = None
    device: Annotated[str, _common_option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        _common_option(help="Number format of the models; auto is bf16 on a GPU, fp32 on a CPU."),
    ] = "auto"
    seed: Annotated[int, _common_option(help="All randomness follows from it.")] = 0
    offline: Annotated[bool, _common_option("--offline", help="Never use the network.")] = False
    max_failures: Annotated[
        int,
        _common_option(help="Rows that may fail (a broken image, say) before the exit code is 3."),
    ] = 0
    json: Annotated[
        bool, _common_option("--json", help="Print the summary as one JSON object.")
    ] = False
    quiet: Annotated[bool, _common_option("--quiet", "-q", help="Warnings and errors only.")] = (
        False
    )
    verbose: Annotated[bool, _common_option("--verbose", "-v", help="Say more.")] = False

    def __post_init__(self) -> None:
        kind, colon, index = self.device.partition(":")
        if kind not in ("auto", "cpu", "cuda") or (
            colon and (kind != "cuda" or not (index.isascii() and index.isdigit()))
        ):
            raise ConfigError(f"--device {self.device}: not auto, cpu, cuda or cuda:N")
        self._check_least(max_failures=0, seed=0)
        self.refuse_idle()

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options that change nothing in some calls: whether this is one, why, and which."""
        return []

    def refuse_idle(self, typed: Collection[str] = ()) -> None:
        """Refuse a given option that changes nothing in this call.

        An option is given if it has another value than its default, unless that stands in the
        settings file, which may be for other calls too.

        Args:
            typed: Names of options that stand on the command line, given whatever their values.

        Raises:
            ConfigError: Names the option, and why it changes nothing.
        """
        defaults = {field.name: field.default for field in fields(self)}
        idle = [(name, why) for applies, why, names in self.list_idle() if applies
                for name in names.split()]  # fmt: skip
        for name, why in idle:
            value, option = getattr(self, name), "--" + name.replace("_", "-")
            given = value != defaults[name] and value != self._find_in_file(name)
            if name in typed or given:
                raise ConfigError(f"{option}: changes nothing {why}; leave it out")

    def _find_in_file(self, name: str) -> object:
        """Return what the settings file says of an option; None where it says nothing."""
        file = read_settings(self.config) if self.config else {}
        return file.get(name, file.get(name.replace("_", "-")))

    def _check_roots(self, *names: str) -> None:
        """Refuse a root for a set that is not there."""
        for name in names:
            if getattr(self, f"{name}_root") is not None and getattr(self, name) is None:
                raise ConfigError(f"--{name}-root: names the folder of --{name}, which is missing")

    def _refuse_zero(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) == 0:
                raise ConfigError(f"--{name.replace('_', '-')} 0 would train nothing")

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
    out: Annotated[Path, _output_option(help="Run folder to write.")]
    overwrite: Annotated[
        bool, _output_option("--overwrite", help="Start anew where the run folder is not empty.")
    ] = False
    save_every: Annotated[int, _output_option(help="Optimizer steps between checkpoints.")] = 500
    save_minutes: Annotated[float, _output_option(help="Minutes between checkpoints.")] = 20.0
    keep: Annotated[int, _output_option(help="Checkpoints to keep.")] = 2
    preview_every: Annotated[
        int, _output_option(help="Optimizer steps between preview pictures; 0 for none.")
    ] = 500
    preview_count: Annotated[int, _output_option(help="Images in a preview picture.")] = 4
    merge: Annotated[
        bool,
        _output_option("--merge", help="Also write RUN/merged, a whole diffusers pipeline folder."),
    ] = False
    log_with: Annotated[
        list[str] | None,
        _output_option(help="A tracker of accelerate: tensorboard, wandb, ... (repeatable)."),
    ] = None

    root: Annotated[
        Path | None,
        _data_option(help="Folder that file names are relative to; they may then be absolute."),
    ] = None
    folders: Folders = None
    allow_synthetic: AllowSynthetic = False
    profile: Annotated[
        str,
        _data_option(
            help="Modality that words the simple caption where a row has no text: a packaged "
            "name or a TOML file."
        ),
    ] = "generic"
    resolution: Annotated[
        int | None, _data_option(help="Image side in pixels; the base model's own by default.")
    ] = None
    crop: Annotated[
        Literal["center", "pad", "random"],
        _data_option(
            help="How an image becomes square. random may cut away what the caption names."
        ),
    ] = "center"
    flip: Annotated[
        bool, _data_option("--flip", help="Mirror images at random; swaps left and right in them.")
    ] = False
    balance: Annotated[bool, _data_option("--balance", help="Draw all labels equally often.")] = (
        False
    )
    cache: Annotated[
        Path | None,
        _data_option(help="Folder for latents and text embeddings; medart's cache by default."),
    ] = None
    use_cache: Annotated[
        bool,
        _data_option("--use-cache/--no-cache", help="Encode each image once and keep its latents."),
    ] = True

    base: Annotated[
        str, _model_option(help="PixArt-alpha or -Sigma pipeline: a folder or a hub id.")
    ] = DEFAULT_BASE
    method: Annotated[
        Literal["lora", "dora", "rslora", "full"],
        _model_option(help="What is trained: adapters of a kind, or all transformer weights."),
    ] = "lora"
    rank: Annotated[int, _model_option(help="Rank of the adapters.")] = 8
    alpha: Annotated[
        float | None, _model_option(help="Scale of the adapters; the rank by default.")
    ] = None
    target: Annotated[
        list[str] | None,
        _model_option(
            help="End of the names of transformer modules that get an adapter (repeatable)."
        ),
    ] = None
    text_target: Annotated[
        list[str] | None, _model_option(help="The same for the text encoder (repeatable).")
    ] = None
    train_text_encoder: Annotated[
        bool,
        _model_option(
            "--train-text-encoder/--freeze-text-encoder",
            help="Train adapters in T5 too; frozen, it is run once and then released.",
        ),
    ] = True

    hldf_loss: Annotated[
        Literal["published", "score"],
        _hldf_option(
            help="Color loss. score: the energy score, which keeps colors as varied as real ones; "
            "published: the squared gap to one real image, as in the paper, which makes them alike."
        ),
    ] = "score"
    hldf_every: Annotated[
        str | None,
        _hldf_option(
            help="Optimizer steps between color losses, N in the paper; 0 turns HLDF off. 20 by "
            "default, which about doubles the time of training; 500 with published. auto: the "
            "paper's share of the time, but 20 color losses a run or more."
        ),
    ] = None
    hldf_steps: Annotated[
        int | None,
        _hldf_option(
            help="Solver steps of a generated image, M in the paper; 12 by default, 20 with "
            "published."
        ),
    ] = None
    hldf_weight: Annotated[
        float | None,
        _hldf_option(
            help="Weight of the color loss. score: norm of its gradient over that of the noise "
            "loss, 1 by default; published: factor of the loss, 1/M by default."
        ),
    ] = None
    hldf_statistics: Annotated[
        Literal["moments", "grid"],
        _hldf_option(
            help="What of an image's colors is compared: means and deviations of its channels, or "
            "with the mean colors of a 4 x 4 grid besides."
        ),
    ] = "moments"
    hldf_draws: Annotated[
        int | None,
        _hldf_option(help="Images generated for each caption; 2 by default, 1 with published."),
    ] = None
    hldf_grad_draws: Annotated[
        int | None,
        _hldf_option(help="How many of them let the gradient through; all by default."),
    ] = None
    hldf_guidance: Annotated[float, _hldf_option(help="Guidance scale of a generated image.")] = 4.5
    hldf_grad_steps: Annotated[
        int | None,
        _hldf_option(
            help="Let the gradient through the last K solver steps only; 3 by default, all with "
            "published."
        ),
    ] = None
    hldf_checkpoint: Annotated[
        Literal["auto", "none", "block", "step"],
        _hldf_option(
            help="Recompute instead of remember: nothing, transformer blocks, or solver steps "
            "(least memory)."
        ),
    ] = "auto"

    steps: Annotated[int | None, _training_option(help="Optimizer steps; overrides --epochs.")] = (
        None
    )
    epochs: Annotated[float, _training_option(help="Passes over the data.")] = 15.0
    batch_size: Annotated[int, _training_option(help="Images a step and process.")] = 1
    accumulate: Annotated[int, _training_option(help="Batches whose gradients make one step.")] = 1
    learning_rate: Annotated[float, _training_option(help="Peak learning rate.")] = 1e-4
    lr_schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        _training_option(help="Course of the learning rate after the warm-up."),
    ] = "constant"
    warmup_steps: Annotated[int, _training_option(help="Steps of linear warm-up.")] = 0
    optimizer: Annotated[
        Literal["adamw", "adamw8bit"],
        _training_option(help="adamw8bit needs a GPU and bitsandbytes: pip install bitsandbytes."),
    ] = "adamw"
    weight_decay: Annotated[float, _training_option(help="Weight decay of AdamW.")] = 1e-2
    max_grad_norm: Annotated[
        float, _training_option(help="Gradient norm to clip at; 0 for no clipping.")
    ] = 1.0
    caption_dropout: Annotated[
        float,
        _training_option(
            help="Share of captions replaced by the empty one, which guidance relies on."
        ),
    ] = 0.1
    min_snr: Annotated[
        float | None, _training_option(help="Gamma of min-SNR loss weighting; off by default.")
    ] = None
    ema: Annotated[float, _training_option(help="Decay of the averaged weights; 0 for none.")] = 0.0
    gradient_checkpointing: Annotated[
        bool,
        _training_option(
            "--gradient-checkpointing",
            help="Recompute transformer and T5 blocks in backward: less memory, slower.",
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        self._check_resolution(self.resolution)
        self._check_least(
            save_every=1, save_minutes=0, keep=1, preview_every=0, preview_count=1, rank=1, alpha=0,
            hldf_steps=1, hldf_weight=0, hldf_guidance=1, hldf_grad_steps=1, steps=1,
            epochs=0, batch_size=1, accumulate=1, learning_rate=0, warmup_steps=0, weight_decay=0,
            max_grad_norm=0, caption_dropout=0, min_snr=0, ema=0,
        )  # fmt: skip
        self._refuse_zero("alpha", "min_snr", "epochs", "hldf_weight", "learning_rate")
        if self.precision == "fp16":
            raise ConfigError("--precision fp16: corrupts T5 in training; use bf16 or fp32")
        if self.offline and set(self.log_with or ()) - {"tensorboard"}:
            raise ConfigError("--log-with: with --offline only tensorboard, which stays local")
        if self.caption_dropout > 1:
            raise ConfigError(f"--caption-dropout must be 1 or less, got {self.caption_dropout}")
        if self.ema >= 1:
            raise ConfigError(f"--ema must be below 1, got {self.ema}")
        every = parse_every(self.hldf_every)
        object.__setattr__(self, "hldf_every", every)  # a number is one, also from the command line
        self._check_draws()

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options that change nothing in some calls."""
        off, full = parse_every(self.hldf_every) == 0, self.method == "full"
        frozen = not self.train_text_encoder
        parts = "steps weight statistics draws grad_draws grad_steps checkpoint".split()
        words = [f"hldf_{part}" for part in parts]
        return [
            (off, "with --hldf-every 0, which turns HLDF off", " ".join(words)),
            (not self.use_cache, "with --no-cache, which keeps nothing", "cache"),
            (full, "with --method full, which trains all weights of the transformer", "target"),
            (frozen, "with --freeze-text-encoder, which trains nothing in T5", "text_target"),
            (full and frozen, "where nothing gets an adapter", "rank alpha"),
        ]

    def _check_draws(self) -> None:
        self._check_least(hldf_draws=2, hldf_grad_draws=1)
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


@dataclass(frozen=True, kw_only=True)
class Hldf:
    """How the color loss is made, with the defaults that belong to the loss filled in.

    Attributes:
        loss: `published` or `score`.
        statistics: What of an image's colors is compared.
        every: Optimizer steps between two color losses; 0 for none.
        steps: Solver steps of a generated image.
        draws: Images generated for each caption.
        with_gradient: How many of them the gradient flows through.
        grad_steps: Through how many of the last solver steps.
        weight: Of the loss as published; of the score's gradient, in norms of the noise loss's.
    """

    loss: str
    statistics: tuple[str, ...]
    every: int
    steps: int
    draws: int
    with_gradient: int
    grad_steps: int
    weight: float


AUTO = "auto"
FEWEST = 20  # color losses in a run; in runs of 200 steps, 20 did nearly what 40 did
PUBLISHED_EVERY, PUBLISHED_COST = 500, 120  # of the paper's color loss, see `count_passes`


def parse_every(text: str | int | None) -> str | int | None:
    """Return the number in --hldf-every, or `auto`.

    Raises:
        ConfigError: It is neither, or below 0.
    """
    if text is None or text == AUTO:
        return text
    plain = str(text)
    if not (plain.isascii() and plain.isdigit()):
        raise ConfigError(f"--hldf-every must be 0 or more, or auto, got {text}")
    return int(plain)


def count_passes(hldf: Hldf) -> int:
    """Return what a color loss costs an image; a pass of the transformer without gradient is 1.

    Guidance takes two passes a solver step, and a backward pass counts twice.
    """
    return 2 * (hldf.draws * hldf.steps + 2 * hldf.with_gradient * hldf.grad_steps)


def choose_every(hldf: Hldf, total: int) -> int:
    """Choose how often HLDF runs: the paper's share of the time, but a few times in each run.

    Args:
        hldf: How the color loss is made.
        total: Optimizer steps of the run.
    """
    share = PUBLISHED_EVERY * count_passes(hldf) // PUBLISHED_COST
    return max(1, min(share, total // FEWEST))


def plan_hldf(config: FinetuneConfig) -> Hldf:
    """Fill in what the options leave open; docs/benchmarks.md has what the defaults rest on."""

    def choose(value: Any, default: Any) -> Any:  # noqa: ANN401 - as the option
        return default if value is None else value

    published = config.hldf_loss == "published"
    every = None if config.hldf_every == AUTO else config.hldf_every  # the stage settles auto
    steps = choose(config.hldf_steps, 20 if published else 12)
    draws = choose(config.hldf_draws, 1 if published else 2)
    return Hldf(
        loss=config.hldf_loss,
        statistics=("moments",) if config.hldf_statistics == "moments" else ("moments", "grid"),
        every=int(choose(every, PUBLISHED_EVERY if published else 20)),
        steps=steps,
        draws=draws,
        with_gradient=choose(config.hldf_grad_draws, draws),
        grad_steps=choose(config.hldf_grad_steps, steps if published else min(3, steps)),
        weight=choose(config.hldf_weight, 1 / steps if published else 1.0),
    )


@dataclass(frozen=True, kw_only=True)
class SampleConfig(CommonConfig):
    """Draw images from a run folder or a base model, one for each prompt.

    Prompts come from --prompt, --prompts or --from. The same command again skips finished images.
    """

    run: Annotated[
        str, Argument(help="Run folder, one of its checkpoints, a pipeline folder or a hub id.")
    ]
    base: Annotated[
        str | None,
        _model_option(
            help="The run's base, where it lies elsewhere by now: a folder or a hub id. Its "
            "weights must be the same."
        ),
    ] = None
    out: Annotated[
        Path | None, _output_option(help="Folder for the images and their manifest.")
    ] = None
    overwrite: Annotated[
        bool, _output_option("--overwrite", help="Start anew where the folder is not empty.")
    ] = False
    merge_to: Annotated[
        Path | None,
        _output_option(
            help="Write the run as a whole diffusers pipeline folder; draws only with --out."
        ),
    ] = None

    prompt: Annotated[list[str] | None, _prompts_option(help="A prompt (repeatable).")] = None
    prompts: Annotated[
        str | None, _prompts_option(help="Text file with a prompt a line, or -.")
    ] = None
    from_data: Annotated[
        str | None,
        _prompts_option("--from", help="Image folder or manifest whose captions are drawn, or -."),
    ] = None
    root: Annotated[
        Path | None, _prompts_option(help="Folder that file names of --from are relative to.")
    ] = None
    split: Annotated[
        list[str] | None,
        _prompts_option(
            help="Split of --from whose captions are drawn, train, val or test (repeatable); by "
            "default what finetune trains on: train, and rows that name none."
        ),
    ] = None
    folders: Folders = None
    profile: Annotated[
        str, _prompts_option(help="Modality that words the simple caption where a row has no text.")
    ] = "generic"
    count: Annotated[
        int | None, _prompts_option(help="Images in all; by default one for each prompt.")
    ] = None
    per_label: Annotated[int | None, _prompts_option(help="Images for each label of --from.")] = (
        None
    )

    resolution: Annotated[
        int | None, _drawing_option(help="Image side in pixels; the run's own by default.")
    ] = None
    steps: Annotated[int, _drawing_option(help="Solver steps an image.")] = 20
    guidance: Annotated[float, _drawing_option(help="Guidance scale; 1 for none.")] = 4.5
    batch_size: Annotated[int, _drawing_option(help="Images drawn at a time.")] = 4
    shard: Annotated[
        str | None,
        _drawing_option(
            help="Draw only part I/N of the images, as 2/3, for job arrays. When all parts are "
            "there, the same command without --shard joins them."
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        self._check_resolution(self.resolution)
        self._check_least(steps=1, guidance=1, batch_size=1, count=1, per_label=1)
        parse_shard(self.shard)
        if self.shard is not None and (self.overwrite or self.out is None or self.merge_to):
            raise ConfigError("--shard: needs --out, and goes without --overwrite and --merge-to")
        sources = [bool(self.prompt), self.prompts is not None, self.from_data is not None]
        if self.out is None and self.merge_to is None:
            raise ConfigError("--out: missing; name a folder for the images, or use --merge-to")
        if self.out is not None and sum(sources) != 1:
            raise ConfigError("give prompts by exactly one of --prompt, --prompts and --from")
        if any("\ud800" <= letter <= "\udfff" for text in self.prompt or () for letter in text):
            raise ConfigError("--prompt: is not valid text in the terminal's encoding")
        for name in self.split or ():
            if name not in ("train", "val", "test"):
                raise ConfigError(f"--split {name}: must be train, val or test")
        if self.split and self.from_data is None:
            raise ConfigError("--split: names rows of --from, which is missing")
        if self.per_label is not None and (self.from_data is None or self.count is not None):
            raise ConfigError("--per-label needs --from, and goes without --count")


def settings_of(config: CommonConfig) -> dict[str, Any]:
    """Turn a config into the flat table that `--config` reads: no unset options, paths as text.

    `shard` is left out: all parts of an output have the same settings. So is how one call was to
    talk, and whether it was to overwrite.
    """
    table: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list | tuple):
            value = [str(item) if isinstance(item, Path) else item for item in value]
        if field.name not in OF_ONE_CALL and value is not None:
            table[field.name] = str(value) if isinstance(value, Path) else value
    return table


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(CommonConfig):
    """Describe each image with a vision-language model: write or complete metadata.jsonl.

    Texts that are there are kept unless --recaption asks. The same command again goes on.
    """

    images: Annotated[
        str, Argument(help="Image folder, manifest file, or - for a manifest on standard input.")
    ]
    out: Annotated[
        Path | None,
        _output_option(
            help="Manifest file to write instead of the folder's own, as for other settings; "
            "texts that medart wrote in that one are not taken over."
        ),
    ] = None
    recaption: Annotated[
        Literal["rejected", "simple", "all"] | None,
        _output_option(
            help="Caption again: rows whose texts the rules refused, rows with the simple caption, "
            "or all rows. Texts that a person wrote or changed are kept."
        ),
    ] = None
    overwrite_edits: Annotated[
        bool,
        _output_option(
            "--overwrite-edits",
            help="With --recaption all: write texts anew that a person wrote or changed, too.",
        ),
    ] = False
    review: Annotated[
        int,
        _output_option(help="Most images shown in review.html, refused ones first; 0 writes none."),
    ] = 200
    audit: Annotated[
        int,
        _output_option(
            help="Images to caption again with a blank and with another image, to see whether the "
            "model looks at them."
        ),
    ] = 0

    shard: Annotated[
        str | None,
        _data_option(
            help="Caption only part I/N of the rows, as 2/3, for job arrays. When all parts are "
            "done, the same command without --shard joins them."
        ),
    ] = None
    root: Annotated[
        Path | None,
        _data_option(help="Folder that file names are relative to; they may then be absolute."),
    ] = None
    folders: Folders = None
    labels: Annotated[
        Path | None,
        _data_option(
            help="Table with the column file_name and some of label, group_id, split and text: "
            ".csv or .jsonl."
        ),
    ] = None
    texts: Annotated[
        Literal["none", "sidecar"],
        _data_option(help="Texts to take for rows without one: sidecar for a.txt beside a.jpg."),
    ] = "none"
    add_new: Annotated[
        bool,
        _data_option(
            "--add-new", help="Also caption images of the folder that its manifest does not list."
        ),
    ] = False
    profile: Annotated[
        str,
        _caption_option(
            help="Modality that words prompt and simple caption: a packaged name or a TOML file."
        ),
    ] = "generic"
    style: Annotated[
        Literal["visual", "simple", "empty"],
        _caption_option(
            help="What the model sees, the simple caption alone, or nothing: the paper's ablation."
        ),
    ] = "visual"
    context: Annotated[
        list[str] | None,
        _caption_option(
            help="Sentence for the prompt with manifest columns in braces, as 'Body site: {site}.' "
            "(repeatable)."
        ),
    ] = None
    attempts: Annotated[
        int, _caption_option(help="Times a row is asked for before its simple caption stands.")
    ] = 5
    base: Annotated[
        str,
        _caption_option(
            help="PixArt pipeline whose T5 tokenizer counts: 120 tokens for alpha, 300 for Sigma."
        ),
    ] = DEFAULT_BASE

    model: Annotated[
        str | None,
        _model_option(
            help=f"Image-text-to-text model, a folder or a hub id ({DEFAULT_CAPTIONER} by "
            "default); with --endpoint, its name there."
        ),
    ] = None
    revision: Annotated[str | None, _model_option(help="Commit, branch or tag of a hub model.")] = (
        None
    )
    load_in: Annotated[
        Literal["4bit", "8bit"] | None,
        _model_option(help="Quantize at loading; needs bitsandbytes: pip install bitsandbytes."),
    ] = None
    batch_size: Annotated[
        int, _model_option(help="Images at a time; halved when memory does not suffice.")
    ] = 8
    image_side: Annotated[
        int, _model_option(help="Longest image side in pixels that the model is shown.")
    ] = 1024
    temperature: Annotated[
        float, _model_option(help="Spread of the draws; 0 always takes the likeliest word.")
    ] = 0.8
    top_k: Annotated[
        int, _model_option(help="Draw from that many likeliest tokens; 0 for all.")
    ] = 50
    top_p: Annotated[
        float, _model_option(help="Draw from the likeliest tokens with this share together.")
    ] = 0.9
    max_new_tokens: Annotated[int, _model_option(help="Most tokens of an answer.")] = 150

    endpoint: Annotated[
        str | None,
        _server_option(
            help="Ask an OpenAI-compatible server instead (vLLM, SGLang, transformers serve), as "
            "http://127.0.0.1:8000/v1. A key is read from MEDART_ENDPOINT_KEY."
        ),
    ] = None
    allow_remote: Annotated[
        bool,
        _server_option(
            "--allow-remote",
            help="Images may leave this machine: the server need not be on the loopback.",
        ),
    ] = False
    concurrency: Annotated[int, _server_option(help="Requests under way at a time.")] = 8
    timeout: Annotated[
        float, _server_option(help="Seconds after which a silent server is asked again.")
    ] = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        self._check_least(
            review=0, audit=0, attempts=1, batch_size=1, image_side=28, temperature=0, top_k=0,
            top_p=0, max_new_tokens=1, concurrency=1, timeout=1,
        )  # fmt: skip
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p must be above 0 and at most 1, got {self.top_p}")
        parse_shard(self.shard)
        if self.images == "-" and self.out is None:
            raise ConfigError("--out: missing; name the manifest to write for standard input")
        if self.overwrite_edits and self.recaption != "all":
            raise ConfigError("--overwrite-edits: goes with --recaption all; add it")
        if self.audit == 1:
            raise ConfigError("--audit 1: needs 2 images or more, to show one in another's place")
        if self.audit and self.style != "visual":
            raise ConfigError(f"--audit {self.audit}: needs --style visual; no model is asked else")
        if self.allow_remote and (self.endpoint is None or self.offline):
            raise ConfigError("--allow-remote: needs --endpoint, and goes without --offline")
        if self.endpoint is not None and (self.load_in or self.revision):
            raise ConfigError("--load-in and --revision are the server's to choose; leave them out")
        if self.add_new and (self.out is not None or not Path(self.images).is_dir()):
            raise ConfigError(
                "--add-new: completes an image folder's own manifest; leave out --out"
            )


REGIMES = ("real", "control", "synthetic", "mix", "pretrain")
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

    With --checkpoint it only predicts. The same command again goes on where it stopped. Options
    that change nothing in a call are refused.
    """

    data: Annotated[
        str, Argument(help="Real training images, labeled (with --checkpoint: images to predict).")
    ]
    out: Annotated[Path, _output_option(help="Folder for the classifier and its results.")]
    overwrite: Annotated[
        bool, _output_option("--overwrite", help="Start anew where the folder is not empty.")
    ] = False
    checkpoint: Annotated[
        Path | None, _output_option(help="Only predict, with the classifier of this folder.")
    ] = None

    test: Annotated[
        str | None,
        _data_option(
            help="Real test images, labeled. Without it: the rows marked split test, else a "
            "stratified part of the training images."
        ),
    ] = None
    synthetic: Annotated[
        str | None, _data_option(help="Synthetic images, labeled: what sample wrote.")
    ] = None
    run: Annotated[
        list[str] | None,
        _data_option(
            help="Run folder of the synthetic images, for its list of training images (repeatable)."
        ),
    ] = None
    root: Annotated[
        Path | None, _data_option(help="Folder that file names of DATA are relative to.")
    ] = None
    synthetic_root: Annotated[
        Path | None, _data_option(help="Folder that file names of --synthetic are relative to.")
    ] = None
    test_root: Annotated[
        Path | None, _data_option(help="Folder that file names of --test are relative to.")
    ] = None
    workers: Annotated[int, _data_option(help="Threads that read images ahead; 0 for none.")] = 2
    cache: Annotated[
        Path | None,
        _data_option(help="Folder for features of images; medart's cache by default."),
    ] = None
    folders: Folders = None
    allow_synthetic: AllowSynthetic = False
    test_fraction: Annotated[
        float, _data_option(help="Share to test on where no test set is given.")
    ] = 0.2
    duplicates: Annotated[
        Literal["drop", "refuse"],
        _data_option(
            help="What to do with training images that are also in the test set, byte for byte or "
            "re-encoded, scaled, mirrored or turned."
        ),
    ] = "drop"
    allow_leak: Annotated[
        bool,
        _data_option(
            "--allow-leak",
            help="Go on where the generator was trained on test images, or on images outside "
            "--label-budget; the results say so.",
        ),
    ] = False

    regimes: Annotated[
        str | None,
        _regimes_option(
            help="Of real, control, synthetic, mix and pretrain, joined by commas; by default all "
            "that the other options allow."
        ),
    ] = None
    equal: Annotated[
        Literal["steps", "epochs"],
        _regimes_option(
            help="What is equal in all regimes. steps: all take the optimizer steps of mix, and "
            "control is real with that many; epochs: each passes --epochs times over its images."
        ),
    ] = "steps"
    ratio: Annotated[
        float | None,
        _regimes_option(help="Synthetic images for each real one in mix; all by default."),
    ] = None
    label_budget: Annotated[
        int | None, _regimes_option(help="Real images a class to learn from; all by default.")
    ] = None
    seeds: Annotated[
        int | None,
        _regimes_option(
            help="Trainings of each regime; 5 by default, 1 with --freeze where nothing is drawn."
        ),
    ] = None
    bootstrap: Annotated[
        int, _regimes_option(help="Draws of test images for the intervals of differences.")
    ] = 2000

    backbone: Annotated[
        str,
        _training_option(help="efficientnet-lite0 (embedded), timm:NAME, a hub id, or a folder."),
    ] = "efficientnet-lite0"
    freeze: Annotated[
        bool,
        _training_option(
            "--freeze", help="Train the last layer only, on fixed features: seconds on a CPU."
        ),
    ] = False
    image_size: Annotated[
        int | None,
        _training_option(
            help="Side of the network's input, pixels; its own by default. 128 is quick on a CPU."
        ),
    ] = None
    profile: Annotated[
        str,
        _training_option(
            help="Modality, which says whether images may be mirrored: a packaged name or a TOML "
            "file."
        ),
    ] = "generic"
    augment: Annotated[
        bool, _training_option("--augment/--no-augment", help="Vary the images while training.")
    ] = True
    balance: Annotated[
        Literal["weights", "sampling", "none"],
        _training_option(help="How rare classes get their due: weight in the loss, or more draws."),
    ] = "weights"
    epochs: Annotated[int, _training_option(help="Passes over the training images.")] = 15
    batch_size: Annotated[int, _training_option(help="Images at a time.")] = 32
    learning_rate: Annotated[float, _training_option(help="Highest learning rate of AdamW.")] = 3e-4
    weight_decay: Annotated[float, _training_option(help="Weight decay of AdamW.")] = 0.05
    label_smoothing: Annotated[
        float,
        _training_option(
            help="Share of each label spread over all classes, against overconfidence."
        ),
    ] = 0.1
    val_fraction: Annotated[
        float,
        _training_option(
            help="Share of the training images held out for early stopping, where that gives 10 "
            "or more a class; 0 for none."
        ),
    ] = 0.15
    patience: Annotated[
        int,
        _training_option(help="Epochs without a better validation score before training stops."),
    ] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        self._check_least(
            workers=0, ratio=0, label_budget=1, seeds=1, bootstrap=100, image_size=32, epochs=1,
            batch_size=1, learning_rate=0, weight_decay=0, label_smoothing=0, val_fraction=0,
            patience=1,
        )  # fmt: skip
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"--test-fraction must be between 0 and 1, got {self.test_fraction}")
        if self.label_smoothing >= 1:
            raise ConfigError(f"--label-smoothing must be below 1, got {self.label_smoothing}")
        if self.val_fraction > 0.5:
            raise ConfigError(f"--val-fraction must be 0.5 or less, got {self.val_fraction}")
        self._refuse_zero("learning_rate")
        if self.ratio == 0:
            raise ConfigError("--ratio 0: leaves no synthetic image to mix; use --regimes real")
        if self.freeze and self.balance == "sampling":
            raise ConfigError("--balance sampling: nothing is sampled with --freeze; use weights")
        if [self.data, self.test, self.synthetic].count("-") > 1:
            raise ConfigError("only one of the sets can be -, standard input")
        self._check_roots("test", "synthetic")
        self._check_regimes()

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options that change nothing in some calls."""
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
                "--regimes control: means nothing with --freeze, since a last layer fitted to "
                "repeated images is the same one; leave one of the two out"
                if self.freeze
                else "--regimes control: is real with equal steps; leave out --equal epochs"
            )
        if self.freeze and "pretrain" in chosen:
            raise ConfigError(
                "--regimes pretrain: means nothing with --freeze, since a last layer alone ends at "
                "the same weights whatever it starts from; leave one of the two out"
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


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CommonConfig):
    """Measure how close synthetic images are to real ones, and whether they copy them.

    Writes metrics.json, copies.jsonl, plots and report.html. Several sets are ranked in one table.
    """

    real: Annotated[
        str, Argument(help="Real images: folder, manifest, or - for one on standard input.")
    ]
    synthetic: Annotated[
        list[str], Argument(help="One synthetic set or several: folders or manifests.")
    ]
    out: Annotated[Path, _output_option(help="Report folder to write.")]
    overwrite: Annotated[
        bool, _output_option("--overwrite", help="Start anew where the report folder is not empty.")
    ] = False

    root: Annotated[
        Path | None,
        _data_option(
            help="Folder that file names of REAL are relative to; they may then be absolute."
        ),
    ] = None
    synthetic_root: Annotated[
        list[Path] | None,
        _data_option(
            help="Folder that file names of a synthetic set are relative to (repeatable: one for "
            "all sets, or one for each, in order)."
        ),
    ] = None
    holdout_root: Annotated[
        Path | None, _data_option(help="Folder that file names of --holdout are relative to.")
    ] = None
    folders: Folders = None
    allow_synthetic: AllowSynthetic = False
    per_label: Annotated[
        bool, _data_option("--per-label/--overall", help="Measure each label by itself as well.")
    ] = True
    batch_size: Annotated[int, _data_option(help="Images in one pass of a network.")] = 32
    workers: Annotated[int, _data_option(help="Threads that read images ahead; 0 for none.")] = 2
    cache: Annotated[
        Path | None, _data_option(help="Folder for features; medart's cache by default.")
    ] = None
    shard: Annotated[
        str | None,
        _data_option(
            help="Only compute the features of part I/N of the images, as 2/3, for job arrays; "
            "then the same command without --shard finds all in the cache, and measures."
        ),
    ] = None

    features: Annotated[
        list[str] | None,
        _measures_option(
            help="Network (repeatable): inception, efficientnet-lite0, dinov2, a folder that "
            "medart classify wrote, any image model of transformers or timm. By default inception "
            "where its weights are, else efficientnet-lite0."
        ),
    ] = None
    inception: Annotated[
        Path | None,
        _measures_option(
            help="File inception-2015-12-05.pt or its folder; medart's cache by default."
        ),
    ] = None
    bootstrap: Annotated[
        int, _measures_option(help="Resamples of a 95% interval; 0 for no intervals.")
    ] = 200
    floor_repeats: Annotated[
        int, _measures_option(help="Random splits of the real set for its floor.")
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
        float, _copies_option(help="Share of unseen real images that may be taken for copies.")
    ] = 0.01
    fail_on_copies: Annotated[
        float | None,
        _copies_option(help="Exit with code 1 if more than this share of a set are near-copies."),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_levels(self.folders)
        self._check_least(
            batch_size=1, workers=0, bootstrap=0, floor_repeats=1, copy_rate=0, fail_on_copies=0
        )
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


@dataclass(frozen=True, kw_only=True)
class DemoConfig(CommonConfig):
    """Run all stages on drawn images and the embedded tiny models: minutes, no GPU, no network.

    Ends in demo/report.html: what fine-tuning changed, and what the color loss of HLDF changed.
    """

    keep: Annotated[
        Path | None,
        _output_option(
            help="Folder for the page and all that the stages wrote; without it only the page is "
            "kept, in demo."
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision != "auto":
            raise ConfigError("--precision: changes nothing here, demo takes what suits the device")
        if self.max_failures:
            raise ConfigError("--max-failures: changes nothing here, demo draws its own images")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(CommonConfig):
    """Look at this machine and the model files on its disk: what is there, and what is missing.

    Nothing is fetched, loaded or written. Ends with code 4 if a model that is named cannot be used.
    """

    base: Annotated[
        str | None,
        _looking_option(help="Base of finetune and sample, or a run folder with its base."),
    ] = None
    model: Annotated[str | None, _looking_option(help="Captioner of caption.")] = None
    features: Annotated[
        list[str] | None,
        _looking_option(
            help="Network of evaluate or classify: inception, efficientnet-lite0, dinov2, ... "
            "(repeatable)."
        ),
    ] = None
    out: Annotated[
        Path | None, _looking_option(help="Output folder: can it be written, and is there room?")
    ] = None
    hash: Annotated[
        bool,
        _looking_option("--hash", help="Hash files above 500 MB too, which may take minutes."),
    ] = False


# What takes less memory, the least loss first: an option, the values at which it helps (None: all),
# and what to say.
_MORE_THAN_ONE = range(2, 1 << 31)
_Hint = tuple[str, Container[Any] | None, str]
LESS_MEMORY: dict[type[CommonConfig], tuple[_Hint, ...]] = {
    CaptionConfig: (  # its batches are halved without being asked
        ("load_in", (None, "8bit"), "--load-in 4bit"),
        ("image_side", None, "a smaller --image-side"),
        ("model", None, "a smaller --model"),
    ),
    FinetuneConfig: (
        ("gradient_checkpointing", (False,), "--gradient-checkpointing"),
        ("hldf_checkpoint", ("auto", "none", "block"), "--hldf-checkpoint step"),
        ("batch_size", _MORE_THAN_ONE, "a smaller --batch-size"),
        ("precision", ("fp32",), "--precision bf16"),
        ("resolution", None, "a smaller --resolution"),
    ),
    SampleConfig: (
        ("batch_size", _MORE_THAN_ONE, "a smaller --batch-size"),
        ("precision", ("fp32",), "--precision bf16"),
        ("resolution", None, "a smaller --resolution"),
    ),
    EvaluateConfig: (
        ("batch_size", _MORE_THAN_ONE, "a smaller --batch-size"),
        ("precision", ("auto", "fp32"), "--precision bf16"),  # its auto is fp32
    ),
    ClassifyConfig: (
        ("batch_size", _MORE_THAN_ONE, "a smaller --batch-size"),
        ("precision", ("fp32",), "--precision bf16"),
        ("image_size", None, "a smaller --image-size"),
        ("freeze", (False,), "--freeze"),
    ),
}


def name_less_memory(config: CommonConfig, full: str) -> str:
    """Name the options of a command that would take less memory than it took.

    Args:
        config: What was run.
        full: Whose memory was full, `GPU` or `machine`.
    """
    hints = [
        text
        for name, helps, text in LESS_MEMORY.get(type(config), ())
        if helps is None or getattr(config, name) in helps
    ]
    if full == "GPU":
        hints.append("--device cpu")
    return " or ".join(part for part in (", ".join(hints[:-1]), *hints[-1:]) if part) or (
        "more memory"
    )
