"""The endless order of rows in training: a function of seed and position, so resume is exact."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def epoch_order(labels: Sequence[str], seed: int, epoch: int, balance: bool) -> tuple[int, ...]:
    """Return the rows of one epoch in their order.

    Args:
        labels: The label of each row.
        seed: Seed of the run.
        epoch: Number of the pass over the data, from 0.
        balance: Draw rows with replacement, all labels equally often, instead of each row once.
    """
    generator = np.random.default_rng([seed, epoch])
    if not balance:
        return tuple(generator.permutation(len(labels)).tolist())
    counts = Counter(labels)
    weights = np.array([1 / (len(counts) * counts[label]) for label in labels])
    return tuple(generator.choice(len(labels), size=len(labels), p=weights).tolist())


class RowOrder:
    """The endless order of some rows; arguments as `epoch_order`."""

    def __init__(self, labels: Sequence[str], seed: int, *, balance: bool) -> None:
        self._count = len(labels)

        @lru_cache(maxsize=4)
        def order(epoch: int) -> tuple[int, ...]:
            return epoch_order(labels, seed, epoch, balance)

        self._order = order

    def __getitem__(self, position: int) -> int:
        """Return the row at a position."""
        epoch, place = divmod(position, self._count)
        return self._order(epoch)[place]
