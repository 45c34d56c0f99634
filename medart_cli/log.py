"""What medart says while it works: log lines, progress and tables, all on standard error."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, JustifyMethod, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from medart_cli.outlook import Outlook, find_outlook, word_seconds

log = logging.getLogger("medart")

LINE_EVERY = 30.0  # seconds between plain progress lines where there is no terminal
TEXT_COLUMNS = 100  # columns of laid-out text, so that lines stay readable


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def start_log(*, quiet: bool = False, verbose: bool = False, silent: bool = False) -> None:
    """Send medart's log to standard error: warnings, and unless `quiet` the steps as well.

    Of several processes all but rank 0 are `silent`: they would log the same lines again.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(message)s"))
    log.handlers = [handler]
    log.propagate = False
    # It says, at each start, that a home folder may not be written to, where it keeps what it
    # knows of fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # peft loads it, and it says on some CPUs that a kernel is missing that medart does not use.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    log.setLevel(logging.ERROR if silent else level)


class Progress:
    """Counts finished items; shown as a bar on a terminal, else as a plain line now and then."""

    def __init__(self, name: str, total: int, done: int, bar: RichProgress | None) -> None:
        self._name, self._total, self._done, self._bar = name, total, done, bar
        self._first, self._started, self._said = done, time.monotonic(), time.monotonic()
        self._outlook = find_outlook()
        self._task = bar.add_task(name, total=total, completed=done, facts="") if bar else None

    def advance(self, facts: dict[str, float] | None = None, *, count: int = 1) -> None:
        """Count more items as done; `facts` (a loss, say) are shown beside them."""
        self._done += count
        text = "  ".join(f"{name} {value:.4g}" for name, value in (facts or {}).items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, facts=text)
        elif time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            pace = (self._said - self._started) / max(1, self._done - self._first)
            left = word_seconds(pace * (self._total - self._done))
            text += f"; {self._outlook.tell()}" if self._outlook else ""
            log.info(
                "%s %d/%d, %.3g s each, %s left  %s",
                *(self._name, self._done, self._total, pace, left, text),
            )


class _Bars(RichProgress):
    """A bar, and below it how far the command is that runs this one, if one does."""

    outlook: Outlook | None = None  # the thread that draws has no context to find it in

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.outlook is not None:
            yield Text(self.outlook.tell())


@contextmanager
def progress(name: str, total: int, *, done: int = 0) -> Iterator[Progress]:
    """Show how far a loop of `total` items has come, starting at `done`.

    Yields:
        A counter; call its `advance` after each item.
    """
    if not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO):
        yield Progress(name, total, done, None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    bar = _Bars(*columns, console=Console(stderr=True))
    bar.outlook = find_outlook()
    with bar:
        yield Progress(name, total, done, bar)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard error, unless the log is quiet.

    Texts stand as they are: in a plain string, rich would take [brackets] for its own marks.
    """
    if not log.isEnabledFor(logging.INFO):
        return
    shown = Table(title=Text(title, style="table.title"), title_justify="left")
    for index, name in enumerate(columns):
        # Long names go on in the next line: cut off at their end, two of them would look alike.
        justify: JustifyMethod = "left" if index == 0 else "right"
        shown.add_column(Text(name), justify=justify, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    Console(stderr=True).print(shown)


def lay_out(markdown: str) -> str:
    """Lay out Markdown for a terminal; text that goes to a pipe or a file stays as it is.

    Args:
        markdown: What standard output is to get.
    """
    if sys.__stdout__ is None or not sys.__stdout__.isatty():
        return markdown
    from rich.markdown import Markdown  # loads a highlighter, which nothing else needs

    console = Console(file=sys.__stdout__)
    with console.capture() as laid_out:
        console.print(Markdown(markdown), width=min(console.width, TEXT_COLUMNS))
    return laid_out.get()
