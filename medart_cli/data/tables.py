"""Tables of a data set: CSV files as spreadsheets and databases write them, and JSON Lines."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medart_cli.data.files import draft_of
from medart_cli.data.kinds import describe_kind
from medart_cli.errors import ConfigError

BYTE_ORDER_MARKS = {  # the longer first
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
SEPARATORS = (",", ";", "\t", "|")
JSON_HEAD = re.compile(r'\s*(\[\s*"|\[?\s*\{\s*")')  # how JSON begins, and hardly a text
JSON_LINES = (".jsonl", ".ndjson")  # endings
# A line break in one of these is that of a quote whose end belongs to another cell.
ONE_LINE = ("file_name", "label", "group_id", "split")
KNOWN = {"".join(name.split("_")): name for name in (*ONE_LINE, "text")}  # by its letters alone
# What programs write for a missing value, and a person for an unknown one; it may be a class too.
MISSING = frozenset("nan na n/a <na> #n/a null none nil missing unknown unbekannt - ? .".split())
NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")  # control characters but white space
ERRORS = ("#REF!", "#N/A", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!")  # of spreadsheets
FORMULA = re.compile(r"'*[=+@\t\r-]")  # how a cell begins that a spreadsheet would calculate
GUARDED = re.compile(r"'+[=+@\t\r-]")  # the same behind the apostrophe that keeps it a text
# What a spreadsheet would make a number or a date of: 007, 1.2.826, 12e5, 3-4.
NUMBER = re.compile(r"(?=.*\d)[\d.,:/ -]*([eE][\d.,:/ -]*)?")


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
    """Read a table, JSON Lines by its ending, else CSV: any usual separator, UTF-8 or UTF-16.

    Args:
        path: The file; CSV has a header row.
        needed: Columns that it must have.

    Returns:
        The columns, and the rows; blank lines are left out.

    Raises:
        ConfigError: It cannot be read, a column is missing or appears twice, or a row has more or
            fewer cells than the header; the message names the line.
    """
    try:
        text = decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix.lower() in JSON_LINES:
        rows = [*_read_json(path, text)]
        columns = [*dict.fromkeys(name for row in rows for name in row.values)]
        _check_columns(path, columns, needed)
    else:
        columns, rows = _read_csv(path, text, needed)
    for row in rows:
        _check_cells(row)
    if path.suffix.lower() not in JSON_LINES:
        rows = [TableRow(_unguard(row.values), row.place) for row in rows]
    return columns, rows


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file that spreadsheets open as it is, and `read_table` reads, in one move.

    UTF-8 with a byte order mark and commas. A cell that a spreadsheet would calculate begins with
    an apostrophe, and one of which it would make a number or a date is written as ="007".

    Args:
        path: The file.
        columns: The header.
        rows: Cells of each row, as many as there are columns.

    Raises:
        OSError: The disk is full or lost.
    """
    with draft_of(path) as draft, draft.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)  # its line ends are CR LF, as spreadsheets have them
        writer.writerow(columns)
        writer.writerows([_guard(cell) for cell in row] for row in rows)


def _guard(cell: str) -> str:
    if NUMBER.fullmatch(cell):
        return f'="{cell}"'
    return f"'{cell}" if FORMULA.match(cell) else cell


def _unguard(values: dict[str, Any]) -> dict[str, Any]:
    return {name: cell[1:] if isinstance(cell, str) and GUARDED.match(cell) else cell
            for name, cell in values.items()}  # fmt: skip


def _check_cells(row: TableRow) -> None:
    """Refuse what is neither a name nor a number where one is meant."""
    for name in ONE_LINE:
        cell = row.values.get(name)
        if not isinstance(cell, str):
            continue
        if "\n" in cell or "\r" in cell:
            raise ConfigError(
                f"{row.place}: {name} contains a line break (an unclosed quote above?); fix it"
            )
        if NO_TEXT.search(cell):
            raise ConfigError(f"{row.place}: {name} contains a control character; remove it")
        if cell.startswith("=") or cell in ERRORS:
            raise ConfigError(
                f"{row.place}: {name} is {cell!r:.40}, a spreadsheet formula or error; "
                "write its value"
            )


def decode_text(raw: bytes, place: str) -> str:
    """Decode a file that people write: by its byte order mark, which is dropped, else UTF-8.

    UTF-16 without a mark is known by its zero bytes.

    Args:
        raw: The file's bytes.
        place: What messages call the file.

    Raises:
        ConfigError: It is no such text; the message names the line.
    """
    known = describe_kind(raw)
    if known is not None:
        raise ConfigError(f"{place}: is {known[0]}, not text; export or save it as UTF-8 text")
    encoding = next(
        (name for mark, name in BYTE_ORDER_MARKS.items() if raw.startswith(mark)), "utf-8"
    )
    if encoding == "utf-8" and {*raw[:4:2]} == {0}:
        encoding = "utf-16-be"
    elif encoding == "utf-8" and {*raw[1:4:2]} == {0}:
        encoding = "utf-16-le"
    try:
        return raw.decode(encoding).replace("\ufeff", "")  # files put together have several
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{place}: cannot be read as {encoding} text from line {line} on; save it in UTF-8"
        ) from error


