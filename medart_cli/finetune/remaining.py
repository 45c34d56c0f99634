"""How long a run will take, said once near its beginning, from its own first steps."""

from statistics import median

from medart_cli.log import log
from medart_cli.outlook import word_end, word_seconds

ENOUGH = 3  # normal steps that are measured before it is said
WORTH_SECONDS = 60  # less than that is not worth a line


class Remaining:
    """The seconds of the steps so far, by kind, and what they say of those that are left.

    The first step of each kind counts only until there is another, and one in which something was
    compiled never: libraries choose kernels then, and memory is taken.
    """

    def __init__(self, every: int, first: int, total: int) -> None:
        """Begin.

        Args:
            every: HLDF runs at every such step; 0 for never.
            first: The steps that were made before.
            total: Those of the whole run.
        """
        self.every, self.total = every, total
        self._last = first
        self._seconds: dict[bool, list[float]] = {False: [], True: []}  # by whether with HLDF
        self._passed: dict[bool, list[float]] = {False: [], True: []}  # the first of each kind
        self._waits = False
        self._said = False

    def note(self, step: int, seconds: float, *, compiled: bool = False) -> None:
        """Take the seconds of a step; say how long the rest takes as soon as that is known."""
        if self._said:
            return
        color = self._has_color(step)
        self._last = step
        if not compiled:
            kind = self._seconds if self._passed[color] else self._passed
            kind[color].append(seconds)
        if len(self._seconds[False]) >= ENOUGH or (self.every == 1 and self._seconds[True]):
            self._say()

    def _has_color(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def _say(self) -> None:
        left = self.total - self._last
        colors = self.total // self.every - self._last // self.every if self.every else 0
        plain = (left - colors) * _typical(self._seconds[False] or self._passed[False])
        measured = self._seconds[True] or self._passed[True]
        counts = f"{left} steps left" + (f", {colors} of them with HLDF" if self.every else "")
        if colors and not measured:  # the first of them may be far away
            wait = (self.every - self._last % self.every) * plain / max(1, left - colors)
            if wait > WORTH_SECONDS and not self._waits:
                self._waits = True
                log.info(
                    "%s: about %s without these; the whole is said after the first of them",
                    *(counts, word_seconds(plain)),
                )
            return
        self._said = True
        seconds = plain + colors * _typical(measured)
        if seconds >= WORTH_SECONDS:
            log.info(
                "%s: about %s, done about %s", counts, word_seconds(seconds), word_end(seconds)
            )


def _typical(seconds: list[float]) -> float:
    return median(seconds) if seconds else 0.0
