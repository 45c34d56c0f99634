"""The kernel distance of two sets (KID), and how surely it is known: by image or by patient.

The distance is a mean over pairs of images, so leaving out a group of images changes it by sums
over rows alone. That gives its jackknife in closed form, for one distance, for the difference of
two sets' distances to the same real images, and for the mean over labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial.distance import cdist

from medart_cli.metrics.arrays import AnyArray, Array, Indices
from medart_cli.metrics.distances import BLOCK_ROWS, blocks, check_pair, square_norms
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # of clean-fid 0.1.35, fid.py
LEAST_GROUPS = 3  # of each set; without one of them there must be a pair
# Of its error: an estimate nearer to zero than this gets the slope that its root has here. That of
# a normal variate with mean zero has just the standard deviation which follows.
NEAR_ZERO = 0.3


@dataclass(frozen=True)
class Jackknife:
    """An estimate from two sets or more, and how far it moves as each group is left out.

    Attributes:
        value: The estimate.
        real: For each group of the real set how far it moves, scaled so that the sum of squares is
            the variance, (G1,).
        synthetic: The same for the groups of the synthetic set, (G2,).
        degrees: Of freedom of that variance.
        twice: What these squares count twice: the part of the variance that belongs to pairs of
            groups, which moves with both.
    """

    value: float
    real: Array
    synthetic: Array
    degrees: int
    twice: float = 0.0

    @property
    def error(self) -> float:
        """Standard error of `value`."""
        squares = self.real @ self.real + self.synthetic @ self.synthetic
        return float(np.sqrt(max(squares - self.twice, squares / 2)))

    def find_interval(self, level: float = CONFIDENCE_LEVEL) -> tuple[float, float]:
        """Return the interval that holds the truth with this probability, by Student's t."""
        reach = float(stats.t.ppf((1 + level) / 2, self.degrees)) * self.error
        return self.value - reach, self.value + reach


def subtract(first: Jackknife, second: Jackknife) -> Jackknife:
    """Take the difference of two synthetic sets' estimates against the same real groups.

    What the real images have in common in both is then no part of the error.
    """
    return Jackknife(
        first.value - second.value,
        first.real - second.real,
        np.concatenate([first.synthetic, -second.synthetic]),
        min(first.degrees, second.degrees),
        first.twice + second.twice,
    )


def take_root(squared: Jackknife) -> Jackknife:
    """Take the root of a squared distance, with its sign, and its error to first order.

    An energy distance is a square: a set twice as far off has four times the value, and several
    times the error. Roots are a metric, and spread alike however far off the sets are. What
    the squares count twice stays in: pairs of real images do not cancel in a difference of roots.

    Source:
        Szekely and Rizzo 2013, Energy statistics, section 2; the delta method.
    """
    size = abs(squared.value)
    slope = 2 * math.sqrt(max(size, NEAR_ZERO * squared.error) or 1.0)
    return Jackknife(
        math.copysign(math.sqrt(size), squared.value),
        squared.real / slope,
        squared.synthetic / slope,
        squared.degrees,
    )


def average(parts: Sequence[Jackknife]) -> Jackknife:
    """Take the mean of estimates from parts of the same two sets, whose groups keep their codes."""
    real, synthetic = (
        np.sum([np.pad(item, (0, max(map(len, items)) - len(item))) for item in items], axis=0)
        for items in ([part.real for part in parts], [part.synthetic for part in parts])
    )
    return Jackknife(
        float(np.mean([part.value for part in parts])),
        real / len(parts),
        synthetic / len(parts),
        sum(part.degrees for part in parts),
        sum(part.twice for part in parts) / len(parts) ** 2,
    )


def jackknife_pairs(
    within: tuple[Array, Array], across: tuple[Array, Array], groups: tuple[Indices, Indices]
) -> Jackknife:
    """Estimate mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over pairs of different groups.

    Args:
        within: For each row of the real and of the synthetic set the sum of the kernel with the
            rows of its own set that are not of its group, (N1,) and (N2,).
        across: The sum with all rows of the other set, (N1,) and (N2,).
        groups: Codes of each row's group, not negative, at least three different ones in each set.

    Returns:
        The estimate and its delete-one-group jackknife; the groups in the order of their codes,
        with zeros for codes that no row has. The variance is up to twice too large where the sets
        are alike, and never too small.

    Source:
        Gretton et al. 2012, equation 3; Efron and Tibshirani 1993, chapter 11.
    """
    parts = [_leave_out(*item) for item in zip(within, groups, strict=True)]
    n, m = (len(item) for item in groups)
    total = across[0].sum()
    a, b = parts[0].mean, parts[1].mean
    found = []
    for part, row_sums, other, rest in zip(parts, across, (m, n), (b, a), strict=True):
        lost = np.bincount(part.codes, row_sums, len(part.sizes))
        left = (part.sizes.sum() - part.sizes) * other
        moved = part.without + rest - 2 * (total - lost) / left
        found.append(_scale(moved, part.sizes > 0))
    value = float(a + b - 2 * total / (n * m))
    degrees = min(int((part.sizes > 0).sum()) for part in parts) - 1
    return Jackknife(value, found[0], found[1], degrees)