def clean_name(name: str) -> str:
    """Write the path of a table with forward slashes, and without a drive before it."""
    name = name.replace("\\", "/")
    return name[2:].lstrip("/") if name[1:3] == ":/" else name


def _check_columns(path: Path, columns: list[str], needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(name or "(no name)" for name in columns) or "nothing"
        raise ConfigError(
            f"{path}: has no column {' and no column '.join(missing)}; its columns are: "
            f"{found:.300}; rename the one that is meant"
        )
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise ConfigError(f"{path}: column {twice[0]!r} appears twice; keep one")


def _read_csv(path: Path, text: str, needed: tuple[str, ...]) -> tuple[list[str], list[TableRow]]:
    if JSON_HEAD.match(text):
        raise ConfigError(f"{path}: looks like JSON; write one object per line, and name it .jsonl")
    head = text.lstrip("\r\n").split("\n", 1)[0]
    named = head[4:5] if head.lower().startswith("sep=") else ""  # Excel writes such a line
    # Spaces around a cell are no part of it; newline="" leaves line ends inside quotes alone.
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=named or max(SEPARATORS, key=head.count),
        strict=True,
        skipinitialspace=True,
    )
    columns: list[str] = []
    lines = _read_lines(path, reader, text, columns)
    if named:
        next(lines)
    columns += _find_columns(next(lines, (0, []))[1])
    _check_columns(path, columns, needed)
    rows = []
    for number, cells in lines:
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise ConfigError(
                f"{path}:{number}: has {len(cells)} cells where the header has {len(columns)} "
                f"({', '.join(columns):.300}); quote cells that contain the separator"
            )
        if len(cells) < len(columns):
            raise ConfigError(
                f"{path}:{number}: has no cell for column {columns[len(cells)]}; add it, empty "
                "if need be"
            )
        named_cells = zip(columns, cells, strict=False)  # one without a name is a row's number
        values = {name: _clean_cell(cell) for name, cell in named_cells if name}
        rows.append(TableRow(values, f"{path}:{number}"))
    return columns, rows


def _find_columns(cells: list[str]) -> list[str]:
    """Name the columns; File Name and FILENAME are file_name, where none is so called."""
    names = [cell.strip() for cell in cells]
    known = [KNOWN.get(re.sub(r"[\W_]+", "", name.casefold()), name) for name in names]
    return [name if plain in names else plain for name, plain in zip(names, known, strict=True)]


def _clean_cell(cell: str) -> str | None:
    """Leave out spaces around a cell, and the signs by which spreadsheets keep ="007" a text."""
    cell = cell.strip()
    text = re.fullmatch(r'="([^"]*)"', cell)
    return (text[1].strip() if text else cell) or None


def _read_lines(
    path: Path,
    reader: Any,  # noqa: ANN401 - csv's reader has no public type
    text: str,
    columns: list[str],
) -> Iterator[tuple[int, list[str]]]:
    """Give each row that is not blank with the number of its last line; `columns` name a fault."""
    before = 0
    try:
        for cells in reader:
            before = reader.line_num
            if any(cell.strip() for cell in cells):
                yield before, cells
    except csv.Error as error:
        line = re.split(r"\r\n|\r|\n", text)[before]
        number = _find_fault(line, reader.dialect.delimiter)
        name = f"column {columns[number]}" if number < len(columns) else f"cell {number + 1}"
        raise ConfigError(
            f"{path}:{before + 1}: {name} has a quoting error (an unclosed quote?): {error}; "
            "fix the quotes"
        ) from error


def _find_fault(line: str, separator: str) -> int:
    """Return the number, from 0, of the first cell that is quoted in a wrong way."""
    mark = re.escape(separator)
    cell = re.compile(rf' *("([^"]|"")*"|[^"{mark}][^{mark}]*)?{mark}')
    number = place = 0
    while found := cell.match(line, place):
        number, place = number + 1, found.end()
    return number


def _read_json(path: Path, text: str) -> Iterator[TableRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            fields = json.loads(line, object_pairs_hook=_no_twins)
            json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{place}: is not a JSON object: {error!s:.200}; fix it") from error
        if not isinstance(fields, dict):
            raise ConfigError(f"{place}: is not a JSON object; write one per line")
        cells = {
            name.strip(): cell.strip() or None if isinstance(cell, str) else cell
            for name, cell in fields.items()
        }
        yield TableRow(cells, place)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name.strip() for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{next(it for it in names if names.count(it) > 1)!r} is repeated")
    return dict(pairs)
