"""Distances between two sets of features: Frechet, and nearest-neighbor coverage.

Every function takes (N, D) arrays, computes in float64, and says what it needs of N. Randomness
comes from the generator that is passed in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medart_cli.metrics.arrays import AnyArray, Array, Indices, Mask
from medart_cli.metrics.resampling import draw_counts

Clusters = tuple[Indices, Indices] | None  # of the real and of the synthetic rows
Drawn = tuple[Indices, Indices]  # rows, and how often
CHUNK_ROWS = 4096  # rows in float64 at a time: 64 MB at a width of 2048
BLOCK_ROWS = 1024  # rows of one set that are compared at a time
NEIGHBORS = 5  # k of Naeem et al. 2020


class Moments:
    """Count, mean and scatter of features that arrive in batches; memory is D x D.

    Source:
        Chan, Golub, LeVeque 1979, merging of the moments of two samples.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean: Array = np.zeros(width)
        self.scatter: Array = np.zeros((width, width))  # sum of outer products about the mean

    def update(self, features: AnyArray) -> None:
        """Add a batch of features, (n, D)."""
        centered = np.array(features, dtype=np.float64)  # a copy, centered in place
        if not len(centered):
            return
        mean = centered.mean(axis=0)
        centered -= mean
        gap, total = mean - self.mean, self.count + len(centered)
        self.scatter += centered.T @ centered
        self.scatter += np.outer(gap, gap) * (self.count * len(centered) / total)
        self.mean = self.mean + gap * (len(centered) / total)
        self.count = total

    @property
    def covariance(self) -> Array:
        """Unbiased covariance, (D, D); needs two rows or more."""
        if self.count < 2:
            raise ValueError("a covariance needs at least 2 rows")
        return self.scatter / (self.count - 1)


def compute_moments(features: AnyArray) -> Moments:
    """Stream over (N, D) features, which may be memory-mapped, and return their moments."""
    moments = Moments(features.shape[1])
    for start in range(0, len(features), CHUNK_ROWS):
        moments.update(features[start : start + CHUNK_ROWS])
    return moments


def frechet_distance(real: AnyArray, synthetic: AnyArray) -> float:
    """Squared Frechet (2-Wasserstein) distance of the two sets' Gaussians.

    tr sqrt(S1 S2) is the nuclear norm of A B^T, where A and B are the centered features over
    sqrt(n - 1): singular values of an n1 x n2 matrix where a set has fewer rows than columns,
    eigenvalues of a D x D one else. No matrix root.

    Args:
        real: (N1, D), N1 of 2 or more.
        synthetic: (N2, D), N2 of 2 or more.

    Source:
        Dowson and Landau 1982; the identity is that of Bures' fidelity, tr|S1^(1/2) S2^(1/2)|.
    """
    check_pair(real, synthetic)
    if min(len(real), len(synthetic)) >= real.shape[1]:
        return frechet_of_moments(compute_moments(real), compute_moments(synthetic))
    if max(len(real), len(synthetic)) > max(CHUNK_ROWS, real.shape[1]):
        return _frechet_mixed(real, synthetic)
    left, right = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    first, second = left.mean(axis=0), right.mean(axis=0)
    gap, left, right = first - second, left - first, right - second  # (D,), (N1, D), (N2, D)
    n, m = len(left) - 1, len(right) - 1
    cross = _nuclear_norm(left @ right.T) / np.sqrt(n * m)
    spread = np.vdot(left, left) / n + np.vdot(right, right) / m
    return max(0.0, float(gap @ gap + spread - 2 * cross))


def _nuclear_norm(matrix: Array) -> float:
    """Sum the singular values of a product of centered features.

    Eigenvalues of the smaller Gram matrix take half the time, but squaring loses values below 1e-8
    of the largest to rounding: taken where all are above 1e-6, but for the one that is always about
    0 because the features are centered.
    """
    short = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    squares = np.linalg.eigvalsh(short @ short.T)  # ascending
    if len(squares) > 1 and squares[1] > 1e-12 * squares[-1]:
        return float(np.sqrt(squares.clip(min=0)).sum())
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def frechet_of_moments(real: Moments, synthetic: Moments) -> float:
    """Frechet distance from streamed moments, by eigenvalues; right for N above the width."""
    first, second = real.covariance, synthetic.covariance
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(min=0))  # (D, D), first = root root^T
    cross = np.sqrt(np.linalg.eigvalsh(root.T @ second @ root).clip(min=0)).sum()
    gap = real.mean - synthetic.mean
    return max(0.0, float(gap @ gap + np.trace(first) + np.trace(second) - 2 * cross))


def _frechet_mixed(real: AnyArray, synthetic: AnyArray) -> float:
    """Handle a few rows against very many: eigenvalues of few x few, moments for the many."""
    few, many = sorted((real, synthetic), key=len)
    moments = compute_moments(many)
    left = np.asarray(few, dtype=np.float64)
    gap = left.mean(axis=0) - moments.mean
    left = (left - left.mean(axis=0)) / np.sqrt(len(left) - 1)
    covariance = moments.covariance
    cross = np.sqrt(np.linalg.eigvalsh(left @ covariance @ left.T).clip(min=0)).sum()
    spread = np.square(left).sum() + np.trace(covariance)
    return max(0.0, float(gap @ gap + spread - 2 * cross))


