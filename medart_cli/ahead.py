"""What a model is fed is read by other threads while it computes.

Threads, not processes: decoding and resizing release Python's lock, and threads need no shared
memory (a container has 64 MB of it) and no open files, take no signals, and end with the process.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from medart_cli import stop

Input = TypeVar("Input")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Input], Result],
    items: Iterable[Input],
    *,
    threads: int,
    ahead: int,
    poll: Callable[[], object] = stop.check,
) -> Generator[Result]:
    """Apply a function to items in other threads; the results come in the order of the items.

    Args:
        function: What to do; what it raises is raised when the result's turn comes.
        items: Each is taken in the caller's thread, when there is room for it.
        threads: How many; 0 does all in the caller's thread, and nothing ahead.
        ahead: Results that are waiting or in the making, at most; 1 or more.
        poll: Called before each result; may raise to leave. By default it looks for stop signals.

    Raises:
        Stopped: A stop signal has arrived, by the default `poll`.
    """
    if threads == 0:
        for item in items:
            poll()
            yield function(item)
        return
    rest = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        coming = deque(pool.submit(function, item) for item in islice(rest, ahead))
        try:
            while coming:
                poll()
                result = coming.popleft().result()
                coming.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
