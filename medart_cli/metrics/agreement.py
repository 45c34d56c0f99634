"""How far several readers agree beyond chance: Cohen's and Fleiss' kappa, for many weightings.

By hand, since scikit-learn has only Cohen's, and an interval needs it for a thousand resamples.
"""

import numpy as np

from medart_cli.metrics.arrays import Array, Indices, Integers
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL, draw_counts

DRAWS = 1000  # resamples for an interval


def find_kappa(said: Integers, groups: Indices, seed: int) -> tuple[float, list[float] | None]:
    """Measure the agreement of two readers (Cohen's kappa) or more (Fleiss').

    Args:
        said: The category that each reader chose for each image, from 0, (R, N).
        groups: The group (patient) of each image, (N,).
        seed: Of the resamples.

    Returns:
        Kappa, 1 for full agreement and 0 for that of chance, NaN where all chose one category; and
        its 95 % percentile interval over resampled groups, None where there is none.
    """
    measure = cohen_kappa if len(said) == 2 else fleiss_kappa
    value = float(measure(said, np.ones((1, said.shape[1]), dtype=np.int64))[0])
    draws = measure(said, draw_counts(groups, DRAWS, np.random.default_rng(seed)))
    known = draws[~np.isnan(draws)]
    if np.isnan(value) or len(known) < DRAWS / 2:  # of the others all chose one category
        return value, None
    tail = (1 - CONFIDENCE_LEVEL) / 2
    return value, [float(end) for end in np.quantile(known, [tail, 1 - tail])]


def cohen_kappa(said: Integers, weights: Integers) -> Array:
    """Measure the agreement of two readers under many weightings of the images.

    Args:
        said: Categories, (2, N).
        weights: How often each image counts, (B, N).

    Returns:
        Kappa, (B,); NaN where both chose one category alone.

    Source:
        Cohen 1960, Educational and Psychological Measurement 20, 37-46.
    """
    chosen = np.eye(int(said.max()) + 1)[said]  # (2, N, K)
    total = weights.sum(axis=1)
    observed = weights @ (said[0] == said[1]) / total
    shares = np.einsum("bn,rnk->rbk", weights, chosen) / total[:, None]
    return _beyond_chance(observed, (shares[0] * shares[1]).sum(axis=1))


def fleiss_kappa(said: Integers, weights: Integers) -> Array:
    """Measure the agreement of several readers under many weightings of the images.

    Args:
        said: Categories, (R, N), R of 2 or more.
        weights: How often each image counts, (B, N).

    Returns:
        Kappa, (B,); NaN where all chose one category alone.

    Source:
        Fleiss 1971, Psychological Bulletin 76, 378-382.
    """
    readers = len(said)
    votes = np.eye(int(said.max()) + 1)[said].sum(axis=0)  # (N, K)
    pairs = (votes * (votes - 1)).sum(axis=1) / (readers * (readers - 1))  # (N,)
    total = weights.sum(axis=1)
    shares = weights @ votes / (readers * total[:, None])
    return _beyond_chance(weights @ pairs / total, (shares**2).sum(axis=1))


def _beyond_chance(observed: Array, expected: Array) -> Array:
    full = np.isclose(expected, 1)
    return np.where(full, np.nan, (observed - expected) / np.where(full, 1, 1 - expected))
