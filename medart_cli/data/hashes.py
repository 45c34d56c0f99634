"""SHA-256 of many or large files, cached: an unchanged file is not read again.

A file counts as unchanged while its path, size, inode and times are the same. The hashes are in the
cache folder, one JSON file for each folder of files.
"""

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medart_cli import stop
from medart_cli.data.cache import make_drafts
from medart_cli.data.files import draft_of
from medart_cli.data.manifest import HashedRecord, Record
from medart_cli.log import progress
from medart_cli.ranks import ask_first

CHUNK_BYTES = 1 << 24  # bytes read between two looks for a stop
MEGABYTE = 1_000_000
SETTLED = 2.0  # seconds; a younger file could change again and show the same time
Known = dict[str, list[Any]]  # of the files in one folder: size, inode, times, SHA-256


def hash_files(
    paths: Sequence[Path], *, cache: Path | None, poll: Callable[[], None] = lambda: None
) -> tuple[dict[Path, str], dict[Path, OSError]]:
    """Hash files, and show how far that is.

    Args:
        paths: The files.
        cache: Folder of the cached hashes; None caches nothing.
        poll: Called between blocks; may raise to leave, and what is hashed by then is kept.

    Returns:
        The SHA-256 of each file in hexadecimal, and why others could not be read.

    Raises:
        OSError: The cache cannot be read or written.
    """
    known = {parent: _read_known(cache, parent) for parent in {path.parent for path in paths}}
    found: dict[Path, str] = {}
    faults: dict[Path, OSError] = {}
    waiting: dict[Path, list[int]] = {}
    for path in paths:
        try:
            mark = _mark(path.stat())
        except OSError as error:
            faults[path] = error
            continue
        entry = known[path.parent].get(path.name)
        if entry is not None and entry[:-1] == mark:
            found[path] = entry[-1]
        else:
            waiting[path] = mark
    try:
        _hash_waiting(waiting, found, faults, poll)
    finally:
        _keep_known(cache, {path: [*waiting[path], found[path]] for path in waiting & found.keys()})
    return found, faults


def hash_once(
    paths: Sequence[Path], cache: Path | None
) -> tuple[dict[Path, str], dict[Path, OSError]]:
    """Hash files in one of the processes, which tells the others; the rest as `hash_files`."""
    return ask_first(partial(hash_files, paths, cache=cache, poll=stop.check))


def hash_records(
    records: Sequence[Record], cache: Path | None
) -> tuple[list[HashedRecord], dict[Path, OSError]]:
    """Hash the images of records, as `hash_once`.

    Returns:
        The records whose file can be read, in order; and why other files cannot.
    """
    paths = [record.path for record in records]
    hashes, faults = hash_once(paths, cache)
    rows = [
        HashedRecord(record.fields, record.folder, record.place, hashes[path])
        for record, path in zip(records, paths, strict=True)
        if path in hashes
    ]
    return rows, faults


def hash_all(paths: Sequence[Path], cache: Path | None) -> dict[Path, str]:
    """Hash files that are all needed, as `hash_once`.

    Raises:
        OSError: One of them cannot be read.
    """
    hashes, faults = hash_once(paths, cache)
    for error in faults.values():
        raise error
    return hashes


def _hash_waiting(
    waiting: dict[Path, list[int]],
    found: dict[Path, str],
    faults: dict[Path, OSError],
    poll: Callable[[], None],
) -> None:
    if not waiting:
        return
    done, total = 0, sum(mark[0] for mark in waiting.values())
    with progress("hashes, MB", total // MEGABYTE) as bar:
        for path in waiting:
            digest = hashlib.sha256()
            try:
                with path.open("rb") as file:
                    while block := file.read(CHUNK_BYTES):
                        poll()
                        digest.update(block)
                        before, done = done, done + len(block)
                        bar.advance(count=done // MEGABYTE - before // MEGABYTE)
                found[path] = digest.hexdigest()
            except OSError as error:
                faults[path] = error


def _mark(facts: os.stat_result) -> list[int]:
    return [facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]


def _place(cache: Path, parent: Path) -> Path:
    name = hashlib.sha256(str(parent.resolve()).encode()).hexdigest()[:32]
    return cache / "hashes" / f"{name}.json"


def _read_known(cache: Path | None, parent: Path) -> Known:
    """Read the cached hashes of a folder's files; a corrupt cache file is ignored."""
    if cache is None:
        return {}
    try:
        known = json.loads(_place(cache, parent).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return dict(known) if isinstance(known, dict) else {}


def _keep_known(cache: Path | None, entries: dict[Path, list[Any]]) -> None:
    settled = (time.time() - SETTLED) * 1e9
    by_folder: dict[Path, Known] = defaultdict(dict)
    for path, entry in entries.items():
        if max(entry[2:4]) < settled:
            by_folder[path.parent][path.name] = entry
    for parent, known in by_folder.items():
        if cache is None:
            return
        place = _place(cache, parent)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with draft_of(place, shared=True, drafts=make_drafts(cache)) as draft:
            text = json.dumps(_read_known(cache, parent) | known, ensure_ascii=False)
            draft.write_text(text, encoding="utf-8")


def hash_model(
    name: Path, cache: Path | None, *, poll: Callable[[], None] = lambda: None
) -> str | None:
    """Return a SHA-256 over the weights and settings of a model on this disk; None elsewhere.

    Args:
        name: A folder, of which safetensors files and what prepares images count; or a file.
        cache: As for `hash_files`.
        poll: As for `hash_files`.
    """
    own = ("config.json", "preprocessor_config.json")
    files = [name] if name.is_file() else sorted(name.glob("*")) if name.is_dir() else []
    files = [
        path for path in files if path == name or path.suffix == ".safetensors" or path.name in own
    ]
    hashes, _ = hash_files(files, cache=cache, poll=poll)
    facts = [f"{path.name} {digest}" for path, digest in sorted(hashes.items())]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest() if facts else None
