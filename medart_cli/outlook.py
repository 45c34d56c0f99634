"""How long it will take, in words: a loop, and a command that runs others one after the other."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta

MINUTE, HOUR, DAY = 60, 3600, 86400
Piece = tuple[str, str]  # a command, and what it is run on, such as the arm of a study


def word_seconds(seconds: float) -> str:
    """Write a duration as a person would say it: 40 s, 14 min, 3 h 5 min, 2 d 4 h."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / MINUTE)
    if minutes < 2 * 60:
        return f"{minutes} min"
    if seconds < 2 * DAY:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / HOUR)
    return f"{hours // 24} d {hours % 24} h"


def word_end(seconds: float) -> str:
    """Write the time of day in so many seconds, with the date where that is another day."""
    now = datetime.now()
    end = now + timedelta(seconds=seconds)
    return end.strftime("%H:%M" if end.date() == now.date() else "%a %d %b, %H:%M")


class Outlook:
    """The parts of a command that runs others, and when the last of them will end.

    A part is expected to take as long as those of its kind did, else as those of its command.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[Piece],
        *,
        done: int = 0,
        known: Mapping[Piece, Sequence[float]] | None = None,
    ) -> None:
        """Plan the parts.

        Args:
            name: Of the command that runs them.
            parts: Those that are left, in order.
            done: How many were done before.
            known: What parts took before, in seconds.
        """
        self.name = name
        self.total = done + len(parts)
        self.number = done  # of the part at work, from 1
        self._left = [*parts]
        self._started = time.monotonic()
        self._outer: Outlook | None = None
        self._seen: defaultdict[Piece, list[float]] = defaultdict(list)
        for part, seconds in (known or {}).items():
            self._seen[part] += seconds

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let the progress of all loops in the block tell of this as well."""
        self._outer = _CURRENT.get()
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    @contextmanager
    def part(self, *, whole: bool = True) -> Iterator[None]:
        """Do the next part in the block.

        Args:
            whole: Whether all of it is done now, so that its seconds tell what others will take.
        """
        self.number += 1
        self._started = time.monotonic()
        yield
        part = self._left.pop(0)
        if whole:
            self._seen[part].append(time.monotonic() - self._started)

    def tell(self) -> str:
        """Say which part of how many is at work, how long the rest takes, and when it ends."""
        place = f"{self.name} part {self.number} of {self.total}"
        if self._outer is not None:
            place = f"{self._outer.name} part {self._outer.number} of {self._outer.total}, {place}"
        guesses = [self._guess(part) for part in self._left]
        known = [seconds for seconds in guesses if seconds is not None]
        if not known:
            return place
        at_work = guesses[0] is not None
        left = sum(known) - (min(known[0], time.monotonic() - self._started) if at_work else 0)
        if len(known) < len(guesses):  # nothing of some kind has been done yet
            return f"{place}, more than {word_seconds(left)} left"
        return f"{place}, about {word_seconds(left)} left, done about {word_end(left)}"

    def _guess(self, part: Piece) -> float | None:
        """Return the seconds that a part is expected to take; None where nothing is known."""
        alike = [took for other, took in self._seen.items() if other[0] == part[0] and took]
        seen = self._seen.get(part) or [seconds for took in alike for seconds in took]
        return sum(seen) / len(seen) if seen else None


_CURRENT: ContextVar[Outlook | None] = ContextVar("outlook", default=None)


def find_outlook() -> Outlook | None:
    """Return the outlook of the command that runs this one; None where a user does."""
    return _CURRENT.get()
