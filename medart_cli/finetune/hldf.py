"""How HLDF is made: its options, what they come to with the defaults, and how often it runs."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from typer import Option

from medart_cli.errors import ConfigError
from medart_cli.options import RUN_ONLY

_hldf_option = partial(Option, rich_help_panel="HLDF")


@dataclass(frozen=True, kw_only=True)
class HldfOptions:
    """The options of `medart finetune` about the color loss; the group HLDF."""

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

    def check_hldf(self) -> None:
        """Check what of these options depends on others of them; make --hldf-every a number.

        Raises:
            ConfigError: Names the option.
        """
        every = parse_every(self.hldf_every)
        object.__setattr__(self, "hldf_every", every)  # a number is one, also from the command line
        if self.hldf_region == "mask" and self.hldf_statistics == "grid":
            raise ConfigError("--hldf-region mask: has no grid; use --hldf-statistics moments")
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


def plan_hldf(config: HldfOptions) -> Hldf:
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
