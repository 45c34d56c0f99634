"""Color fidelity: how far the colors of two sets of images differ, without any network.

An image's colors are four histograms of 256 bins: red, green, blue and saturation. All measures
follow from them, in units of the whole range (0 to 1), and so do their intervals.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Array = npt.NDArray[np.float64]
AnyArray = npt.NDArray[np.floating]
CHANNELS = ("red", "green", "blue", "saturation")
BINS = 256
WIDTH = len(CHANNELS) * BINS
ROWS = 1024  # images that are summarized at a time
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


def pooled_histograms(colors: AnyArray) -> Array:
    """Average the histograms of a set, (4, 256)."""
    mean: Array = np.mean(colors, axis=0, dtype=np.float64)
    return mean.reshape(len(CHANNELS), BINS)


def _summarize(colors: AnyArray) -> Array:
    """Lay beside each image's histograms its channels' spreads: (N, 4, 257)."""
    levels = np.arange(BINS) / (BINS - 1)
    found = np.empty((len(colors), len(CHANNELS), BINS + 1))
    for start in range(0, len(colors), ROWS):
        rows = slice(start, start + ROWS)
        shares = np.asarray(colors[rows], dtype=np.float64).reshape(-1, len(CHANNELS), BINS)
        means = shares @ levels
        found[rows, :, :BINS] = shares
        found[rows, :, BINS] = np.sqrt((shares @ np.square(levels) - np.square(means)).clip(min=0))
    return found


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
