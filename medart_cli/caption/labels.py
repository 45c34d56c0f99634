"""Labels, groups, splits and texts from a table beside the images: CSV or JSON Lines."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from medart_cli.caption.edits import is_users
from medart_cli.data.folders import IMAGE_ENDINGS, find_split
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
    cells = [(_read_name(row), _read_cells(row, taken)) for row in rows]
    _say_columns(path, columns, taken, rows)
    return _unite(cells)


def merge_labels(
    rows: Sequence[Record], table: Mapping[str, TableRow]
) -> tuple[list[Record], bool]:
    """Give rows what a table says of them; it wins over what they have, its text over ours.

    A name of the table may leave out folders before, or have more of them, and may lack the
    ending. Where that fits no image, one of the same name in another folder or with another ending
    is taken, if image and name are the only ones so called.

    Args:
        rows: The images.
        table: From `read_labels`.

    Returns:
        The rows, and whether any has changed.

    Raises:
        ConfigError: No row is in the table, or several of its names are one image and disagree.
    """
    names = [_plain_name(row.file_name) for row in rows]
    images = dict.fromkeys(names)
    near = _match_paths(table, images)
    far = _match_short(table, images, near)
    fits = near | far
    found = _unite((image, table[name]) for name, image in fits.items() if image is not None)
    unsure = [name for name, image in fits.items() if image is None]
    if not found:
        why = f"{unsure[0]!r} matches several" if unsure else f"{next(iter(table))!r} matches none"
        raise ConfigError(
            f"--labels: none of its file names matches one image ({why}; an image is "
            f"{names[0]!r}); write the images' file names, with their folders"
        )
    if unsure:
        log.warning(
            "--labels: %d names match several images and are skipped, such as %s; add their "
            "folders", len(unsure), unsure[0],
        )  # fmt: skip
    if far:
        name, image = next(iter(far.items()))
        log.warning("--labels: %d names match a file in another folder or with another extension, "
                    "such as %s for %s", len(far), name, image)  # fmt: skip
    lost = [name for name in table if name not in fits]
    if lost:
        log.warning("--labels: %d names in the table match no image, such as %s",
                    len(lost), lost[0])  # fmt: skip
    missing = [name for name in names if name not in found]
    if missing:
        log.warning("--labels: %d of %d images are not in the table, such as %s",
                    len(missing), len(rows), missing[0])  # fmt: skip
    merged = [_add_cells(row, found.get(name)) for row, name in zip(rows, names, strict=True)]
    return merged, any(new != old for new, old in zip(merged, rows, strict=True))


def _read_name(row: TableRow) -> str:
    name = _read_cell(row, "file_name")
    if name is None:
        raise ConfigError(f"{row.place}: file_name is empty; name the image, or drop the row")
    return _plain_name(clean_name(name))


def _read_cells(row: TableRow, taken: Sequence[str]) -> TableRow:
    cells = {name: text for name in taken if (text := _read_cell(row, name)) is not None}
    if "split" in cells:
        split = find_split(cells["split"])
        if split is None:
            raise ConfigError(
                f"{row.place}: split {cells['split']!r:.60} is not train, val or test; use one "
                "of them, or rename the column"
            )
        cells["split"] = split
    if _is_ours(row):
        cells.pop("text", None)
    return TableRow(cells, row.place)


def _read_cell(row: TableRow, column: str) -> str | None:
    value = row.values.get(column)
    if isinstance(value, list | dict):
        raise ConfigError(f"{row.place}: {column} is a {type(value).__name__}; write a text")
    if value is None:
        return None
    whole = isinstance(value, float) and value.is_integer()  # 1.0, as a column with gaps has it
    text = str(int(value) if whole else value)
    # The same class or patient, however the table's program writes an umlaut.
    return text if column == "text" else unicodedata.normalize("NFC", text)


def _is_ours(row: TableRow) -> bool:
    written = isinstance(row.values.get("caption"), dict)
    return written and not is_users(Record(dict(row.values), Path(), row.place))


def _say_columns(
    path: Path, columns: Sequence[str], taken: Sequence[str], rows: Sequence[TableRow]
) -> None:
    other = [name or "(no name)" for name in columns if name not in ("file_name", *taken)]
    ours = sum(_is_ours(row) for row in rows) if "text" in taken else 0
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


def _match_paths(table: Iterable[str], images: Collection[str]) -> dict[str, str | None]:
    """Find for names the image whose path ends in them, or which they end in; None for several."""
    wholes, ends = _index(images), dict[int, dict[str, str | None]]()
    fits: dict[str, str | None] = {}
    for name in table:
        parts = name.split("/")
        if len(parts) not in ends:
            ends[len(parts)] = _index(images, len(parts))
        if name in images:
            fits[name] = name
        elif name in ends[len(parts)]:
            fits[name] = ends[len(parts)][name]
        else:
            tails = ("/".join(parts[start:]) for start in range(1, len(parts)))
            tail = next((tail for tail in tails if tail in wholes), None)
            if tail is not None:
                fits[name] = wholes[tail]
    return fits


def _match_short(
    table: Collection[str], images: Iterable[str], done: Collection[str]
) -> dict[str, str | None]:
    """Find images for other names where folder and ending differ, and no two are so called."""
    shorts: dict[str, str | None] = {}
    for path in images:
        short = _short_name(path)
        shorts[short] = None if short in shorts else path
    counts = Counter(_short_name(name) for name in table)
    return {
        name: image
        for name in table
        if name not in done and counts[_short_name(name)] == 1
        if (image := shorts.get(_short_name(name))) is not None
    }


def _index(images: Iterable[str], depth: int = 0) -> dict[str, str | None]:
    """Map the last parts of names (0: all), with and without ending, to the one image so called.

    Where several are so called, to None; names with their ending go before names without.
    """
    with_ending: dict[str, str | None] = {}
    without: dict[str, str | None] = {}
    for image in images:
        parts = image.split("/")
        if len(parts) < depth:
            continue
        name = "/".join(parts[-depth:])
        with_ending[name] = None if name in with_ending else image
        for short in _cut_endings(name):
            without[short] = image if without.get(short, image) == image else None
    return without | with_ending


def _plain_name(name: str) -> str:
    """Compose a path's letters, and leave out what says nothing: `./` and `//`."""
    parts = unicodedata.normalize("NFC", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".")) or name


def _cut_endings(name: str) -> Iterator[str]:
    """Give a name without its ending of images, without two of a.dcm.png, and so on.

    In a name like 1.2.826.7 what follows the last dot is no such ending.
    """
    while (ending := PurePosixPath(name).suffix).lower() in IMAGE_ENDINGS:
        name = name.removesuffix(ending)
        yield name


def _short_name(name: str) -> str:
    name = name.rsplit("/", 1)[-1]
    return [name, *_cut_endings(name)][-1]
