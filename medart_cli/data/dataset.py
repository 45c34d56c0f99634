"""Reading a data set, one way for all commands: folder, manifest or standard input -> records."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medart_cli.data import manifest
from medart_cli.data.account import Account
from medart_cli.data.folders import (
    METADATA_NAMES,
    Passed,
    find_images,
    find_output,
    find_split,
    read_levels,
)
from medart_cli.data.manifest import (
    FLAG_KEYS,
    MANIFEST_NAME,
    PARTS_NAME,
    Record,
    encode_line,
    parse_line,
    read_manifest,
    read_records,
)
from medart_cli.data.stored import StoredRecords
from medart_cli.data.tables import TableRow, clean_name, read_table
from medart_cli.errors import ConfigError, ManifestError
from medart_cli.log import log

TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


class DataSet(Sequence[Record]):
    """The records of a data set, and the account of what was found in it."""

    def __init__(self, records: Sequence[Record], account: Account) -> None:
        """Keep both."""
        self.records, self.account = records, account

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        return self.records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


def open_data(
    source: str | Path,
    *,
    root: Path | None = None,
    levels: tuple[str, ...] | None = None,
    images: bool = True,
) -> DataSet:
    """Return the records of any DATA argument, and log what was found and what was skipped.

    The one way in which commands read a data set; the records of a manifest file stay on the disk.

    Args:
        source: As for `read_data`.
        root: As for `read_data`.
        levels: As for `read_data`.
        images: Whether image files are needed, and not texts alone.

    Raises:
        ConfigError: As `read_data`; or none of the images is there.
        ManifestError: As `read_data`.
    """
    account = Account(str(source), levels)
    path = Path() if str(source) == "-" else find_manifest(Path(source))
    records: Sequence[Record]
    if path.is_file():
        records = StoredRecords(path, root=root, account=account)
        if path != Path(source) and (path.parent / METADATA_NAMES[1]).is_file():
            log.info("%s: is read, and %s next to it is not", path, METADATA_NAMES[1])
    else:
        records = list(read_data(source, root=root, levels=levels, account=account))
    if images and not any(os.path.isfile(record.path) for record in records):
        raise _refuse_places(source, records[0], root)
    account.say()
    return DataSet(records, account)


def _refuse_places(source: str | Path, first: Record, root: Path | None) -> ConfigError:
    name, place = str(source), str(first.folder) if root is None else f"--root {root}"
    if name == "-":
        name, place = "standard input", place if root else f"the working folder, {place}"
    return ConfigError(
        f"{name}: none of its images exists, such as {first.file_name}; file names are relative "
        f"to {place}; give the right folder with --root"
    )


def read_data(
    source: str | Path,
    *,
    root: Path | None = None,
    levels: tuple[str, ...] | None = None,
    account: Account | None = None,
) -> Iterator[Record]:
    """Read the records of any DATA argument, in order.

    Args:
        source: An image folder (its metadata.jsonl or metadata.csv is read where there is one, else
            its images are listed, with such tables in the folders below), a manifest file, or `-`,
            standard input.
        root: Folder that file names are relative to. File names may then be absolute or hold `..`,
            as long as they stay inside it, and links in it are followed wherever they lead.
        levels: What the folders of a listing mean, see `find_images`.
        account: Takes what is found and what is skipped.

    Raises:
        ConfigError: There is no such folder or file, or it holds no image.
        ManifestError: A line is malformed; the message names file and line.
    """
    account = Account(str(source)) if account is None else account
    if str(source) == "-":
        place = root or Path.cwd()
        found = read_records(sys.stdin.buffer, "standard input", place, root)
    else:
        path = find_manifest(Path(source))
        if path.is_dir():
            found = list_images(path, root=root, levels=levels, account=account)
        else:
            found = read_manifest(path, root=root)
    for record in found:
        account.add(record)
        yield record


def find_manifest(source: Path) -> Path:
    """Return the manifest that a DATA argument names, or its folder where that has none.

    Raises:
        ConfigError: There is no such folder or file, it may not be looked into, or its manifest is
            still in parts.
    """
    try:
        os.stat(source)
        manifest = source / MANIFEST_NAME if source.is_dir() else source
        listed = manifest.is_file()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ConfigError(f"{source}: no such folder or manifest") from error
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from error
    if manifest.name == MANIFEST_NAME and any((manifest.parent / PARTS_NAME).glob("*-of-*.jsonl")):
        raise ConfigError(
            f"{manifest}: is still in {PARTS_NAME}; run the command that wrote them again, without "
            "--shard, to join them"
        )
    if listed and manifest.suffix.lower() in (".csv", ".tsv"):
        raise ConfigError(
            f"{source}: is a table; use its folder, where it is read if it is named "
            f"{METADATA_NAMES[1]}, or pass it to medart caption with --labels"
        )
    return manifest if listed else source


def list_images(
    folder: Path,
    *,
    root: Path | None = None,
    levels: tuple[str, ...] | None = None,
    account: Account | None = None,
    tables: bool = True,
) -> Iterator[Record]:
    """List the images of a folder without a metadata.jsonl of its own as records.

    Args:
        folder: The folder.
        root: As for `read_data`.
        levels: What the folders mean, see `find_images`.
        account: Takes what is skipped.
        tables: Whether to take the rows of metadata.jsonl and metadata.csv in the folders below,
            and of metadata.csv in this one, instead of the images there, as Hugging Face's
            imagefolder does.

    Raises:
        ConfigError: There is none, a folder may not be read, or medart wrote it.
        ManifestError: A link leads out of the folder, and no `root` is named.
    """
    manifest.forget_paths()
    account = Account(str(folder)) if account is None else account
    stage = find_output(folder)
    if stage is not None:
        raise ConfigError(f"{folder}: is an output of medart {stage}, not a data set")
    found: list[Path] = []

    def enter(path: Path) -> bool:
        table = find_table(path) if tables else None
        if table is not None:
            found.append(table)
        return table is None

    empty = True
    if tables and find_table(folder) is not None:
        enter(folder)
    else:
        for fields in find_images(folder, account.passed, levels, enter):
            empty, place = False, str(folder / fields["file_name"])
            try:
                yield parse_line(encode_line(fields), place, folder, root)
            except UnicodeEncodeError as error:
                raise ConfigError(f"{place!r}: its name is not UTF-8; rename it") from error
    for table in found:
        for record in _read_below(table, folder, levels, account):
            empty = False
            yield _checked(record, root)
    if empty:
        closed = "".join(f"; {name} cannot be read" for name in [*account.passed.unreadable][:1])
        other = ", ".join(f"{ending} {n}" for ending, n in account.passed.formats.most_common(5))
        files = f"; its files are: {other}" if other else ""
        raise ConfigError(f"{folder}: contains neither {MANIFEST_NAME} nor an image{closed}{files}")


def find_table(folder: Path) -> Path | None:
    """Return the metadata.jsonl of a folder, or else its metadata.csv; None where it has none."""
    return next((folder / name for name in METADATA_NAMES if os.path.isfile(folder / name)), None)


def _read_below(
    table: Path, folder: Path, levels: tuple[str, ...] | None, account: Account
) -> Iterator[Record]:
    """Read a manifest in a folder of a data set: names from the top, split and label by folders."""
    below = table.parent.relative_to(folder)
    account.tables.append(str(table))
    names = set()
    for fields, place in _rows_of(table):
        name = (below / str(fields["file_name"])).as_posix()
        names.add(name)
        known = read_levels(tuple(name.split("/")[:-1]), levels)
        given = {key: value for key, value in fields.items() if value is not None}
        if given.get("mask") and isinstance(given["mask"], str):
            given["mask"] = (below / given["mask"]).as_posix()
            names.add(given["mask"])
        if "split" in given:
            given["split"] = find_split(str(given["split"])) or given["split"]
        yield Record({**known, **given, "file_name": name}, folder, place)
    passed = Passed()
    beside = find_images(table.parent, passed, levels=())
    inside = {(below / found["file_name"]).as_posix() for found in beside}
    account.passed.unreadable |= passed.unreadable
    if inside - names:
        account.unlisted[str(table)] = len(inside - names)


def _rows_of(table: Path) -> Iterator[tuple[dict[str, Any], str]]:
    if table.suffix == ".jsonl":
        for record in read_manifest(table):
            yield record.fields, record.place
        return
    for row in read_table(table, ("file_name",))[1]:
        if not row.values["file_name"]:
            raise ManifestError(f"{row.place}: no file_name; every row needs the path of its image")
        name = clean_name(row.values["file_name"])
        yield {**_read_marks(row), "file_name": name}, row.place


def _read_marks(row: TableRow) -> dict[str, Any]:
    """Read as true or false what is so in a manifest; all else of a table is text, numbers too."""
    cells = {name: str(row.values[name]) for name in FLAG_KEYS if row.values.get(name) is not None}
    return row.values | {name: TRUTH.get(cell.lower(), cell) for name, cell in cells.items()}


def _checked(record: Record, root: Path | None) -> Record:
    """Check a record that was put together, as `parse_line` checks a line."""
    return parse_line(encode_line(record.fields), record.place, record.folder, root)