@dataclass(frozen=True)
class _LeftOut:
    """The mean over a set's pairs, of all and without each group."""

    mean: float
    without: Array
    sizes: Array
    codes: Indices


def _leave_out(within: Array, codes: Indices) -> _LeftOut:
    sizes = np.bincount(codes).astype(np.float64)
    n, total = len(codes), within.sum()
    pairs = n * n - np.square(sizes).sum()
    lost = np.bincount(codes, within, len(sizes))
    without = (total - 2 * lost) / (pairs - 2 * sizes * (n - sizes))
    return _LeftOut(float(total / pairs), without, sizes, codes)


def _scale(moved: Array, present: npt.NDArray[np.bool_]) -> Array:
    """Center the values without each group, scaled so that their squares sum to the variance."""
    count = int(present.sum())
    centered: Array = np.where(present, moved - moved[present].mean(), 0.0)
    return np.asarray(centered * np.sqrt((count - 1) / count))


def jackknife_tables(
    within: tuple[Array, Array], across: Array, groups: tuple[Indices, Indices]
) -> Jackknife:
    """Do as `jackknife_pairs` does from the kernel of all pairs, and see what is counted twice.

    The pairs of real images are left out of that, for in a difference of two sets they cancel; the
    error of a single distance is then rather too large.

    Args:
        within: Kernel of all rows of the real and of the synthetic set, (N1, N1) and (N2, N2).
        across: Kernel of the real with the synthetic rows, (N1, N2).
        groups: As in `jackknife_pairs`.
    """
    sums = [
        np.where(codes[:, None] == codes[None, :], 0.0, table).sum(axis=1)
        for table, codes in zip(within, groups, strict=True)
    ]
    across_sums = across.sum(axis=1), across.sum(axis=0)
    found = jackknife_pairs((sums[0], sums[1]), across_sums, groups)
    own = _join_groups(within[1], groups[1], groups[1])
    apart = np.outer(own.sizes[0], own.sizes[1])
    np.fill_diagonal(apart, 0.0)
    both = _join_groups(across, *groups)
    twice = 2 * _spread_of_pairs(own.sums, apart)
    twice += 4 * _spread_of_pairs(both.sums, np.outer(both.sizes[0], both.sizes[1]))
    return replace(found, twice=twice)


@dataclass(frozen=True)
class _Joined:
    """The kernel summed over the rows of each pair of groups, and the groups' sizes."""

    sums: Array
    sizes: tuple[Array, Array]


def _join_groups(table: Array, rows: Indices, columns: Indices) -> _Joined:
    sizes = []
    for axis, codes in enumerate((rows, columns)):
        order = np.argsort(codes, kind="stable")
        _, starts, counts = np.unique(codes[order], return_index=True, return_counts=True)
        if len(starts) < len(codes):
            table = np.add.reduceat(np.take(table, order, axis=axis), starts, axis=axis)
        sizes.append(counts.astype(np.float64))
    return _Joined(table, (sizes[0], sizes[1]))


def _spread_of_pairs(sums: Array, weights: Array) -> float:
    """Return the variance of a mean over pairs that is due to the pairs, beyond their groups.

    Args:
        sums: The kernel summed over each pair of groups, (G1, G2).
        weights: The number of pairs of rows behind each, (G1, G2); 0 where they do not count.
    """
    own = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
    total = weights.sum()
    by_row = (own * weights).sum(axis=1) / weights.sum(axis=1)
    by_column = (own * weights).sum(axis=0) / weights.sum(axis=0)
    grand = (own * weights).sum() / total
    rest = (own - by_row[:, None] - by_column[None, :] + grand) * weights
    return float(np.square(rest).sum() / total**2)


def kernel_jackknife(
    real: AnyArray, synthetic: AnyArray, groups: tuple[Indices, Indices]
) -> Jackknife:
    """Kernel distance over pairs of images of different groups, with its error by group.

    Where several images are of one patient, pairs of them are more alike than pairs of the
    population are; leaving them out takes that bias away.

    Args:
        real: (N1, D).
        synthetic: (N2, D).
        groups: Codes of each row's patient, at least three different ones in each set.
    """
    check_pair(real, synthetic)
    within = kernel_sums(real, groups[0]), kernel_sums(synthetic, groups[1])
    return jackknife_pairs(within, cross_sums(real, synthetic), groups)


