"""Tables of a data set: CSV files as spreadsheets and databases write them, and JSON Lines."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medart_cli.errors import ConfigError

MARKS = {  # byte order marks; the longer first
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        values: By column; without spaces at either end, and None where a cell is empty.
        place: `file:line` for messages; of a row over several lines the last.
    """

    values: dict[str, Any]
    place: str


def read_table(path: Path, needed: tuple[str, ...]) -> tuple[list[str], list[TableRow]]:
    """Read a CSV table with a head line: any usual separator, UTF-8 or UTF-16.

    Args:
        path: The file.
        needed: Columns that it must have.

    Returns:
        The columns, and the rows; blank lines are left out.

    Raises:
        ConfigError: It cannot be read, a column is missing or stands twice, or a row has more or
            fewer cells than the head; the message names the line.
    """
    text = _decode(path)
    head = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(SEPARATORS, key=head.count)
    # Spaces around a cell are no part of it; newline="" leaves line ends inside quotes alone.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    lines = _read_lines(path, reader)
    columns = [name.strip() for name in next(lines, (0, []))[1]]
    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(columns) or "nothing"
        raise ConfigError(
            f"{path}: has no column {' and no column '.join(missing)}; its columns are: {found}"
        )
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise ConfigError(f"{path}: column {twice[0]!r} stands twice")
    rows = []
    for number, cells in lines:
        if len(cells) != len(columns):
            raise ConfigError(
                f"{path}:{number}: has {len(cells)} cells where the head has {len(columns)}; quote "
                "cells that hold the separator"
            )
        values = {name: cell.strip() or None for name, cell in zip(columns, cells, strict=True)}
        rows.append(TableRow(values, f"{path}:{number}"))
    return columns, rows


def clean_name(name: str) -> str:
    """Write the path of a table with forward slashes, and without a drive before it."""
    name = name.replace("\\", "/")
    return name[2:].lstrip("/") if name[1:3] == ":/" else name


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not {encoding} text; save it as CSV in UTF-8") from error


def _read_lines(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:  # noqa: ANN401 - csv's reader has no public type
    """Give each row that is not blank with the number of its last line."""
    before = 0
    try:
        for cells in reader:
            before = reader.line_num
            if any(cell.strip() for cell in cells):
                yield before, cells
    except csv.Error as error:
        raise ConfigError(
            f"{path}:{before + 1}: a cell is wrongly quoted (a quote without its end?): {error}"
        ) from error
