"""Color fidelity: how far the colors of two sets of images differ, without any network.

An image's colors are four histograms of 256 bins: red, green, blue and saturation. All measures
follow from them, in units of the whole range (0 to 1), and so do their intervals. A gap compares
averages over the sets; the variety tells whether the images of a set differ from each other in
color as much as real ones do, which no average shows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

from medart_cli.metrics.arrays import AnyArray, Array, Indices
from medart_cli.metrics.resampling import draw_counts

CHANNELS = ("red", "green", "blue", "saturation")
BINS = 256
COLOR_WIDTH = len(CHANNELS) * BINS
CHUNK_IMAGES = 1024  # images that are summarized at a time
LEAST_VARIETY = 1 / 255  # of the whole range: one level; images that differ less are of one color
LARGEST_SIDE = 256  # pixels; sets of different resolution are compared after shrinking to it
GAP_MEASURES = ("mean", "spread", "histogram")
FLOOR_PERMUTATIONS = (
    399  # permutations of the images of both sets, for what colors differ by chance
)
SCALED = 200  # deals before these, by which the measures are brought to one scale
# Share of pairs of sets from the same source with any gap beyond its floor.
FAMILY_WISE_ERROR = 0.04
DEALT = 64  # deals at a time: 10 MB of weights for 20,000 images
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
    """How the colors of a synthetic set differ from a real set's: R, G, B, saturation, (..., 4).

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
    return _gap(_summarize(synthetic).mean(axis=0) - _summarize(real).mean(axis=0))


def bootstrap_color(
    real: AnyArray,
    synthetic: AnyArray,
    groups: tuple[Indices, Indices],
    *,
    generator: np.random.Generator,
    repeats: int,
) -> ColorGap:
    """Compare `repeats` pairs of sets, whose patients are drawn with replacement.

    Args:
        real: (N1, 1024).
        synthetic: (N2, 1024).
        groups: Patient of each real and of each synthetic image, as codes.
        generator: Draws.
        repeats: How many pairs.

    Returns:
        The gaps of all pairs, each measure (repeats, 4).
    """
    first, second = (
        draw_means(item, codes, generator, repeats)[1:]
        for item, codes in zip((real, synthetic), groups, strict=True)
    )
    return _gap(second - first)


def draw_means(
    colors: AnyArray, groups: Indices, generator: np.random.Generator, repeats: int
) -> Array:
    """Average a set, and then `repeats` resamples of it by patient: (1 + repeats, 4, 257).

    The first 256 of the last axis are the histogram, the last is the spread inside an image.
    """
    counts = np.concatenate([np.ones((1, len(colors))), draw_counts(groups, repeats, generator)])
    weights = counts / counts.sum(axis=1, keepdims=True)
    return np.asarray(np.tensordot(weights, _summarize(colors), axes=1))


def average_gaps(real: Array, synthetic: Array) -> dict[str, Array]:
    """Average the size of each measure's gap over red, green and blue: each (1 + repeats,).

    The first is the size itself. Those of the resamples are taken to first order, with the signs
    of the sets' own gaps: folded at zero they would spread too little.

    Args:
        real: Means from `draw_means`, (1 + repeats, 4, 257).
        synthetic: The same of a synthetic set.
    """
    change = (synthetic - real)[:, :3]
    gap = _gap(change)
    steps = np.cumsum(change[..., :BINS], axis=-1)[..., :-1]
    signed = {
        "mean": np.sign(gap.mean[0]) * gap.mean,
        "spread": np.sign(gap.spread[0]) * gap.spread,
        "histogram": (np.sign(steps[0]) * steps).sum(axis=-1) / (BINS - 1),
    }
    return {name: values.mean(axis=1) for name, values in signed.items()}


