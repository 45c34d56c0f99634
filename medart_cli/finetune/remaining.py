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
        color = self.every > 0 and step % self.every == 0
        self._last = step
        if not compiled:
            kind = self._seconds if self._passed[color] else self._passed
            kind[color].append(seconds)
        plain, colors = self.count_left()
        counts = f"{plain + colors} steps left"
        counts += f", {colors} of them with HLDF" if self.every else ""
        left = self.reckon()
        if left is not None:
            self._said = True
            if left >= WORTH_SECONDS:
                log.info("%s: about %s, done about %s", counts, word_seconds(left), word_end(left))
        elif self._seconds[False][ENOUGH - 1 :] and not self._waits:  # HLDF may be far away
            usual = median(self._seconds[False])
            if usual * (self.every - step % self.every) > WORTH_SECONDS:
                self._waits = True
                log.info(
                    "%s: about %s without these; the whole is said after the first of them",
                    *(counts, word_seconds(usual * plain)),
                )

    def count_left(self) -> tuple[int, int]:
        """Return how many normal steps are left, and how many with HLDF."""
        colors = self.total // self.every - self._last // self.every if self.every else 0
        return self.total - self._last - colors, colors

    def reckon(self) -> float | None:
        """Return the seconds of the steps that are left; None where too few were measured."""
        plain, colors = self.count_left()
        normal = self._seconds[False]
        color = self._seconds[True] or self._passed[True]
        enough = len(normal) >= ENOUGH or (self.every == 1 and len(self._seconds[True]) > 0)
        if not enough or (colors and not color):
            return None
        return plain * (median(normal) if normal else 0) + colors * (median(color) if color else 0)
