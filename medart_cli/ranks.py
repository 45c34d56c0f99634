"""One process among several, and one part of the rows among several.

Several processes of one run are started by `accelerate launch`, torchrun or srun, which say in the
environment which of them this is. `--shard` makes a run one of several that know nothing of each
other. Both only choose rows: what a row becomes depends on the seed and the row alone.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from medart_cli.errors import ConfigError

# What torchrun and accelerate launch set for each process, and all of which torch needs.
LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# What mpirun, and srun by its plugins, set; accelerate takes it for a launch on CPUs.
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LAUNCHERS = "to start several use torchrun or accelerate launch (docs/cluster.md)"

Item = TypeVar("Item")
Found = TypeVar("Found")


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


def check_environment() -> str | None:
    """Find out whether the environment says clearly which process this is, and of how many.

    What launchers of other programs left there would make this one do a part of the rows only, or
    wait for processes that do not come.

    Returns:
        What to log about variables that are ignored, since this is surely one process.

    Raises:
        ConfigError: Variables are missing or contradict each other; it names them.
    """
    given = [name for name in LAUNCH if name in os.environ]
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    counted = {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & {*given}
    if not counted or (size == "1" and rank in (None, "0") and "LOCAL_RANK" not in given):
        _check_mpi()
        left = f"{', '.join(given)} in the environment: ignored, this runs as a single process"
        return left if given else None
    missing = [name for name in LAUNCH if name not in given]
    if missing:
        raise ConfigError(
            f"{', '.join(given)} in the environment without {', '.join(missing)}: left over "
            f"from another launch? For a single process run `unset {' '.join(given)}`; {LAUNCHERS}"
        )
    numbers = [os.environ[name] for name in LAUNCH[:3]]
    whole = all(number.isascii() and number.isdigit() for number in numbers)
    if not whole or not max(own_rank(), int(numbers[2])) < count_ranks():
        facts = ", ".join(f"{name}={os.environ[name]!r:.20}" for name in LAUNCH[:3])
        raise ConfigError(
            f"{facts} in the environment are inconsistent; for a single process run `unset "
            f"{' '.join(given)}`; {LAUNCHERS}"
        )
    return None


def _check_mpi() -> None:
    """Refuse processes of mpirun, but those of `accelerate launch`, which gives an address too."""
    sizes = [name for name in MPI_SIZES if os.environ.get(name, "1") != "1"]
    if sizes and "MASTER_ADDR" not in os.environ:
        names = [name for name in os.environ if name.startswith(sizes[0].removesuffix("SIZE"))]
        raise ConfigError(
            f"{sizes[0]}={os.environ[sizes[0]]} in the environment, as set by mpirun, without RANK "
            f"and WORLD_SIZE; for one process run `unset {' '.join(sorted(names))}`; {LAUNCHERS}"
        )


def own_rank() -> int:
    """Return the rank of this process, from 0; rank 0 logs and prints for all."""
    return int(os.environ.get("RANK", "0"))


def count_ranks() -> int:
    """Return how many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Say whether this is process 0, which writes what all have in common."""
    return own_rank() == 0


def wait_for_all() -> None:
    """Wait until all processes are here; one process alone does not wait, nor load accelerate."""
    if count_ranks() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def leave_together() -> None:
    """End the group of several processes in order, or one of them may fail while it exits."""
    if count_ranks() > 1:
        wait_for_all()
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def ask_first(find: Callable[[], Found]) -> Found:
    """Compute something on rank 0 and broadcast it; the other ranks wait for it."""
    if count_ranks() == 1:
        return find()
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [find() if is_first() else None]
    return broadcast_object_list(found)[0]  # type: ignore[no-any-return]


def own_part(shard: tuple[int, int]) -> Part:
    """Return this process's part of a shard.

    Args:
        shard: Number of the shard, from 1, and how many there are; (1, 1) for all rows.
    """
    number, count = shard
    return Part((number - 1) * count_ranks() + own_rank(), count * count_ranks())


def is_lost_process(error: Exception) -> bool:
    """Say whether an error means that another rank of this run has failed.

    gloo raises a plain RuntimeError and NCCL one of torch's Dist errors; torch is not imported
    here, so both are known by their names.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return count_ranks() > 1 and ("DistError" in names or "third_party/gloo" in str(error))