def energy_jackknife(real: Array, synthetic: Array, groups: tuple[Indices, Indices]) -> Jackknife:
    """Energy distance over pairs of images of different groups, with its error by group.

    Args:
        real: (N1, D) of few numbers each: all distances are held at once.
        synthetic: (N2, D).
        groups: As in `kernel_jackknife`.
    """
    return jackknife_tables(
        (-cdist(real, real), -cdist(synthetic, synthetic)), -cdist(real, synthetic), groups
    )


def kernel_distance(real: AnyArray, synthetic: AnyArray) -> tuple[float, float]:
    """Unbiased kernel distance (KID) over all pairs, and its standard error.

    The kernel is (x.y / D + 1)^3. The value may be negative where the sets are alike. The standard
    error is the delete-one jackknife, in closed form from the kernel's row sums; for sets that are
    alike it is up to sqrt(2) too large, never too small.

    Args:
        real: (N1, D), N1 of 3 or more.
        synthetic: (N2, D), N2 of 3 or more.

    Source:
        Binkowski et al. 2018, Demystifying MMD GANs; Gretton et al. 2012, equation 3.
    """
    check_pair(real, synthetic, least=LEAST_GROUPS)
    found = kernel_jackknife(real, synthetic, (np.arange(len(real)), np.arange(len(synthetic))))
    return found.value, found.error


def kernel_sums(features: AnyArray, groups: Indices) -> Array:
    """Sum for each row the kernel with the rows of the same set but of other groups, (N,)."""
    # A small set is converted once, so that NumPy sees a product of a matrix with its own
    # transpose and computes half of it; a large one is, block by block, as it is needed.
    rows = np.asarray(features, dtype=np.float64) if len(features) <= BLOCK_ROWS else features
    sums = _row_sums(rows, rows) - _self_kernel(rows)
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        members = order[start : start + size]
        own = rows[members]
        sums[members] -= _kernel(own, own).sum(axis=1) - _self_kernel(own)
    return sums


def kernel_distance_subsets(
    real: AnyArray, synthetic: AnyArray, generator: np.random.Generator
) -> float:
    """KID as clean-fid gives it: the mean over 100 random subsets of at most 1000 rows.

    For comparison with published figures; at equal n of 1000 or less it is `kernel_distance`.
    """
    check_pair(real, synthetic, least=2)
    size = min(len(real), len(synthetic), KID_SUBSET_SIZE)
    total = 0.0
    for _ in range(KID_SUBSETS):
        rows = generator.choice(len(synthetic), size, replace=False)
        x = np.asarray(synthetic[rows], dtype=np.float64)
        rows = generator.choice(len(real), size, replace=False)
        y = np.asarray(real[rows], dtype=np.float64)
        within = _row_sums(x, x).sum() - _self_kernel(x).sum()
        within += _row_sums(y, y).sum() - _self_kernel(y).sum()
        total += within / (size * (size - 1)) - 2 * _row_sums(x, y).sum() / size**2
    return float(total / KID_SUBSETS)


def kernel_matrix(features: AnyArray) -> Array:
    """Compute the kernel of all pairs of rows: (N, D) -> (N, N)."""
    return _kernel(features, features)


def _kernel(a: AnyArray, b: AnyArray) -> Array:
    first = np.asarray(a, dtype=np.float64)
    base = np.empty((len(a), len(b)))
    for columns in blocks(len(b)):
        second = np.asarray(b[columns], dtype=np.float64)
        np.matmul(first, second.T, out=base[:, columns])
    base /= a.shape[1]
    base += 1
    for rows in blocks(len(a), 64):  # not at once: base * base is as large again
        base[rows] *= base[rows] * base[rows]
    return base


def _row_sums(a: AnyArray, b: AnyArray) -> Array:
    return np.concatenate([_kernel(a[rows], b).sum(axis=1) for rows in blocks(len(a))])


def cross_sums(a: AnyArray, b: AnyArray) -> tuple[Array, Array]:
    """Sum the kernel of each row of `a` with all of `b`, and the other way, (Na,) and (Nb,)."""
    by_row, by_column = [], np.zeros(len(b))
    for rows in blocks(len(a)):
        block = _kernel(a[rows], b)
        by_row.append(block.sum(axis=1))
        by_column += block.sum(axis=0)
        del block  # before there is another one
    return np.concatenate(by_row), by_column


def _self_kernel(a: AnyArray) -> Array:
    return np.asarray((square_norms(a) / a.shape[1] + 1) ** 3)
