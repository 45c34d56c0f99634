"""Stopping on request: a stop signal sets a flag that every loop polls with `check`.

The signals are SIGTERM, SIGINT, SIGUSR1, and SIGHUP, which a lost connection sends.

A signal may arrive anywhere, also in the middle of a write; so the handler only takes a note, and
the work is left at the next place where its state is whole. A second Ctrl-C stops at once. Before
the work begins there is nothing to save, and one signal ends the process at once.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from medart_cli.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
OUTPUTS = (1, 2)  # standard output and error
AGAIN = 1.0  # seconds; torchrun hands a Ctrl-C on to processes that have heard it already
_received: list[tuple[str, float]] = []
_terminals: list[int] = []  # those of OUTPUTS that were one when the run began


def end_at_once() -> None:
    """Answer the stop signals with one line and the end of the process, until `listen` is called.

    Not by an exception: while libraries are imported, some of them would swallow it.
    """
    _answer(_end)


def listen() -> None:
    """Answer the stop signals with a note for `check`; call it from the main thread."""
    _terminals[:] = filter(os.isatty, OUTPUTS)
    _answer(_note)


def forget() -> None:
    """Forget the signals that have come: they were meant for work that is over."""
    _received.clear()


@contextmanager
def at_once() -> Iterator[None]:
    """Answer the stop signals at once while the block imports libraries, which takes seconds.

    Nothing is at work then that would have to be saved.

    Where nobody listens, as in a notebook, nothing changes.

    Raises:
        Stopped: A signal has arrived before.
    """
    check()
    if signal.getsignal(signal.SIGINT) is not _note:
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _answer(_end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_quietly() -> None:
    """Let a Ctrl-C that comes after the last line change nothing about how the process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check() -> None:
    """Raise `Stopped` if a stop signal has arrived.

    Raises:
        Stopped: Names the signal; the caller saves what is whole and lets it pass.
    """
    if _received:
        raise Stopped(f"stopped by {_received[0][0]}; run the same command again to resume")


def received() -> bool:
    """Say whether a stop signal has arrived, where it cannot be answered alone."""
    return bool(_received)


def _answer(handler: Callable[[int, FrameType | None], None]) -> None:
    """Set the handler of all stop signals; under nohup SIGHUP is ignored, and stays so."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    line = f"medart: stopped by {name} before it began; run the same command again to resume\n"
    with suppress(OSError):  # nobody may be reading any more
        os.write(2, line.encode())
    os._exit(Stopped.exit_code)


def _note(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _received and number == signal.SIGINT and now - _received[0][1] > AGAIN:
        raise KeyboardInterrupt
    _received.append((signal.Signals(number).name, now))
    if number == signal.SIGHUP:
        _leave_lost_terminals()


def _leave_lost_terminals() -> None:
    """Send what is still to be said nowhere, where the terminal is gone: it would be an error."""
    for output in _terminals:
        if not os.isatty(output):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)
