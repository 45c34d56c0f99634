"""One process among several, and one part of the rows among several.

Several processes of one run are started by `accelerate launch`, torchrun or srun, which say in the
environment which of them this is. `--shard` makes a run one of several that know nothing of each
other. Both only choose rows: what a row becomes depends on the seed and the row alone.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """Every `count`-th row from `index` on; all rows are part 0 of 1."""

    index: int
    count: int

    def take(self, rows: Sequence[Item]) -> Sequence[Item]:
        """Return this part's rows."""
        return rows[self.index :: self.count]

    @property
    def name(self) -> str:
        """What the part's own files are called by: `2-of-3`; empty for all rows."""
        return f"{self.index + 1}-of-{self.count}" if self.count > 1 else ""


def own_rank() -> int:
    """Return the number of this process, from 0; process 0 speaks for all."""
    return int(os.environ.get("RANK", "0"))


def count_ranks() -> int:
    """Return how many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_part(shard: tuple[int, int]) -> Part:
    """Return this process's part of a shard.

    Args:
        shard: Number of the shard, from 1, and how many there are; (1, 1) for all rows.
    """
    number, count = shard
    return Part((number - 1) * count_ranks() + own_rank(), count * count_ranks())


def is_lost_process(error: Exception) -> bool:
    """Say whether an error means that another process of this run has ended.

    gloo raises a plain RuntimeError and NCCL one of torch's Dist errors; torch is not imported
    here, so both are known by their names.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return count_ranks() > 1 and ("DistError" in names or "third_party/gloo" in str(error))
