"""Color fidelity: how far the colors of two sets of images differ, without any network.

An image's colors are four histograms of 256 bins: red, green, blue and saturation. All measures
follow from them, in units of the whole range (0 to 1), and so do their intervals. A gap compares
averages over the sets; the variety tells whether the images of a set differ from each other in
color as much as real ones do, which no average shows.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

Array = npt.NDArray[np.float64]
AnyArray = npt.NDArray[np.floating]
CHANNELS = ("red", "green", "blue", "saturation")
BINS = 256
WIDTH = len(CHANNELS) * BINS
ROWS = 1024  # images that are summarized at a time
LEAST_VARIETY = 1 / 255  # of the whole range: one level; images that differ less are of one color
LARGEST_SIDE = 256  # pixels; sets of different resolution are compared after shrinking to it
FINGERPRINT = "colors 1: histograms of R, G, B, HSV saturation; box-shrunk to 256 pixels a side"


def describe_colors(image: Image.Image) -> Tensor:
    """Take the color histograms of an RGB image: (1024,) shares, 256 for each channel."""
    side = max(image.size)
    if side > LARGEST_SIDE:
        size = [max(1, round(length * LARGEST_SIDE / side)) for length in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.BOX)
    pixels = [*image.split(), image.convert("HSV").getchannel("S")]
    counts = np.array([channel.histogram() for channel in pixels], dtype=np.float32)  # (4, 256)
    return torch.from_numpy(counts.ravel() / (image.width * image.height))


@dataclass(frozen=True)
class ColorGap:
    """How the colors of a synthetic set differ from a real set's; four values, R, G, B, saturation.

    Attributes:
        mean: Difference of the means over all pixels, synthetic less real.
        spread: Difference of the mean standard deviation inside an image.
        histogram: Wasserstein-1 distance of the pooled histograms.
    """

    mean: Array
    spread: Array
    histogram: Array


def color_gap(real: AnyArray, synthetic: AnyArray) -> ColorGap:
    """Compare the colors of two sets.

    Args:
        real: (N1, 1024) from `describe_colors`.
        synthetic: (N2, 1024).
    """
    return _gap(_summarize(real).mean(axis=0), _summarize(synthetic).mean(axis=0))


def bootstrap_color(
    real: AnyArray, synthetic: AnyArray, generator: np.random.Generator, repeats: int
) -> list[ColorGap]:
    """Compare `repeats` pairs of sets, drawn from the images with replacement."""
    first, second = _summarize(real), _summarize(synthetic)
    gaps = []
    for _ in range(repeats):
        rows, columns = (
            np.bincount(generator.integers(len(item), size=len(item)), minlength=len(item))
            for item in (first, second)
        )
        gaps.append(
            _gap(
                np.tensordot(rows / len(first), first, axes=1),
                np.tensordot(columns / len(second), second, axes=1),
            )
        )
    return gaps


def color_moments(colors: AnyArray) -> Array:
    """Return mean and deviation of each channel of each image: (N, 1024) -> (N, 4, 2)."""
    found = np.empty((len(colors), len(CHANNELS), 2))
    for start in range(0, len(colors), ROWS):
        rows = slice(start, start + ROWS)
        found[rows] = _moments(_shares(colors[rows]))
    return found


def color_variety(real: AnyArray, synthetic: AnyArray) -> Array:
    """Compare how much the images of two sets differ from each other in color.

    Args:
        real: Channel means of each image, (N1, 4), N1 of 2 or more.
        synthetic: The same, (N2, 4).

    Returns:
        For each channel the standard deviation over the synthetic images over that of the real
        ones, (4,): 1 where they vary alike, 0 where all synthetic images have one color; NaN where
        the real ones do not vary.
    """
    return _ratio(synthetic.std(axis=0, ddof=1), real.std(axis=0, ddof=1))


def bootstrap_variety(
    real: Array, synthetic: Array, *, generator: np.random.Generator, repeats: int
) -> Array:
    """Compare the variety of `repeats` pairs of sets, drawn with replacement: (repeats, 4).

    The variance of a resample is on average (n - 1) / n of that of the set; this is put right.
    """
    spreads = []
    for item in (synthetic, real):
        n = len(item)
        counts = generator.multinomial(n, np.full(n, 1 / n), size=repeats)
        centered = item - item.mean(axis=0)
        first, second = counts @ centered / n, counts @ centered**2 / n
        spreads.append(np.sqrt((second - first**2).clip(min=0)) * n / (n - 1))
    return _ratio(*spreads)


def energy_distance(real: AnyArray, synthetic: AnyArray) -> float:
    """Return the energy distance of two sets of vectors, each pair of different images once.

    It is what `finetune --hldf-loss score` brings down, and 0 where both sets have the same
    distribution; the unbiased estimate may then be negative.

    Args:
        real: (N1, D), N1 of 2 or more.
        synthetic: (N2, D), N2 of 2 or more.

    Source:
        Szekely and Rizzo 2013, Energy statistics, with U-statistics for the sets themselves.
    """
    within = pdist(real).mean() + pdist(synthetic).mean()
    return float(2 * cdist(real, synthetic).mean() - within)


def _ratio(synthetic: Array, real: Array) -> Array:
    varies = real > LEAST_VARIETY
    return np.where(varies, synthetic / np.where(varies, real, 1), np.nan)


def pooled_histograms(colors: AnyArray) -> Array:
    """Average the histograms of a set, (4, 256)."""
    mean: Array = np.mean(colors, axis=0, dtype=np.float64)
    return mean.reshape(len(CHANNELS), BINS)


def _summarize(colors: AnyArray) -> Array:
    """Lay beside each image's histograms its channels' spreads: (N, 4, 257)."""
    found = np.empty((len(colors), len(CHANNELS), BINS + 1))
    for start in range(0, len(colors), ROWS):
        rows = slice(start, start + ROWS)
        shares = _shares(colors[rows])
        found[rows, :, :BINS] = shares
        found[rows, :, BINS] = _moments(shares)[..., 1]
    return found


def _shares(colors: AnyArray) -> Array:
    return np.asarray(colors, dtype=np.float64).reshape(-1, len(CHANNELS), BINS)


def _moments(shares: Array) -> Array:
    """Mean and deviation of the channels of images, (N, 4, 2), from their histograms."""
    levels = np.arange(BINS) / (BINS - 1)
    means = shares @ levels
    spreads = np.sqrt((shares @ np.square(levels) - np.square(means)).clip(min=0))
    return np.stack([means, spreads], axis=-1)


def _gap(real: Array, synthetic: Array) -> ColorGap:
    """Compare two averaged summaries, (4, 257) each."""
    change = synthetic - real
    levels = np.arange(BINS) / (BINS - 1)
    steps = np.abs(np.cumsum(change[:, :BINS], axis=1))[:, :-1]  # between neighboring levels
    return ColorGap(
        mean=change[:, :BINS] @ levels,
        spread=change[:, BINS],
        histogram=steps.sum(axis=1) / (BINS - 1),
    )
