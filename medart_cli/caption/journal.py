"""Results of an unfinished run, one line each, in the order in which they came.

A stage that finishes rows out of order cannot append to the manifest itself. It appends here, and
the manifest is rewritten from both: whole, in order, in one move, at any time. Processes that share
the work have a journal each, and whoever runs alone after them merges all of them.

Rows and results stay on the disk; in memory is where they stand, 50 bytes a row.
"""

import glob
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from medart_cli.caption.edits import hash_text
from medart_cli.data.manifest import (
    ManifestWriter,
    Record,
    read_records,
    repair_manifest,
    write_manifest,
)
from medart_cli.data.stored import hash_name, hash_names
from medart_cli.errors import RunError

FOLD_SECONDS = 60.0  # how often the journal's rows are merged into the manifest during a run
FOLD_SHARE = 0.05  # of the time at most goes into that


class Merged(Sequence[Record]):
    """Rows with the new fields of those that have a result."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._files: list[BinaryIO] = []
        self._places = np.full((len(records), 3), -1, dtype=np.int64)  # file, start, bytes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> Record:  # type: ignore[override]  # no slices
        record, result = self._records[row], self.result_of(row)
        if result is None:
            return record
        fields = {**record.fields, **result}
        gone = {name for name, value in result.items() if value is None}
        return replace(record, fields={k: v for k, v in fields.items() if k not in gone})

    def __iter__(self) -> Iterator[Record]:
        return (self[row] for row in range(len(self)))

    def add_file(self, file: BinaryIO) -> int:
        """Take a file with lines of results, and return its number."""
        self._files.append(file)
        return len(self._files) - 1

    def note(self, row: int, place: tuple[int, int, int]) -> None:
        """Note where the result of a row stands: number of the file, start and length."""
        self._places[row] = place

    def has(self, row: int) -> bool:
        """Say whether a row has a result."""
        return bool(self._places[row, 0] >= 0)

    def has_any(self) -> bool:
        """Say whether any row has a result."""
        return bool((self._places[:, 0] >= 0).any())

    def result_of(self, row: int) -> dict[str, Any] | None:
        """Return the new fields of a row; None stands for a key to be removed."""
        number, start, size = self._places[row].tolist()
        if number < 0:
            return None
        result: dict[str, Any] = json.loads(os.pread(self._files[number].fileno(), size, start))[
            "result"
        ]
        return result


class Journal:
    """Finished rows beside a manifest; its file is there only while a run is unfinished.

    Attributes:
        path: The journal's file.
        records: The manifest's rows as the run found them.
        merged: The same with the new fields of those that are finished.
        failed: Rows whose result tells of an error instead of a text.
        seen: The manifest's file as this run read or wrote it last.
    """

    def __init__(
        self,
        manifest: Path,
        records: Sequence[Record],
        part: str = "",
        *,
        alone: bool = True,
        seen: tuple[int, ...] | None = None,
    ) -> None:
        """Read what an unfinished run has left; a line truncated by a crash is removed.

        Args:
            manifest: The manifest that the results are merged into.
            records: Its rows.
            part: Name of the part of the rows that this process does, as 2-of-3; empty for all.
            alone: Whether no other run is at work: then the journals of all parts are read.
            seen: The manifest's file as `records` were read from it, if that was not just now.
        """
        self.seen = _look_at(manifest) if seen is None else seen
        mark = f".{part}" if part else ""
        self.path = manifest.with_name(f".{manifest.name}{mark}.journal")
        self.records = records
        self._manifest, self._part = manifest, part
        self._files = find_journals(manifest) if alone else [self.path]
        self._writer: ManifestWriter | None = None
        self._own = 0
        self._keys = _Keys(records)
        self._begin()
        for path in self._files:
            if path.is_file():
                repair_manifest(path)
                self._read(path)

    def _begin(self) -> None:
        self.merged, self.failed = Merged(self.records), set[int]()
        self._next_fold = time.monotonic() + FOLD_SECONDS

    def _read(self, path: Path) -> None:
        file = path.open("rb")
        number, start = self.merged.add_file(file), 0
        if path.stat().st_size == 0:
            return
        for line in read_records(file, str(path), Path("/"), Path("/")):
            end = file.tell()
            row = self._keys.find(line.file_name, line.fields["twin"])
            if row is not None and not _was_edited(self.records[row], line.fields):
                self._note(row, line.fields["result"], (number, start, end - start))
            start = end

    def _note(self, row: int, result: dict[str, Any], place: tuple[int, int, int]) -> None:
        self.merged.note(row, place)
        if "error" in result.get("caption", ()):
            self.failed.add(row)
        else:
            self.failed.discard(row)

    def is_done(self, row: int) -> bool:
        """Say whether a row is finished; one that failed is not."""
        return self.merged.has(row) and row not in self.failed

    def begin(self) -> None:
        """Leave a mark that the run is unfinished, before its first result."""
        self.path.touch()

    def is_begun(self) -> bool:
        """Say whether an unfinished run has left a journal, be it empty."""
        return bool(find_journals(self._manifest))

    def append(self, row: int, result: dict[str, Any]) -> None:
        """Keep one row's new fields; they are with the system when this returns."""
        if self._writer is None:
            self._writer = ManifestWriter(self.path)
            self._own = self.merged.add_file(self.path.open("rb"))
        record = self.records[row]
        line = {"file_name": record.file_name, "twin": self._keys.twin_of(row),
                "before": None if record.text is None else hash_text(record.text),
                "result": result}  # fmt: skip
        start, size = self._writer.append(line)
        self._note(row, result, (self._own, start, size))
        if time.monotonic() > self._next_fold:
            self.fold()

    def write(self, rows: Iterable[Record], *, shared: bool = False) -> None:
        """Write the manifest; arguments as `write_manifest`."""
        write_manifest(self._manifest, (record.fields for record in rows), shared=shared)
        self.seen = _look_at(self._manifest)

    def fold(self) -> bool:
        """Write the manifest with what is finished; a part leaves that to who joins the parts.

        A manifest that someone has changed since this run read it stays as it is.

        Returns:
            Whether the manifest is as this run wrote it.
        """
        if self._part:
            return True
        started = time.monotonic()
        whole = _look_at(self._manifest) == self.seen
        if whole:
            self.write(self.merged)
        now = time.monotonic()
        self._next_fold = now + max(FOLD_SECONDS, (now - started) / FOLD_SHARE)
        return whole

    def finish(self) -> None:
        """End the run: merge all rows into the manifest, and remove the journals.

        Raises:
            RunError: Someone has changed the manifest meanwhile; the journals stay.
        """
        if self.merged.has_any():
            if not self.fold():
                self.close()
                raise RunError(
                    f"{self._manifest}: was changed by someone else during this run; nothing is "
                    "lost, run the same command again to merge both"
                )
            self.records = self.merged
        self.close()
        for path in {*self._files, self.path}:
            path.unlink(missing_ok=True)
        self._begin()

    def close(self) -> None:
        """Bring what was written to the disk."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Keys:
    """Finds rows whatever their order: by file name, and which row of that name it is, its twin.

    Names are kept as 64-bit hashes: two of a million agree with odds of 1 in 40 million.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        hashes = hash_names(records)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._rank = np.argsort(self._order)

    def twin_of(self, row: int) -> int:
        place = self._rank[row]
        return int(place - np.searchsorted(self._sorted, self._sorted[place]))

    def find(self, name: str, twin: int) -> int | None:
        wanted = np.uint64(hash_name(name))
        place = int(np.searchsorted(self._sorted, wanted)) + twin
        there = place < len(self._sorted) and self._sorted[place] == wanted
        return int(self._order[place]) if there else None


def _look_at(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is written; nothing where there is none."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _was_edited(record: Record, line: dict[str, Any]) -> bool:
    """Say whether a person has changed a row's text since a line of the journal was written."""
    if record.text is None or "before" not in line:
        return False
    written = line["result"].get("text")
    return hash_text(record.text) not in (line["before"], hash_text(written or ""))


def find_journals(manifest: Path) -> list[Path]:
    """Return the journals beside a manifest: the whole one's, and those of parts."""
    name = glob.escape(manifest.name)
    found = [*manifest.parent.glob(f".{name}.journal")]
    return [*found, *sorted(manifest.parent.glob(f".{name}.*-of-*.journal"))]
