"""Whether a synthetic set is closer to the real one than another real set would be.

A good generator draws a new set of the same source. Two such sets are some way apart by chance
alone, and a synthetic set that is clearly nearer contains the real images themselves, or nearly.
How near two sets from the same source come is seen by permuting the images of both, many times.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli.metrics.arrays import AnyArray, Array, Groups
from medart_cli.metrics.kernel import kernel_matrix

PERMUTED_LIMIT = 1_000  # images of each set that are permuted, at most
PERMUTATIONS = 1_999
SIGNIFICANCE = 0.01  # at most this share of sets without copies is suspected


def find_closeness(
    real: AnyArray,
    synthetic: AnyArray,
    labels: Sequence[Groups] | None,
    generator: np.random.Generator,
) -> dict[str, Any] | None:
    """Test by the kernel distance whether two sets are closer than sets from the same source.

    A permutation test: the images of both are dealt at random into sets of the same sizes. Where
    the labels are known each label is dealt by itself, for sets with the same number of images of
    each label are closer than others without any copying. Where several images of a patient are in
    one set, the deals are closer than two sets of different patients, so that fewer sets without
    copies are suspected.

    Args:
        real: (N1, D).
        synthetic: (N2, D).
        labels: Label of each real and each synthetic row, where both sets have them.
        generator: Deals.

    Returns:
        Keys: p_value, the share of deals as close as the sets; suspected. None below 3 rows.

    Source:
        The permutation test of Gretton et al. 2012, section 5, by its other tail.
    """
    if min(len(real), len(synthetic)) < 3:
        return None
    rows, columns = (
        generator.permutation(len(item))[:PERMUTED_LIMIT]
        if len(item) > PERMUTED_LIMIT
        else np.arange(len(item))
        for item in (real, synthetic)
    )
    pooled = np.concatenate([real[rows], synthetic[columns]])
    drawn = np.repeat([False, True], [len(rows), len(columns)])
    codes = np.zeros(len(pooled), dtype=np.intp)
    if labels is not None:
        names = [np.asarray(labels[0])[rows], np.asarray(labels[1])[columns]]
        codes = np.unique(np.concatenate(names), return_inverse=True)[1]
    kernel = kernel_matrix(pooled)
    np.fill_diagonal(kernel, 0.0)
    value = _deal_distances(kernel, drawn[None, :])[0]
    closer, left = 0, PERMUTATIONS
    while left:  # some at a time: all deals of 2,000 images would be another 32 MB or more
        deals = deal(drawn, codes, min(left, 250), generator)
        # A deal of the same images may differ from the value by rounding.
        closer += int((_deal_distances(kernel, deals) <= value + 1e-12 * abs(value)).sum())
        left -= len(deals)
    p_value = (closer + 1) / (PERMUTATIONS + 1)
    return {"p_value": p_value, "suspected": p_value <= SIGNIFICANCE}


def deal(
    drawn: npt.NDArray[np.bool_],
    codes: npt.NDArray[np.intp],
    count: int,
    generator: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    """Permute which rows belong to the second set, within each code: (count, N)."""
    found = np.empty((count, len(drawn)), dtype=np.bool_)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        found[:, rows] = generator.permuted(np.tile(drawn[rows], (count, 1)), axis=1)
    return found


def _deal_distances(kernel: Array, deals: npt.NDArray[np.bool_]) -> Array:
    """Compute the kernel distance of each deal, (count,), from all pairs' kernel, (N, N)."""
    second = deals.astype(np.float64)  # (count, N)
    m = second.sum(axis=1)
    n = len(kernel) - m
    within = np.einsum("ij,ij->i", second @ kernel, second)
    across = second @ kernel.sum(axis=1) - within
    own = kernel.sum() - within - 2 * across
    return np.asarray(own / (n * (n - 1)) + within / (m * (m - 1)) - 2 * across / (n * m))
