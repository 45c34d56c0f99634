"""A reader study: two sets -> a kit for blinded readers; a kit and their answers -> results."""

from typing import Any

from medart_cli.reader.kit import make_kit
from medart_cli.reader.options import ReaderConfig


def run(config: ReaderConfig) -> dict[str, Any]:
    """Write a kit, or score the answers that readers saved on the page of one."""
    if config.answers is None:
        return make_kit(config)
    from medart_cli.reader.results import score_kit  # loads SciPy, which a kit does not need

    return score_kit(config)
