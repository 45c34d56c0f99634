"""What a finished output was made of, so that the same command again is answered at once.

Beside the output lies `finished.json`: one hash over all that it depends on, the sizes of its
files, and the summary. Where anything is another, or gone, the command does its work.

medart goes by content; make goes by times. So that make neither runs a finished command forever nor
runs what depends on it for nothing, results get a new time only where something read is newer.
"""

import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from medart_cli.data.checkpoint import RUN_NAME
from medart_cli.data.lock import LOCK_NAME
from medart_cli.data.output import write_json

FINISHED_NAME = "finished.json"


def hash_parts(parts: Iterable[object]) -> str:
    """Return a SHA-256 over values that JSON can hold, in order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def find_finished(folder: Path, made_of: str) -> dict[str, Any] | None:
    """Return the summary of an output that is finished and whole; None for any other.

    Args:
        folder: The output folder.
        made_of: From `hash_parts`, of all that the output depends on.
    """
    try:
        facts = json.loads((folder / FINISHED_NAME).read_text(encoding="utf-8"))
        whole = facts["made_of"] == made_of and facts["files"] == _list_sizes(folder)
        return dict(facts["summary"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or corrupt: the work is redone
        return None


def note_finished(folder: Path, made_of: str, summary: dict[str, Any]) -> None:
    """Write what an output was made of, as the last of its files."""
    facts = {"format": 1, "made_of": made_of, "summary": summary, "files": _list_sizes(folder)}
    write_json(folder / FINISHED_NAME, facts)


def forget_finished(folder: Path) -> None:
    """Take the note away, before anything of an output changes."""
    (folder / FINISHED_NAME).unlink(missing_ok=True)


def _list_sizes(folder: Path) -> dict[str, int]:
    """Return the size of each file of an output, but of the note itself and of the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(paths)}
    return {name: size for name, size in names.items() if name not in (FINISHED_NAME, LOCK_NAME)}


def renew_times(
    results: Collection[Path], sources: Iterable[Path], without: Collection[str] = ()
) -> None:
    """Make results, whose content is right, newer than all that they were made from.

    Nothing is touched where they are so already.

    Args:
        results: Files; those that are not there are passed over.
        sources: Files, and folders of files.
        without: Endings of files in these folders that are not read.
    """
    there = [path for path in results if path.is_file()]
    if not there:
        return
    times = (time_ for source in sources for time_ in _list_times(source, there, without))
    oldest, newest = min(path.stat().st_mtime_ns for path in there), max(times, default=0)
    if newest > oldest:
        now = max(newest, time.time_ns())  # clocks of a file server may be ahead
        for path in there:
            os.utime(path, ns=(now, now))


def _list_times(source: Path, results: Collection[Path], without: Collection[str]) -> Iterator[int]:
    """List when the files of a source were written, but those of the results' own folders."""
    if source.is_file():
        yield from () if source in results else (source.stat().st_mtime_ns,)
        return
    own = {path.parent.resolve() for path in results}
    for place, folders, names in os.walk(source):
        here = Path(place)
        if RUN_NAME in names:  # the last file of a run; what else lies there may be others' results
            folders[:], names = [], [RUN_NAME]
        folders[:] = [it for it in folders if it[0] != "." and (here / it).resolve() not in own]
        for name in names:
            path = here / name
            if name[0] != "." and path.suffix not in without and path not in results:
                with suppress(OSError):  # a link that leads nowhere
                    yield path.stat().st_mtime_ns
