"""Which real images a synthetic set reaches, image by image, beside what real images would reach.

Recall is a share of the real images; of a subgroup of them it is that of its images. Rare kinds of
images, and those that differ much, are harder to reach for any set. So halves of the real set are
the measure: which of its images does the other half reach, and which does a part of the synthetic
set of the same size? Both shares depend on luck: on which real images there are, and on which
images were drawn. That is seen by leaving out some of them at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medart_cli import stop
from medart_cli.metrics.arrays import AnyArray, Array, Indices, Mask
from medart_cli.metrics.comparison import split_halves
from medart_cli.metrics.distances import NEIGHBORS, pairwise_distances

FOLDS = 20  # parts of a set, each of which is left out once
LEAST_FOLDS = 10  # patients of the real set, at least, or images


@dataclass(frozen=True)
class Reach:
    """How often each of N real images is reached, from 0 to 1, on average over the splits.

    Attributes:
        synthetic: By as many synthetic images as the other half has, (N,).
        real: By the other half of the real images, (N,).
        n: Images of the smallest of these.
    """

    synthetic: Array
    real: Array
    n: int

    @property
    def excess(self) -> Array:
        """How much more often an image is reached by the synthetic set, (N,)."""
        return self.synthetic - self.real


@dataclass(frozen=True)
class Reaches:
    """How often images are reached, and the same without a part of either set.

    Attributes:
        whole: With all images.
        without_real: Without each fold of the real images, whose shares are then NaN.
        without_synthetic: Without each fold of the synthetic images.
    """

    whole: Reach
    without_real: list[Reach]
    without_synthetic: list[Reach]


def measure_reaches(
    real: AnyArray,
    synthetic: AnyArray,
    groups: tuple[Indices, Indices],
    generator: np.random.Generator,
    repeats: int,
) -> Reaches | None:
    """Measure which real images both sets reach at the same n, and how much of that is luck.

    Args:
        real: (N1, D).
        synthetic: (N2, D).
        groups: Patient of each real and of each synthetic image; halves and folds share none.
        generator: Draws the halves, as many synthetic images, and the folds.
        repeats: How many splits.

    Returns:
        None where a half has too few images for neighborhoods, or there are too few patients.
    """
    splits = _Splits(real, synthetic, groups[0], generator, repeats)
    if splits.n <= NEIGHBORS + 1 or min(len(np.unique(codes)) for codes in groups) < LEAST_FOLDS:
        return None
    every = np.ones(len(real), dtype=np.bool_), np.ones(len(synthetic), dtype=np.bool_)
    return Reaches(
        splits.measure(*every),
        [splits.measure(kept, every[1]) for kept in _leave_out(groups[0], generator)],
        [splits.measure(every[0], kept) for kept in _leave_out(groups[1], generator)],
    )


def jackknife_variance(estimates: Array) -> Array:
    """Give the variance of estimates from those without each of F folds, (F, ...) to (...).

    As a rule it is too large rather than too small.

    Source:
        Efron and Stein 1981, Annals of Statistics 9, 586-596.
    """
    folds = len(estimates)
    return np.asarray((folds - 1) * estimates.var(axis=0))


def _leave_out(groups: Indices, generator: np.random.Generator) -> Iterator[Mask]:
    """Leave out each fold of whole groups: which rows are kept, (N,)."""
    _, codes = np.unique(groups, return_inverse=True)
    count = int(codes.max()) + 1
    folds = generator.permutation(np.arange(count) % min(FOLDS, count))[codes]
    for fold in range(folds.max() + 1):
        yield folds != fold


class _Splits:
    """Halves of the real set with as many synthetic images, and all distances."""

    def __init__(
        self,
        real: AnyArray,
        synthetic: AnyArray,
        groups: Indices,
        generator: np.random.Generator,
        repeats: int,
    ) -> None:
        """Draw the splits; arguments as `measure_reaches`."""
        pairs = [split_halves(groups, generator) for _ in range(repeats)]
        self.n = min([len(synthetic), *(len(half) for pair in pairs for half in pair)], default=0)
        self._draws = [
            (
                own,
                generator.permutation(len(synthetic))[: self.n],
                generator.permutation(other)[: self.n],
            )
            for left, right in pairs
            for own, other in ((left, right), (right, left))
        ]
        self._among_real = pairwise_distances(real, real).astype(np.float32)
        self._among_synthetic = pairwise_distances(synthetic, synthetic).astype(np.float32)
        self._across = pairwise_distances(real, synthetic).astype(np.float32)

    def measure(self, real: Mask, synthetic: Mask) -> Reach:
        """Measure with some of the images."""
        stop.check()
        found = np.zeros((2, len(real)))
        for own, drawn, other in self._draws:
            seen = own[real[own]]
            drawn, other = drawn[synthetic[drawn]], other[real[other]]
            found[0, seen] += _is_reached(self._across, self._among_synthetic, seen, drawn)
            found[1, seen] += _is_reached(self._among_real, self._among_real, seen, other)
        found[:, ~real] = np.nan
        shares = found / (len(self._draws) / 2)
        return Reach(shares[0], shares[1], self.n)


def _is_reached(across: AnyArray, among: AnyArray, rows: Indices, others: Indices) -> Mask:
    """Say which rows lie in a neighborhood of another set's images, see `neighbor_coverage`."""
    radius = np.partition(among[np.ix_(others, others)], NEIGHBORS, axis=1)[:, NEIGHBORS]
    return np.asarray((across[np.ix_(rows, others)] <= radius).any(axis=1))
