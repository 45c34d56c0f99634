"""When a run draws previews, and how many: light facts, which the estimate counts with too."""

from medart_cli.finetune.options import FinetuneConfig

PREVIEW_STEPS = 20  # solver steps of an image


def preview_due(config: FinetuneConfig, step: int, total: int) -> bool:
    """Say whether a preview belongs to a step: every so many, and the last one of the run.

    A run that is made longer afterwards keeps the preview of what was its last step.

    Args:
        config: The options.
        step: That was just made.
        total: Steps of the run.
    """
    every = config.preview_every
    return every > 0 and (step % every == 0 or step >= total)


def count_previews(config: FinetuneConfig, total: int) -> int:
    """Return how many previews an uninterrupted run of so many steps draws."""
    every = config.preview_every
    return -(-total // every) if every else 0
