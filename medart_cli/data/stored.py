"""Records that stay on the disk: a manifest of a million lines costs 8 MB of memory.

For stages that go through all rows more than once, or out of order.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medart_cli.data.account import Account
from medart_cli.data.manifest import Record, read_records, write_manifest
from medart_cli.errors import ManifestError

BLANK = b"\xef\xbb\xbf \t\r\n\v\f"  # a byte order mark, and blank lines before a record


class StoredRecords(Sequence[Record]):
    """The records of a manifest file, checked once, then each read when it is asked for.

    The file may be replaced under its name meanwhile: these are the rows as they were found.
    Threads may read at the same time.
    """

    def __init__(
        self, path: Path, *, root: Path | None = None, account: Account | None = None
    ) -> None:
        """Check all lines and note where they end; arguments and errors as `read_data`."""
        self._path, self._folder = path, root or path.parent
        self._ends = array("q")
        self._file = path.open("rb")
        for record in read_records(self._file, str(path), self._folder, root):
            self._ends.append(self._file.tell())
            if account is not None:
                account.add(record)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        index = range(len(self._ends))[index]
        start = self._ends[index - 1] if index else 0
        raw = os.pread(self._file.fileno(), self._ends[index] - start, start).lstrip(BLANK)
        place = f"{self._path}:{index + 1}"  # of the record; the line, where none is blank
        try:
            return Record(json.loads(raw), self._folder, place)  # it was checked at the beginning
        except ValueError as error:
            raise ManifestError(f"{place}: was changed while in use; run again") from error

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))


def hash_name(name: str) -> int:
    """Return a 64-bit hash of a file name, where a million names would take much memory."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def hash_names(records: Sequence[Record]) -> npt.NDArray[np.uint64]:
    """Return the hash of each record's file name, (N,)."""
    hashes = (hash_name(record.file_name) for record in records)
    return np.fromiter(hashes, dtype=np.uint64, count=len(records))


def join_manifests(target: Path, parts: Sequence[Path], key: str) -> None:
    """Join manifests into one in the order of an integer field; of equal rows one stays.

    Args:
        target: The manifest to write; it may be one of the parts.
        parts: Manifests whose file names are relative to the target's folder.
        key: The field.

    Raises:
        OSError: The disk is full or lost.
    """
    stored = [StoredRecords(path, root=target.parent) for path in parts]
    keys = np.fromiter((int(record.fields[key]) for record in chain(*stored)), dtype=np.int64)
    files = np.repeat(np.arange(len(stored)), [len(records) for records in stored])
    lines = np.concatenate([np.arange(len(records)) for records in stored])
    _, first = np.unique(keys, return_index=True)
    write_manifest(target, (stored[files[row]][int(lines[row])].fields for row in first))