def color_floor(
    real: AnyArray,
    synthetic: AnyArray,
    groups: tuple[Indices, Indices],
    generator: np.random.Generator,
    families: int = 1,
) -> ColorGap:
    """Find how large the gaps of two sets from the same source are, at the n of these sets.

    The images of both are permuted, `FLOOR_PERMUTATIONS` times. Of a patient one image is dealt,
    with the weight that all of them have, for images of one patient are not independent; where
    they are not fully alike the floor is somewhat high.

    Args:
        real: (N1, 1024) from `describe_colors`.
        synthetic: (N2, 1024).
        groups: Patient of each real and of each synthetic image, as codes.
        generator: Deals.
        families: How many pairs of sets are compared, among which the error is shared.

    Returns:
        The size of each gap that only `FAMILY_WISE_ERROR` of the deals exceed in any of the twelve.

    Source:
        The maximum over standardized measures: Westfall and Young 1993, Resampling-Based Multiple
        Testing.
    """
    pooled = _summarize(np.concatenate([real, synthetic]))
    found = []
    for start in range(0, SCALED + FLOOR_PERMUTATIONS, DEALT):
        weights = _deal_weights(groups, min(DEALT, SCALED + FLOOR_PERMUTATIONS - start), generator)
        gaps = _gap(np.tensordot(weights, pooled, axes=1))
        found.append(np.abs([getattr(gaps, name) for name in GAP_MEASURES]))  # (3, deals, 4)
    sizes = np.concatenate(found, axis=1)
    # Deals of their own set the scale: in its own scale a deal would be less far out than the sets.
    first, sizes = sizes[:, :SCALED], sizes[:, SCALED:]
    mean, spread = (item[:, None] for item in (first.mean(axis=1), first.std(axis=1)))
    largest = ((sizes - mean) / np.maximum(spread, 1e-12)).max(axis=(0, 2))  # of each deal
    # Deals beyond the floor; with the sets themselves they make the error.
    allowed = max(0, int(FAMILY_WISE_ERROR / families * (FLOOR_PERMUTATIONS + 1)) - 1)
    floor = mean + np.sort(largest)[FLOOR_PERMUTATIONS - 1 - allowed] * spread  # (3, 1, 4)
    return ColorGap(**{name: floor[place, 0] for place, name in enumerate(GAP_MEASURES)})


def _deal_weights(
    groups: tuple[Indices, Indices], count: int, generator: np.random.Generator
) -> Array:
    """Weigh the images of both sets for dealt means, synthetic less real: (count, N1 + N2)."""
    codes: list[Indices] = []
    shares: list[Array] = []
    for sign, item in zip((-1, 1), groups, strict=True):
        own, sizes = np.unique(item, return_inverse=True, return_counts=True)[1:]
        codes.append(own + (codes[0].max() + 1 if codes else 0))
        shares.append(sign * sizes / len(item))
    members, weights = np.concatenate(codes), np.concatenate(shares)
    found = np.zeros((count, len(members)))
    for row in found:
        order = generator.permutation(len(members))
        one = order[np.unique(members[order], return_index=True)[1]]  # a random image of each
        row[one] = generator.permutation(weights)
    return found


def channel_moments(colors: AnyArray) -> Array:
    """Return mean and deviation of each channel of each image: (N, 1024) -> (N, 4, 2)."""
    found = np.empty((len(colors), len(CHANNELS), 2))
    for start in range(0, len(colors), CHUNK_IMAGES):
        rows = slice(start, start + CHUNK_IMAGES)
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
    real: Array,
    synthetic: Array,
    groups: tuple[Indices, Indices],
    *,
    generator: np.random.Generator,
    repeats: int,
) -> Array:
    """Compare the variety of `repeats` pairs of sets, drawn by patient: (repeats, 4).

    The variance of a resample is on average (n - 1) / n of that of the set, with n the number of
    patients; this is put right.
    """
    spreads = []
    for item, codes in zip((synthetic, real), reversed(groups), strict=True):
        n, patients = len(item), len(np.unique(codes))
        if patients < 2:
            return np.full((repeats, item.shape[1]), np.nan)  # nothing to draw from
        counts = draw_counts(codes, repeats, generator)
        weights = counts / counts.sum(axis=1, keepdims=True)
        centered = item - item.mean(axis=0)
        first, second = weights @ centered, weights @ centered**2
        right = n / (n - 1) * patients / (patients - 1)
        spreads.append(np.sqrt((second - first**2).clip(min=0) * right))
    return _ratio(*spreads)


def energy_distance(real: AnyArray, synthetic: AnyArray) -> float:
    """Return the energy distance of two sets of vectors, each pair of different images once.

    It is what `finetune --hldf-loss score` minimizes, and 0 where both sets have the same
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
    for start in range(0, len(colors), CHUNK_IMAGES):
        rows = slice(start, start + CHUNK_IMAGES)
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


def _gap(change: Array) -> ColorGap:
    """Compare two averaged summaries by their difference, (..., 4, 257)."""
    levels = np.arange(BINS) / (BINS - 1)
    steps = np.abs(np.cumsum(change[..., :BINS], axis=-1))[..., :-1]  # between neighboring levels
    return ColorGap(
        mean=change[..., :BINS] @ levels,
        spread=change[..., BINS],
        histogram=steps.sum(axis=-1) / (BINS - 1),
    )
