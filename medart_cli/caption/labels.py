"""Labels, groups, splits and texts from a table beside the images: CSV or JSON Lines."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medart_cli.caption.edits import is_users
from medart_cli.caption.names import match_names, plain_name
from medart_cli.data.folders import find_split
from medart_cli.data.manifest import Record
from medart_cli.data.tables import MISSING, TableRow, clean_name, read_table
from medart_cli.errors import ConfigError
from medart_cli.log import log

COLUMNS = ("label", "group_id", "split", "text")  # what a table may say of an image


def read_labels(path: Path) -> dict[str, TableRow]:
    """Read a table by file name, and log which of its columns are used.

    A cell is text, also where it is a number; an empty one says nothing. A text with a `caption`
    record beside it is medart's own, as another manifest has it, and is not taken unless a person
    has changed it.

    Returns:
        For each file name the cells of `COLUMNS` that are not empty.

    Raises:
        ConfigError: It cannot be read, lacks file_name or all of `COLUMNS`, or rows of one file
            disagree; the message names row and column.
    """
    columns, rows = read_table(path, ("file_name",))
    taken = [name for name in COLUMNS if name in columns]
    if not taken:
        raise ConfigError(
            f"{path}: has none of the columns {', '.join(COLUMNS)}; its columns are: "
            f"{', '.join(columns):.300}; rename the one that is meant"
        )
    if not rows:
        raise ConfigError(f"{path}: has no row below its header; write one for each image")
    cells = [(read_name(row), _read_cells(row, taken)) for row in rows]
    _say_columns(path, columns, taken, rows)
    return _unite(cells)


def merge_labels(
    rows: Sequence[Record], table: Mapping[str, TableRow]
) -> tuple[list[Record], bool]:
    """Give rows what a table says of them; it wins over what they have, its text over ours.

    Args:
        rows: The images; which one a name of the table means says `match_names`.
        table: From `read_labels`.

    Returns:
        The rows, and whether any has changed.

    Raises:
        ConfigError: No row is in the table, or several of its names are one image and disagree.
    """
    names = [plain_name(row.file_name) for row in rows]
    fits = match_names(table, names, "--labels")
    found = _unite((image, table[name]) for name, image in fits.items())
    missing = [name for name in names if name not in found]
    if missing:
        log.warning("--labels: %d of %d images are not in the table, such as %s",
                    len(missing), len(rows), missing[0])  # fmt: skip
    merged = [_add_cells(row, found.get(name)) for row, name in zip(rows, names, strict=True)]
    return merged, any(new != old for new, old in zip(merged, rows, strict=True))


def read_name(row: TableRow) -> str:
    """Return the file name of a table's row, in the form of `plain_name`.

    Raises:
        ConfigError: It is empty, or no text.
    """
    name = read_cell(row, "file_name")
    if name is None:
        raise ConfigError(f"{row.place}: file_name is empty; name the image, or drop the row")
    return plain_name(clean_name(name))


def _read_cells(row: TableRow, taken: Sequence[str]) -> TableRow:
    cells = {name: text for name in taken if (text := read_cell(row, name)) is not None}
    if "split" in cells:
        split = find_split(cells["split"])
        if split is None:
            raise ConfigError(
                f"{row.place}: split {cells['split']!r:.60} is not train, val or test; use one "
                "of them, or rename the column"
            )
        cells["split"] = split
    if is_ours(row):
        cells.pop("text", None)
    return TableRow(cells, row.place)


def read_cell(row: TableRow, column: str) -> str | None:
    """Return a cell as text, also where it is a number; None where it is empty.

    Raises:
        ConfigError: It is a list or an object.
    """
    value = row.values.get(column)
    if isinstance(value, list | dict):
        raise ConfigError(f"{row.place}: {column} is a {type(value).__name__}; write a text")
    if value is None:
        return None
    whole = isinstance(value, float) and value.is_integer()  # 1.0, as a column with gaps has it
    text = str(int(value) if whole else value)
    # The same class or patient, however the table's program writes an umlaut.
    return text if column == "text" else unicodedata.normalize("NFC", text)


def is_ours(row: TableRow) -> bool:
    """Say whether a table's text is medart's, as a manifest has it, and no person changed it."""
    written = isinstance(row.values.get("caption"), dict)
    return written and not is_users(Record(dict(row.values), Path(), row.place))


def _say_columns(
    path: Path, columns: Sequence[str], taken: Sequence[str], rows: Sequence[TableRow]
) -> None:
    other = [name or "(no name)" for name in columns if name not in ("file_name", *taken)]
    ours = sum(is_ours(row) for row in rows) if "text" in taken else 0
    log.info(
        "%s: %d rows, columns used: %s; not used: %s%s",
        *(path, len(rows), ", ".join(taken), ", ".join(other) or "none"),
        f", and {ours} texts that medart wrote" if ours else "",
    )
    for name in taken:
        words = dict.fromkeys(str(row.values[name]) for row in rows if row.values.get(name))
        told = [word for word in words if name != "text" and word.casefold() in MISSING]
        if told:
            log.warning(
                "%s: %s is %s in some rows and is used as is; where it is unknown, leave the "
                "cell empty", path, name, ", ".join(told),
            )  # fmt: skip
    empty = Counter(name for row in rows for name in taken if row.values.get(name) is None)
    if empty:
        log.warning(
            "%s: empty cells: %s; they change nothing",
            *(path, ", ".join(f"{count} of {name}" for name, count in empty.items())),
        )


def _unite(cells: Iterable[tuple[str, TableRow]]) -> dict[str, TableRow]:
    """Put the rows of one file together."""
    found: dict[str, TableRow] = {}
    for name, row in cells:
        old = found.setdefault(name, row)
        for column, text in row.values.items():
            if old.values.get(column, text) != text:
                raise ConfigError(
                    f"{row.place}: {name!r} has a different {column} in a row above (first in "
                    f"{old.place}); keep one"
                )
        found[name] = TableRow(old.values | row.values, old.place)
    return found


def _add_cells(row: Record, cells: TableRow | None) -> Record:
    if cells is None:
        return row
    fields = {**row.fields, **cells.values}
    if fields.get("text") != row.text:  # now it is the user's
        fields.pop("caption", None)
    return replace(row, fields=fields)