@dataclass(frozen=True)
class Extrapolation:
    """A straight line through distances at several n, read at infinite n.

    Attributes:
        value: The distance at infinite n.
        deviation: Standard error of `value` from the scatter about the line.
        sizes: The n of the points.
        distances: The distances there.
    """

    value: float
    deviation: float
    sizes: list[int]
    distances: list[float]


def extrapolate_frechet(
    real: AnyArray,
    synthetic: AnyArray,
    generator: np.random.Generator,
    *,
    points: int = 10,
    groups: Clusters = None,
) -> Extrapolation:
    """Extrapolate the Frechet distance to infinite n, where it is free of its upward bias.

    At each of `points` sizes n both sets are cut to n random rows; the distances are fitted by
    a + b / n, and a is returned. Below the feature width the curve is only nearly straight.

    Args:
        real: (N1, D).
        synthetic: (N2, D); the smaller of both must have 8 rows or more.
        generator: Draws the rows.
        points: Number of sizes, evenly spaced in 1 / n from a third of the rows to all.
        groups: Patients of the rows of both sets; then whole patients are drawn, so that their
            number falls as n does.

    Source:
        Chong and Forsyth 2020, Effectively Unbiased FID; here both sets are cut, as both are small.
    """
    check_pair(real, synthetic, least=8)
    most = min(len(real), len(synthetic))
    inverse = np.linspace(3 / most, 1 / most, points)
    sizes = sorted({round(1 / item) for item in inverse})
    first, second = groups or (None, None)
    distances = [
        frechet_distance(
            real[cut_rows(len(real), size, generator, first)],
            synthetic[cut_rows(len(synthetic), size, generator, second)],
        )
        for size in sizes
    ]
    design = np.stack([np.ones(len(sizes)), 1 / np.array(sizes)], axis=1)  # (points, 2)
    fit, *_ = np.linalg.lstsq(design, np.array(distances), rcond=None)
    residual = np.array(distances) - design @ fit
    variance = residual @ residual / (len(sizes) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return Extrapolation(float(fit[0]), float(np.sqrt(variance)), sizes, distances)


def cut_rows(
    count: int, size: int, generator: np.random.Generator, groups: Indices | None = None
) -> Indices:
    """Draw so many of `count` rows, in order; of whole groups, but for the last, where given."""
    if groups is None:
        return np.sort(generator.permutation(count)[:size])
    _, codes = np.unique(groups, return_inverse=True)
    place = generator.permutation(codes.max() + 1)
    return np.sort(np.argsort(place[codes], kind="stable")[:size])


def bootstrap_frechet(
    real: AnyArray,
    synthetic: AnyArray,
    generator: np.random.Generator,
    repeats: int,
    groups: Clusters = None,
) -> Array:
    """Frechet distances of `repeats` resampled pairs of sets, (repeats,).

    A resample has fewer distinct rows than its set, so these distances lie above the distance of
    the sets; take their spread, not their place (see `centered_interval`).

    Args:
        real: (N1, D).
        synthetic: (N2, D).
        generator: Draws.
        repeats: How many pairs.
        groups: Patients of the rows of both sets, to draw whole patients.
    """
    check_pair(real, synthetic)
    first, second = groups or (None, None)
    if min(len(real), len(synthetic)) >= real.shape[1]:
        return np.array(
            [
                frechet_distance(
                    real[np.repeat(*_draw_weights(len(real), generator, first))],
                    synthetic[np.repeat(*_draw_weights(len(synthetic), generator, second))],
                )
                for _ in range(repeats)
            ]
        )
    left, right = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    origin = left.mean(axis=0)  # keeps the products small; any fixed point would do
    left, right = left - origin, right - origin
    products = left @ right.T  # (N1, N2), once for all resamples
    return np.array(
        [
            _resampled_frechet(
                left,
                right,
                products,
                _draw_weights(len(left), generator, first),
                _draw_weights(len(right), generator, second),
            )
            for _ in range(repeats)
        ]
    )


def _resampled_frechet(
    left: Array, right: Array, products: Array, one: Drawn, other: Drawn
) -> float:
    """One resample, as weights on the distinct rows: the singular values are those of it."""
    (rows, first), (columns, second) = one, other
    n, m = first.sum(), second.sum()
    a, b = left[rows], right[columns]
    mean_a, mean_b = first @ a / n, second @ b / m
    centered = products[np.ix_(rows, columns)] - (a @ mean_b)[:, None] - (b @ mean_a)[None, :]
    centered += mean_a @ mean_b
    scale = np.sqrt(np.outer(first / (n - 1), second / (m - 1)))
    cross = _nuclear_norm(centered * scale)
    spread = first @ np.square(a - mean_a).sum(axis=1) / (n - 1)
    spread += second @ np.square(b - mean_b).sum(axis=1) / (m - 1)
    gap = mean_a - mean_b
    return float(gap @ gap + spread - 2 * cross)


def _draw_weights(count: int, generator: np.random.Generator, groups: Indices | None) -> Drawn:
    """Draw with replacement: the distinct rows, and how often each was drawn."""
    if groups is None:
        times = np.bincount(generator.integers(count, size=count), minlength=count)
    else:
        times = draw_counts(groups, 1, generator)[0]
    rows = np.flatnonzero(times)
    return rows, times[rows]


def centered_interval(value: float, resamples: AnyArray) -> tuple[float, float]:
    """95 % bootstrap interval, moved so that the resamples' mean lies on the value.

    A resample of a biased measure is biased once more; moving takes that out, so that the interval
    is about the value at this n.
    """
    low, high = np.quantile(resamples, [0.025, 0.975]) - np.mean(resamples)
    return float(value + low), float(value + high)


def square_norms(a: AnyArray) -> Array:
    """Return the squared length of each row, (N,)."""
    parts = (np.asarray(a[rows], dtype=np.float64) for rows in blocks(len(a)))
    return np.concatenate([np.square(part).sum(axis=1) for part in parts])


@dataclass(frozen=True)
class Coverage:
    """How two sets cover each other, by neighborhoods of k nearest neighbors; each about 0 to 1.

    Attributes:
        precision: Share of synthetic rows inside some real row's neighborhood.
        recall: Share of real rows inside some synthetic row's neighborhood.
        density: Real neighborhoods a synthetic row lies in, over k; may exceed 1.
        coverage: Share of real rows with a synthetic row in their neighborhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbor_coverage(real: AnyArray, synthetic: AnyArray, k: int = NEIGHBORS) -> Coverage:
    """Compute precision, recall, density and coverage.

    A row's neighborhood is the closed ball up to its k-th nearest other row of its own set.

    Args:
        real: (N1, D), N1 above k.
        synthetic: (N2, D), N2 above k.
        k: Neighbors that make a neighborhood.

    Source:
        Kynkaanniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage).
    """
    check_pair(real, synthetic, least=k + 1)
    real_radius, synthetic_radius = _radius(real, k), _radius(synthetic, k)
    inside = np.zeros(len(synthetic), dtype=np.int64)  # real neighborhoods each one lies in
    covered, recalled = [], []
    for rows in blocks(len(real), 256):
        distance = pairwise_distances(real[rows], synthetic)
        in_real = distance <= real_radius[rows, None]
        inside += in_real.sum(axis=0)
        covered.append(in_real.any(axis=1))
        recalled.append((distance <= synthetic_radius[None, :]).any(axis=1))
    return Coverage(
        precision=float((inside > 0).mean()),
        recall=float(np.concatenate(recalled).mean()),
        density=float(inside.mean() / k),
        coverage=float(np.concatenate(covered).mean()),
    )


def find_reached(real: AnyArray, synthetic: AnyArray, k: int = NEIGHBORS) -> Mask:
    """Find the real rows inside some synthetic row's neighborhood, (N1,); their share is recall.

    Args:
        real: (N1, D).
        synthetic: (N2, D), N2 above k.
        k: Neighbors that make a neighborhood.
    """
    if len(synthetic) <= k:
        raise ValueError(f"needs more than {k} synthetic rows")
    radius, found = _radius(synthetic, k), np.zeros(len(real), dtype=np.bool_)
    for rows in blocks(len(real), 256):
        found[rows] = (pairwise_distances(real[rows], synthetic) <= radius).any(axis=1)
    return found


def pairwise_distances(a: AnyArray, b: AnyArray) -> Array:
    """Euclidean distances of all rows of `a` to all rows of `b`, (Na, Nb)."""
    first, found = np.asarray(a, dtype=np.float64), np.empty((len(a), len(b)))
    own = square_norms(first)[:, None]
    for columns in blocks(len(b)):
        second = np.asarray(b[columns], dtype=np.float64)
        norms = own + square_norms(second)[None, :]
        square = norms - 2 * (first @ second.T)
        square[square < 1e-13 * norms] = 0  # rounding of the three terms: equal rows are at 0
        found[:, columns] = np.sqrt(square)
    return found


def _radius(features: AnyArray, k: int) -> Array:
    found = []
    for rows in blocks(len(features), 256):
        distance = pairwise_distances(features[rows], features)
        distance[np.arange(len(distance)), np.arange(rows.start, rows.stop)] = 0.0  # itself
        found.append(np.partition(distance, k, axis=1)[:, k].copy())  # a view keeps the table
    return np.concatenate(found)


def blocks(count: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Go through so many rows, `size` of them at a time."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def check_pair(real: AnyArray, synthetic: AnyArray, least: int = 2) -> None:
    """Raise ValueError unless these are two tables of one width and of so many rows at least."""
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(
            f"expected (N1, D) and (N2, D) features, got {real.shape} and {synthetic.shape}"
        )
    if min(len(real), len(synthetic)) < least:
        raise ValueError(
            f"needs {least} rows or more in each set, got {len(real)} and {len(synthetic)}"
        )
