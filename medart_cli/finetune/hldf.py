"""How HLDF is made: its settings with the defaults filled in, and how often it runs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medart_cli.errors import ConfigError

if TYPE_CHECKING:  # whose checks use this file
    from medart_cli.finetune.options import FinetuneConfig


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


def plan_hldf(config: "FinetuneConfig") -> Hldf:
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
