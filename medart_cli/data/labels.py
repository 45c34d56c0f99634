"""Labels from a table: a CSV or JSON Lines file beside the images."""

import csv
from pathlib import Path
from typing import Any

from medart_cli.data.manifest import Record, read_manifest
from medart_cli.errors import ConfigError
from medart_cli.log import log


def read_labels(path: Path) -> dict[str, str]:
    """Read a table of labels, .csv with a head line or .jsonl.

    Raises:
        ConfigError: It cannot be read, or lacks file_name or label.
    """
    try:
        if path.suffix == ".jsonl":
            rows: list[dict[str, Any]] = [row.fields for row in read_manifest(path, root=Path("/"))]
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--labels {path}: cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        name, label = row.get("file_name"), row.get("label")
        if not name or label is None:
            raise ConfigError(f"--labels {path}: row {number} lacks file_name or label")
        if found.setdefault(name, str(label)) != str(label):
            raise ConfigError(f"--labels {path}: {name} has two labels")
    return found


def merge_labels(rows: list[Record], labels: dict[str, str]) -> tuple[list[Record], bool]:
    """Give rows their label from a table: by file name, or by what it ends on if that is unique.

    Raises:
        ConfigError: No row is in the table, or a short name fits files with different labels.
    """
    short = {Path(name).stem: label for name, label in labels.items()}
    if len(short) < len(labels) and len({Path(row.file_name).stem for row in rows}) < len(rows):
        short = {}  # the same name in several folders: only whole names tell them apart
    merged, found = [], 0
    for row in rows:
        label = labels.get(row.file_name, short.get(Path(row.file_name).stem))
        found += label is not None
        merged.append(row if label is None else row.with_fields(label=label))
    if not found:
        raise ConfigError("--labels: none of its file names is one of the images'")
    if found < len(rows):
        log.warning("--labels: %d of %d images are not in the table", len(rows) - found, len(rows))
    return merged, merged != rows
