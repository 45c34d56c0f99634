"""Captions in a text file beside each image, as other trainers write them: a.jpg and a.txt."""

from collections.abc import Sequence
from pathlib import Path

from medart_cli.data.folders import find_texts
from medart_cli.data.manifest import Record
from medart_cli.data.tables import decode_text
from medart_cli.errors import ConfigError
from medart_cli.log import log


def add_sidecar_texts(rows: Sequence[Record]) -> tuple[list[Record], int]:
    """Give rows that have no text the one of the file beside their image; it is the user's own.

    Returns:
        The rows, and how many got a text.

    Raises:
        ConfigError: A text file cannot be read, or an image has two that disagree.
    """
    found, added = [], 0
    for row in rows:
        text = None if row.text is not None else _read_text(row)
        added += text is not None
        found.append(row if text is None else row.with_fields(text=text))
    log.info("%d texts read from sidecar files", added)
    return found, added


def _read_text(row: Record) -> str | None:
    first: dict[str, Path] = {}
    for path in find_texts(row.path):
        try:
            text = decode_text(path.read_bytes(), str(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        first.setdefault("\n".join(text.split("\r\n")).strip(), path)
    if len(first) > 1:
        one, two, *_ = first.values()
        raise ConfigError(f"{two}: differs from {one}, of the same image; keep one")
    return next(iter(first), None) or None
