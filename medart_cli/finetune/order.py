"""The endless order of rows in training: a function of seed and position, so resume is exact."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache
from threading import Lock

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


class BatchOrder:
    """The endless order of batches, each of rows of one bucket.

    Rows come in the order that they have without buckets, and each waits until so many of its
    bucket have come as a batch has. So each is trained on as often as without buckets, but for what
    still waits when the run ends: of each bucket less than a batch.
    """

    def __init__(self, order: RowOrder, buckets: Sequence[Hashable], size: int) -> None:
        """Begin at the first batch.

        Args:
            order: Of the rows.
            buckets: Of each row.
            size: Rows in a batch.
        """
        self._order, self._buckets, self._size = order, buckets, size
        self._come = 0  # rows that have come
        self._waiting: dict[Hashable, list[int]] = defaultdict(list)
        self._placed = array("q")  # positions of the batches so far, one batch after the other
        self._lock = Lock()  # batches are read ahead by a thread

    def __getitem__(self, number: int) -> Sequence[int]:
        """Return the positions of the rows of a batch in their order."""
        start, end = number * self._size, (number + 1) * self._size
        with self._lock:
            while len(self._placed) < end:
                waiting = self._waiting[self._buckets[self._order[self._come]]]
                waiting.append(self._come)
                self._come += 1
                if len(waiting) == self._size:
                    self._placed.extend(waiting)
                    waiting.clear()
            return self._placed[start:end]
