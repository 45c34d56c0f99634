"""A transformer's blocks, compiled by torch.compile: each class of blocks once for each shape.

All blocks of a class run the same code on their own weights, so that one of them is compiled for
all (regional compilation, as `compile_repeated_blocks` of diffusers and `compile_regions` of
accelerate; the former names no blocks of these bases, the latter compiles the rest of the model
too). For that their inputs must look alike: shapes are fixed, prompts padded to one length, and
memory layouts made the same.
"""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._dynamo.utils import calculate_time_spent, counters

from medart_cli.errors import ConfigError, RunError
from medart_cli.log import log
from medart_cli.models.parts import unwrap

BACKEND = "inductor"
MOST_GRAPHS = 64  # graphs of a class of blocks; beyond, there is a fault, and PyTorch ends the run
CODE_CACHE = "TORCHINDUCTOR_CACHE_DIR"
PAD_UNIT = 8  # prompts are padded to multiples of it, which attention kernels like


def compile_blocks(transformer: nn.Module) -> None:
    """Have the blocks of a transformer compiled when they are first called; in place.

    The model keeps its classes, names of weights and hooks. Each shape of inputs, and passes with
    and without gradients, have a graph of their own. A block that is no single graph is an error,
    and never run as it is without a word.

    Args:
        transformer: Of any family, with adapters or without, before it is wrapped for several
            processes.
    """
    dynamo.recompile_limit = max(dynamo.recompile_limit, MOST_GRAPHS)
    for block in find_blocks(transformer):
        forward = torch.compile(block.forward, backend=BACKEND, fullgraph=True, dynamic=False)
        block.forward = _steady(forward, type(block).__name__)


def find_blocks(transformer: nn.Module) -> Iterator[nn.Module]:
    """Yield the repeated blocks of a transformer."""
    for child in unwrap(transformer).children():
        if isinstance(child, nn.ModuleList):
            yield from child


def _steady(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Give a compiled function all tensors in one memory layout, and say what it cannot do.

    The first block gets what the embedding of patches gives, which lies in memory otherwise than
    what a block gives: a second graph for all that is compiled.
    """

    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - a block's own
        steady = [_lay_out(value) for value in arguments]
        try:
            return forward(*steady, **{key: _lay_out(value) for key, value in named.items()})
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            raise RunError(
                f"--compile: PyTorch cannot compile {name}: {_first_line(error)}; run the same "
                "command again without --compile"
            ) from error

    return call


def _lay_out(value: object) -> object:
    return value.contiguous() if isinstance(value, Tensor) else value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@cache
def check_compiler(device: torch.device, folder: Path) -> None:
    """Compile a few sums, so that what is missing shows before there is anything to lose.

    Compiled code is kept in medart's cache, where none but the user may write. PyTorch's own place
    is a folder of the user's name in the temporary folder, which on a shared server anybody could
    make first and fill with code.

    Args:
        device: Where blocks will run.
        folder: The cache; TORCHINDUCTOR_CACHE_DIR, where it is set, goes before.

    Raises:
        ConfigError: There is no working compiler.
    """
    keep_code_in(folder)

    def probe(numbers: Tensor) -> Tensor:
        return (numbers * 2 + 1).sum()

    log.info("--compile: testing the compiler; compiled code is kept in %s", os.environ[CODE_CACHE])
    try:
        found = torch.compile(probe, backend=BACKEND, fullgraph=True, dynamic=False)(
            torch.ones(64, device=device)
        )
    except (TorchDynamoException, RuntimeError, OSError) as error:
        needed = "gcc and Python's header files" if device.type == "cuda" else "g++"
        raise ConfigError(
            f"--compile: nothing can be compiled on this machine: {_first_line(error)}; install "
            f"{needed}, or leave --compile out"
        ) from error
    if float(found) != 192:
        raise ConfigError("--compile: compiled code computes wrongly here; leave it out")


def keep_code_in(folder: Path) -> None:
    """Have PyTorch keep compiled code in a folder, unless the user has named another."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # PyTorch writes its own choice there, as soon as any library asks it.
    if os.environ.get(CODE_CACHE, "") in ("", os.path.abspath(default_cache_dir())):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.environ[CODE_CACHE] = str(folder.resolve())
    from torch._inductor import codecache  # seconds

    # It takes these from the temporary folder, whatever the variable says.
    headers = Path(os.environ[CODE_CACHE]) / "precompiled_headers"
    codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(headers), str(headers / "locks")


def fix_length(longest: int, limit: int) -> int:
    """Return the length that all prompts are padded to: the longest one's, a little rounded up."""
    return min(limit, -(-longest // PAD_UNIT) * PAD_UNIT)


class Graphs:
    """Tells when something was compiled: after a step of a new kind, and never again."""

    def __init__(self) -> None:
        self.known, self.seconds = count_graphs()
        self.total = 0

    def say(self, place: str) -> bool:
        """Say what was compiled since it was last asked, and return whether anything was."""
        graphs, seconds = count_graphs()
        fresh = graphs - self.known
        if fresh:
            self.total += fresh
            told = (place, fresh, seconds - self.seconds, self.total)
            log.info("%s: %d graphs of blocks compiled in %.0f s, %d in all", *told)
        self.known, self.seconds = graphs, seconds
        return fresh > 0


def count_graphs() -> tuple[int, float]:
    """Return how many graphs this process has compiled, and the seconds that took."""
    seconds = calculate_time_spent()["total_wall_time"]
    return int(counters["stats"]["unique_graphs"]), seconds
