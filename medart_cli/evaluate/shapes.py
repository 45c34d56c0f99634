"""Whether synthetic images have the shapes of the real ones.

Networks are shown squares: they squeeze an image, or cut its ends. Real images that are not square
then differ from square synthetic ones by that alone.
"""

from collections.abc import Sequence

import numpy as np

from medart_cli.data.images import read_size
from medart_cli.errors import ImageError
from medart_cli.evaluate.sets import ImageSet
from medart_cli.log import log
from medart_cli.metrics.arrays import Array

SHAPES_TAKEN = 100  # images of a set
CLEAR_GAP = 1.1  # one shape is on average so many times as long for its width as the other


def warn_of_shapes(real: ImageSet, synthetic: Sequence[ImageSet]) -> None:
    """Warn of synthetic sets whose images are clearly of other shapes than the real ones."""
    own = read_ratios(real)
    for item in synthetic:
        other = read_ratios(item)
        gap = find_gap(own, other) if len(own) and len(other) else 0.0
        if gap > np.log(CLEAR_GAP):
            log.warning(
                "%s: its images have other shapes than those of %s (height/width differs by %.0f "
                "%% on average): networks are shown squares of both, and part of what they find "
                "different is the shape; train with medart finetune --buckets, or crop the real "
                "images alike", item.name, real.name, 100 * (np.exp(gap) - 1),
            )  # fmt: skip


def find_gap(one: Array, other: Array) -> float:
    """Return the Wasserstein-1 distance of two samples, from their quantiles."""
    places = (np.arange(SHAPES_TAKEN) + 0.5) / SHAPES_TAKEN
    first, second = (np.quantile(it, places, method="inverted_cdf") for it in (one, other))
    return float(np.abs(first - second).mean())


def read_ratios(item: ImageSet) -> Array:
    """Return the logarithm of height over width of some images, evenly over the set."""
    places = np.unique(np.linspace(0, len(item) - 1, SHAPES_TAKEN).round().astype(int))
    found = []
    for place in places if len(item) else ():
        try:
            width, height = read_size(item.record(place).path)
        except ImageError:  # its features are known from before
            continue
        found.append(np.log(height / width))
    return np.array(found, dtype=np.float64)
