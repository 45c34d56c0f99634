"""How diverse a set is: the Vendi score, and that of a synthetic set over that of real images.

A set that repeats a few images, or varies less than real ones do, may still be near to each real
image on average. The Vendi score is the number of unlike images that a set is worth.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from medart_cli.metrics.arrays import AnyArray, Array, Indices
from medart_cli.metrics.comparison import choose_rows
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL

LEAST_DIVERSE = 5  # images of each set; the score of fewer says nothing
JUDGED_FROM = 20  # images of each set, from which a collapse is tested
DIVERSITY_LIMIT = 1_000  # images of each set; the ratio of more is known well enough
BLOCKS = 10  # of the jackknife
LEAST_BLOCKS = 5  # images or patients, for an interval
# Of the real diversity, which the interval must stay below. Half of the variance gives 0.55 to 0.6,
# a third of it or three modes 0.3 to 0.45, and halves of real sets 0.9 to 1.1 (bench_contents).
COLLAPSED_BELOW = 0.7


def vendi_score(rows: AnyArray) -> float:
    """Return the Vendi score of a set by the inner products of its rows.

    The exponential of the entropy of the eigenvalues of K / n, with K the inner products of all
    rows: n for n orthogonal rows, 1 for n equal ones. They are those of the smaller of the two
    Gram matrices, (N, N) or (D, D), so memory stays small for many rows.

    Args:
        rows: Of length 1, (N, D).

    Source:
        Friedman and Dieng 2023, The Vendi Score, Transactions on Machine Learning Research,
        definition 3.1 and section 3.3.
    """
    whole = np.asarray(rows, dtype=np.float64)
    return float(np.exp(_entropy(whole @ whole.T if _is_wide(whole) else whole.T @ whole)))


def place_rows(features: AnyArray, spread: float) -> Array:
    """Turn features into rows whose inner products are a kernel for the Vendi score.

    The features about their own mean, with a constant `spread` as one more coordinate, scaled to
    length 1. Of plain features the cosines are all near 1, by an amount that is the network's; of
    centered ones they lose how far the images are apart. The constant keeps it: a set with less
    variance than the real one is more alike.

    Args:
        features: (N, D).
        spread: Root of the real set's total variance, above 0.

    Returns:
        Rows, (N, D + 1).
    """
    centered = np.asarray(features, dtype=np.float64)
    centered = centered - centered.mean(axis=0)
    rows = np.concatenate([centered, np.full((len(centered), 1), spread)], axis=1)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def compare_diversity(
    real: AnyArray,
    synthetic: AnyArray,
    groups: tuple[Indices, Indices],
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Compare the Vendi scores of two sets at equal n.

    The interval is that of a jackknife over ten blocks of patients, on the logarithm of the ratio,
    with Student's t.

    Args:
        real: Features, (N1, D).
        synthetic: Features, (N2, D).
        groups: Patient of each real and of each synthetic image, as codes.
        generator: Chooses images of the larger set, and deals blocks.

    Returns:
        `vendi` with `n`, the scores `real` and `synthetic`, their `ratio` and its `interval` (null
        below five images or patients), as a whole null where it cannot be had;
        `diversity_collapsed`, whether the interval ends below `COLLAPSED_BELOW`, and where that is
        None, `diversity_note` says why.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11.
    """
    n = min(len(real), len(synthetic), DIVERSITY_LIMIT)
    unknown: dict[str, Any] = {"vendi": None, "diversity_collapsed": None}
    if n < LEAST_DIVERSE:
        return unknown | {"diversity_note": f"n = {n}: diversity needs {LEAST_DIVERSE} images"}
    kept = [choose_rows(item, n, generator) for item in (real, synthetic)]
    spread = float(np.sqrt(np.asarray(real[kept[0]], dtype=np.float64).var(axis=0).sum()))
    if not spread > 0:
        return unknown | {"diversity_note": "the real images are all alike"}
    scores, variances, degrees = [], [], []
    for features, codes, chosen in zip((real, synthetic), groups, kept, strict=True):
        rows = place_rows(features[chosen], spread)
        blocks = deal_blocks(codes[chosen], generator)
        value, variance = _jackknife(rows, blocks)
        scores.append(value)
        variances.append(variance)
        degrees.append(int(blocks.max()))
    log_ratio, error = scores[1] - scores[0], np.sqrt(sum(variances))
    found: dict[str, Any] = {
        "n": n,
        "real": float(np.exp(scores[0])),
        "synthetic": float(np.exp(scores[1])),
        "ratio": float(np.exp(log_ratio)),
        "interval": None,
    }
    note = None
    if min(degrees) + 1 < LEAST_BLOCKS:
        note = f"diversity: an interval needs {LEAST_BLOCKS} images or patients"
    else:
        reach = stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, min(degrees)) * error
        found["interval"] = [float(np.exp(log_ratio + sign * reach)) for sign in (-1, 1)]
        if n < JUDGED_FROM:
            note = f"n = {n}: a collapse of diversity is only tested from {JUDGED_FROM} images on"
    collapsed = None if note else found["interval"][1] < COLLAPSED_BELOW
    return {"vendi": found, "diversity_collapsed": collapsed, "diversity_note": note}


def deal_blocks(codes: Indices, generator: np.random.Generator) -> Indices:
    """Deal groups into `BLOCKS` blocks of about as many images, at random: the block of each row.

    A block for each group where there are fewer.
    """
    names, places = np.unique(codes, return_inverse=True)
    sizes = np.bincount(places)
    order = generator.permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the largest first
    filled = np.zeros(min(BLOCKS, len(names)))
    block = np.empty(len(names), dtype=np.intp)
    for name in order:
        block[name] = int(filled.argmin())
        filled[block[name]] += sizes[name]
    return np.asarray(block[places])


def _jackknife(rows: Array, blocks: Indices) -> tuple[float, float]:
    """Return the logarithm of the Vendi score, and its variance from leaving out each block.

    Rows stay as they were placed by the whole set.
    """
    values = np.array([_entropy(gram) for gram in _gram_matrices(rows, blocks)])
    without, count = values[1:], len(values) - 1
    variance = (count - 1) / count * np.square(without - without.mean()).sum()
    return float(values[0]), float(variance)


def _gram_matrices(rows: Array, blocks: Indices) -> Iterator[Array]:
    """Yield the smaller Gram matrix of all rows, then of all but those of each block."""
    wide = _is_wide(rows)
    whole = rows @ rows.T if wide else rows.T @ rows
    yield whole
    for block in range(int(blocks.max()) + 1):
        left = np.flatnonzero(blocks == block)
        kept = np.flatnonzero(blocks != block)
        yield whole[np.ix_(kept, kept)] if wide else whole - rows[left].T @ rows[left]


def _is_wide(rows: Array) -> bool:
    return bool(len(rows) <= rows.shape[1])


def _entropy(gram: Array) -> float:
    """Return the entropy of the eigenvalues of a Gram matrix, scaled to a sum of 1; 0 for none."""
    total = gram.trace()
    if not total > 0:
        return 0.0
    shares = np.linalg.eigvalsh(gram) / total
    shares = shares[shares > 0]  # those of 0 may come out below it
    return float(-(shares * np.log(shares)).sum())
