"""Captions in a text file beside each image, as other trainers write them: a.jpg and a.txt."""

from collections.abc import Sequence

from medart_cli.data.folders import find_text
from medart_cli.data.manifest import Record
from medart_cli.errors import ConfigError
from medart_cli.log import log


def add_sidecar_texts(rows: Sequence[Record]) -> tuple[list[Record], int]:
    """Give rows that have no text the one of the file beside their image; it is the user's own.

    Returns:
        The rows, and how many got a text.

    Raises:
        ConfigError: A text file is not UTF-8.
    """
    found, added = [], 0
    for row in rows:
        text = None if row.text is not None else _read_text(row)
        added += text is not None
        found.append(row if text is None else row.with_fields(text=text))
    log.info("%d texts taken from the files beside the images", added)
    return found, added


def _read_text(row: Record) -> str | None:
    path = find_text(row.path)
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text in UTF-8: {error}") from error
