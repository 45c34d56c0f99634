"""95 % intervals of a classifier's scores that hold where test images are few, rare or alike.

A bootstrap has nothing to draw where a classifier makes no or hardly any error, and too little
where patients are few: its intervals are then too narrow, or have no width. These are Wilson's, for
the number of independent images that would give the variance that is seen. That variance comes from
the influence of each image on the score, summed over each patient, and from the training seeds.
tests/bench/bench_intervals.py measures how often the intervals hold the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from medart_cli.metrics.arrays import Array, Integers
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL

# How much the assumed effective number of images weighs, in patients who make the difference.
PRIOR = 2.0


@dataclass(frozen=True)
class Linear:
    """Shares of K classes (or of one thing), and what each image has to do with them.

    Attributes:
        values: The shares of each training seed, (S, K).
        influence: How far each image moves their mean over the seeds, (N, K); sums to 0.
        images: How many images each share rests on, (K,).
        groups: How many groups those images belong to, (K,).
    """

    values: Array
    influence: Array
    images: Array
    groups: Array


def find_score_intervals(
    truth: Integers, runs: Sequence[Array], groups: Sequence[Any]
) -> dict[str, tuple[float, float]]:
    """Give the 95 % interval of the mean over seeds of each score that one can be given for.

    The calibration error has none: it lies above the truth by more than its interval is wide.

    Args:
        truth: Class indices, (N,); a class that does not occur is left out of the means.
        runs: Probabilities of each training seed, each (N, K).
        groups: The group (patient) of each image, (N,).

    Returns:
        By score, the AUROC only where two classes or more occur.
    """
    codes = number_groups(groups)
    parts = linearize(truth, runs, codes)
    accuracy = find_limits(parts["accuracy"], codes)[0]
    found = {
        "balanced_accuracy": average_limits(parts["sensitivity"], codes),
        "accuracy": (float(accuracy[0]), float(accuracy[1])),
        "macro_f1": average_limits(parts["f1"], codes),
    }
    if "auroc" in parts:
        auroc = parts["auroc"]
        mean = Linear(  # classes share their images, so their AUROCs count as one
            auroc.values.mean(axis=1, keepdims=True),
            auroc.influence.mean(axis=1, keepdims=True),
            _harmonic(auroc.images),
            _harmonic(auroc.groups),
        )
        area = find_limits(mean, codes)[0]
        found["auroc"] = (float(area[0]), float(area[1]))
    return found


def find_class_intervals(
    truth: Integers, runs: Sequence[Array], groups: Sequence[Any]
) -> dict[str, Array]:
    """Give the 95 % intervals of sensitivity, specificity and AUROC of each class, each (K, 2).

    Arguments as in `find_score_intervals`; here every class occurs.
    """
    codes = number_groups(groups)
    parts = linearize(truth, runs, codes)
    names = ("sensitivity", "specificity", "auroc")
    return {name: find_limits(parts[name], codes) for name in names}


def find_limits(linear: Linear, codes: Integers) -> Array:
    """Give Wilson's limits of each share for its effective number of images, (K, 2).

    1 over that number is the variance seen over p (1 - p). What is seen says little where it rests
    on the errors of a few patients, and nothing where there is no error. So it is averaged with
    that of an assumed number, the geometric mean of images and patients, halfway between images
    that are independent and images of a patient that are all right or all wrong. What is seen
    weighs as many patients as drive it; what is assumed counts as PRIOR degrees of freedom.

    Source:
        Wilson 1927; effective numbers with Student's quantile as in Korn and Graubard 1998, Survey
        Methodology 24, 193-201.
    """
    seeds, effective = (
        len(linear.values),
        find_effective(linear, sum_groups(linear.influence, codes)),
    )
    mean, variance = effective.mean, effective.variance
    seed_variance = linear.values.var(axis=0, ddof=1) / seeds if seeds > 1 else 0 * mean
    spread = mean * (1 - mean)
    share = effective.share + np.divide(
        seed_variance, spread, out=np.zeros_like(mean), where=spread > 0
    )
    freedom = _freedom(variance, effective.freedom, seed_variance, seeds)
    reach = stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, freedom)
    return find_wilson(mean, share, reach)


@dataclass(frozen=True)
class Effective:
    """What the images of a test set say of K shares, without the luck of training seeds.

    Attributes:
        mean: The shares, (K,).
        variance: As it is seen between groups, (K,).
        share: One over the effective number of images, (K,).
        freedom: Degrees of freedom, (K,).
    """

    mean: Array
    variance: Array
    share: Array
    freedom: Array


def find_effective(linear: Linear, sums: Array) -> Effective:
    """Find the effective number of images behind each share, see `find_limits`.

    Args:
        linear: The shares.
        sums: Their influences, summed over each group, (G, K).
    """
    mean = linear.values.mean(axis=0)  # (K,)
    squares, fourths = (sums**2).sum(axis=0), (sums**4).sum(axis=0)
    driving = np.divide(squares**2, fourths, out=np.zeros_like(mean), where=fourths > 0)
    free = np.maximum(linear.groups - 1, 1)
    variance = squares * linear.groups / free
    spread = mean * (1 - mean)
    seen = np.divide(variance, spread, out=np.zeros_like(mean), where=spread > 0)
    assumed = 1 / np.sqrt(linear.images * linear.groups)
    share = (driving * seen + PRIOR * assumed) / (driving + PRIOR)
    return Effective(mean, variance, share, free + PRIOR)


def average_limits(linear: Linear, codes: Integers) -> tuple[float, float]:
    """Give the limits of the mean of K shares from the limits of each; see `contrast_limits`."""
    count = linear.values.shape[1]
    low, high = contrast_limits(linear, codes, np.full(count, 1 / count))
    return max(0.0, low), min(1.0, high)


def contrast_limits(linear: Linear, codes: Integers, weights: Array) -> tuple[float, float]:
    """Give the limits of a weighted sum of K shares, as their difference, from the limits of each.

    Args:
        linear: The shares.
        codes: The group of each image, (N,).
        weights: Of each share, of either sign, (K,).

    Source:
        MOVER, Zou and Donner 2008, Statistics in Medicine 27, 1693-1702, with the correlations of
        the shares between patients.
    """
    mean, limits = linear.values.mean(axis=0), find_limits(linear, codes)
    likeness = correlate(sum_groups(linear.influence, codes))
    below, above = mean - limits[:, 0], limits[:, 1] - mean
    down = weights * np.where(weights > 0, below, above)  # how far each share can take the sum
    up = weights * np.where(weights > 0, above, below)
    low, high = (np.sqrt(max(0.0, reach @ likeness @ reach)) for reach in (down, up))
    value = weights @ mean
    return float(value - low), float(value + high)


def correlate(sums: Array) -> Array:
    """Correlate shares between groups, from their influences summed over each: (G, K) to (K, K)."""
    products = sums.T @ sums
    scale = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    return np.divide(products, scale, out=np.eye(len(products)), where=scale > 0)


def find_wilson(mean: Array, share: Array, reach: Array | float) -> Array:
    """Give Wilson's limits, (K, 2), with `share` for one over the number of images.

    By hand: scipy.stats.binomtest takes whole numbers of images, and the normal quantile alone.
    """
    push = reach**2 * share  # (K,)
    middle = (mean + push / 2) / (1 + push)
    half = np.sqrt(push * mean * (1 - mean) + push**2 / 4) / (1 + push)
    low, high = np.maximum(middle - half, 0), np.minimum(middle + half, 1)
    return np.stack([np.minimum(low, mean), np.maximum(high, mean)], axis=1)


def _freedom(variance: Array, free: Array, seed_variance: Array, seeds: int) -> Array:
    """Degrees of freedom of a sum of two variances (Satterthwaite 1946)."""
    total = variance + seed_variance
    parts = variance**2 / free + seed_variance**2 / max(1, seeds - 1)
    return np.divide(total**2, parts, out=free.astype(np.float64), where=parts > 0)


def linearize(truth: Integers, runs: Sequence[Array], codes: Integers) -> dict[str, Linear]:
    """Express each score by influences of images; those of the AUROC are DeLong's components.

    Args:
        truth: Class indices, (N,).
        runs: Probabilities of each training seed, each (N, all classes).
        codes: The code of each image's group, (N,).

    Returns:
        By score, its shares of the K classes that occur; of one class alone there is neither a
        specificity nor an AUROC.
    """
    present = np.unique(truth)  # (K,)
    is_class = (truth[:, None] == present).astype(np.float64)  # (N, K)
    images = is_class.sum(axis=0)
    groups = (sum_groups(is_class, codes) > 0).sum(axis=0)
    others = (sum_groups(1 - is_class, codes) > 0).sum(axis=0)
    whole = np.array([len(truth)]), np.array([len(np.unique(codes))])
    sizes = {"accuracy": whole, "sensitivity": (images, groups), "f1": (images, groups)}
    if len(present) > 1:
        both = (
            4 * images * (len(truth) - images) / len(truth),
            4 * groups * others / (groups + others),
        )
        sizes |= {"specificity": (len(truth) - images, others), "auroc": both}
    each = [_linearize_run(is_class, present, probabilities) for probabilities in runs]
    return {
        name: Linear(
            np.stack([one[name][0] for one in each]),
            np.mean([one[name][1] for one in each], axis=0),
            *size,
        )
        for name, size in sizes.items()
    }


def _linearize_run(
    is_class: Array, present: Integers, probabilities: Array
) -> dict[str, tuple[Array, Array]]:
    """Give the values (K,) and the influences of images (N, K) of one training seed."""
    is_said = (probabilities.argmax(axis=1)[:, None] == present).astype(np.float64)
    hits, everywhere = is_class * is_said, np.ones((len(is_class), 1))
    table = {
        "accuracy": _ratio(hits.sum(axis=1, keepdims=True), everywhere),
        "sensitivity": _ratio(hits, is_class),
        "f1": _ratio(2 * hits, is_class + is_said),
    }
    if len(present) > 1:
        table["specificity"] = _ratio((1 - is_class) * (1 - is_said), 1 - is_class)
        columns = [
            _components(own > 0, shares)
            for own, shares in zip(is_class.T, probabilities.T[present], strict=True)
        ]
        table["auroc"] = (
            np.array([value for value, _ in columns]),
            np.stack([influence for _, influence in columns], axis=1),
        )
    return table


def _ratio(upper: Array, lower: Array) -> tuple[Array, Array]:
    """A ratio of sums over images, and the influence of each image on it."""
    total = lower.sum(axis=0)
    value = upper.sum(axis=0) / total
    return value, (upper - value * lower) / total


def _components(positive: npt.NDArray[np.bool_], scores: Array) -> tuple[Array, Array]:
    """AUROC and the influence of each image on it (DeLong et al. 1988, by ranks)."""
    ranks, influence = stats.rankdata(scores), np.zeros(len(scores))
    for own in (positive, ~positive):
        beaten = (ranks[own] - stats.rankdata(scores[own])) / (~own).sum()  # share of the others
        influence[own] = (beaten - beaten.mean()) / own.sum() * (1 if own is positive else -1)
        value = beaten.mean()
    return np.asarray(1 - value), influence


def sum_groups(values: Array, codes: Integers, count: int | None = None) -> Array:
    """Sum the rows of each group, of so many as there are: (N, K) to (G, K)."""
    sums = np.zeros((count or int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def number_groups(groups: Sequence[Any]) -> Integers:
    """Give each image the code of its group, (N,)."""
    _, codes = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    return np.asarray(codes, dtype=np.int64)


def _harmonic(numbers: Array) -> Array:
    return np.array([len(numbers) / (1 / numbers).sum()])
