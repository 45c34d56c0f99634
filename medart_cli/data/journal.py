"""Results of an unfinished run, one line each, in the order in which they came.

A stage that finishes rows out of order cannot append to the manifest itself. It appends here, and
the manifest is written anew from both: whole, in order, in one move, at any time.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from medart_cli.data.manifest import (
    ManifestWriter,
    Record,
    read_manifest,
    repair_manifest,
    write_manifest,
)

FOLD_SECONDS = 60.0  # how often the manifest takes up the journal's rows while a run goes on


class Journal:
    """Finished rows beside a manifest; its file is there only while a run is unfinished.

    Attributes:
        path: The journal's file.
        records: The manifest's rows as the run found them.
        results: New fields of each finished row, by its place; None stands for a key to be removed.
    """

    def __init__(self, manifest: Path, records: Sequence[Record]) -> None:
        """Read what an unfinished run has left; a line torn by a crash is cut off."""
        self.path = manifest.with_name(f".{manifest.name}.journal")
        self.records = list(records)
        self.results: dict[int, dict[str, Any]] = {}
        self._manifest, self._folded = manifest, time.monotonic()
        self._writer: ManifestWriter | None = None
        self._keys = row_keys(self.records)
        if self.path.is_file():
            repair_manifest(self.path)
        if self.path.is_file() and self.path.stat().st_size:
            rows = {key: row for row, key in enumerate(self._keys)}
            for line in read_manifest(self.path, root=Path("/")):
                key = line.file_name, line.fields["twin"]
                if key in rows:
                    self.results[rows[key]] = line.fields["result"]

    def append(self, row: int, result: dict[str, Any]) -> None:
        """Keep one row's new fields; they are with the system when this returns."""
        if self._writer is None:
            self._writer = ManifestWriter(self.path)
        name, twin = self._keys[row]
        self._writer.append({"file_name": name, "twin": twin, "result": result})
        self.results[row] = result
        if time.monotonic() - self._folded > FOLD_SECONDS:
            self.fold()

    def merge(self) -> list[Record]:
        """Return all rows in order, with the new fields of those that are finished."""
        merged = list(self.records)
        for row, result in self.results.items():
            fields = {**self.records[row].fields, **result}
            gone = {name for name, value in result.items() if value is None}
            kept = {name: value for name, value in fields.items() if name not in gone}
            merged[row] = replace(self.records[row], fields=kept)
        return merged

    def fold(self) -> None:
        """Write the manifest with what is finished."""
        write_manifest(self._manifest, (record.fields for record in self.merge()))
        self._folded = time.monotonic()

    def finish(self) -> None:
        """End the run: the manifest takes up all rows, and the journal's file goes."""
        if self.results:
            self.fold()
        self.records, self.results = self.merge(), {}
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Bring what was written to the disk."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def row_keys(records: Sequence[Record]) -> list[tuple[str, int]]:
    """Return what tells rows apart whatever their order: file name, and which row of that name."""
    seen: Counter[str] = Counter()
    keys = []
    for record in records:
        keys.append((record.file_name, seen[record.file_name]))
        seen[record.file_name] += 1
    return keys
