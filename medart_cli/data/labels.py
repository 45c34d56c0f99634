"""Labels from a table: a CSV or JSON Lines file beside the images."""

import csv
from collections import Counter
from collections.abc import Sequence
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


def merge_labels(rows: Sequence[Record], labels: dict[str, str]) -> tuple[list[Record], bool]:
    """Give rows their label from a table, whose labels win over those that rows have.

    Names are compared whole, else without folder and ending where that tells all files apart.

    Returns:
        The rows, and whether any has changed.

    Raises:
        ConfigError: No row is in the table.
    """
    in_rows = Counter(Path(row.file_name).stem for row in rows)
    in_table = Counter(Path(name).stem for name in labels)
    short = {Path(name).stem: label for name, label in labels.items()}
    merged, found = [], 0
    for row in rows:
        stem = Path(row.file_name).stem
        single = in_rows[stem] == in_table[stem] == 1
        label = labels.get(row.file_name, short[stem] if single else None)
        found += label is not None
        merged.append(row if label is None else row.with_fields(label=label))
    if not found:
        raise ConfigError("--labels: none of its file names is one of the images'")
    if found < len(rows):
        log.warning("--labels: %d of %d images are not in the table", len(rows) - found, len(rows))
    return merged, any(new != old for new, old in zip(merged, rows, strict=True))
