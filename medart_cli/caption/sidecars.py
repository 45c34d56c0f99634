"""Captions in a text file beside each image, as other trainers have them: a.jpg and a.txt.

Beside the manifest stands which texts medart wrote into such files. So it replaces its own, keeps a
person's, and knows a text that a person changed in one of them.
"""

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from medart_cli.caption.edits import change_text, hash_text
from medart_cli.data.files import draft_of
from medart_cli.data.folders import IMAGE_ENDINGS, find_texts
from medart_cli.data.manifest import ManifestWriter, Record, repair_manifest
from medart_cli.data.tables import decode_text
from medart_cli.errors import ConfigError
from medart_cli.log import log

ENDING = ".txt"  # what kohya's trainers and most others read


def add_sidecar_texts(
    rows: Sequence[Record], written: Mapping[str, Collection[str]]
) -> tuple[list[Record], int]:
    """Give rows the text of the file beside their image, where it is a person's.

    That is the case where the row has no text, and where medart wrote the file and it has changed.

    Args:
        rows: The images.
        written: Hashes of the texts that medart wrote into such files, from `read_written`.

    Returns:
        The rows, and how many got a text.

    Raises:
        ConfigError: A text file cannot be read, or an image has two that disagree.
    """
    found: list[Record] = []
    added = changed = 0
    for row in rows:
        ours = written.get(row.file_name, ())
        text = _read_text(row) if row.text is None or ours else None
        if text is not None and hash_text(text) in (*ours, hash_text(row.text or "")):
            pass
        elif text is not None and row.text is None:
            row, added = row.with_fields(text=text), added + 1
        elif text is not None:
            row, changed = change_text(row, text), changed + 1
        found.append(row)
    log.info("%d texts read from sidecar files", added)
    if changed:
        log.info("%d texts were changed in sidecar files since they were written; taken", changed)
    return found, added + changed


def check_sidecars(rows: Sequence[Record]) -> None:
    """Refuse a folder of images that cannot be written to, before any work.

    Raises:
        ConfigError: It cannot.
    """
    for folder in dict.fromkeys(row.path.parent for row in rows):
        if folder.is_dir() and not os.access(folder, os.W_OK):
            raise ConfigError(f"--export sidecar: {folder} is not writable; export to a CSV file")


def write_sidecars(rows: Iterable[Record], ledger: Path) -> dict[str, int]:
    """Write each row's text to a file beside its image; a person's file is kept as it is.

    Texts are on one line, for some trainers read no more. Of several rows that share a file the
    first counts. The file of a row that has no text any more is removed.

    Args:
        rows: The images.
        ledger: Where it stands which texts medart wrote.

    Returns:
        How many files were `written`, had the `same` text, were `removed`, and are a person's and
        `kept`; and how many rows `shared` the file of another.

    Raises:
        OSError: The disk is full or lost.
    """
    ours = read_written(ledger)
    counts = dict.fromkeys(("written", "same", "removed", "kept", "shared"), 0)
    first: dict[str, str] = {}  # file of each kind of count that is worth an example
    seen = set[Path]()
    with ManifestWriter(ledger) as writer:
        for row in rows:
            path = _find_place(row)
            kind = "shared" if path in seen else _judge(row, ours.get(row.file_name, set()))
            seen.add(path)
            if kind == "written":
                text = " ".join((row.text or "").split())
                writer.append({"file_name": row.file_name, "text_hash": hash_text(text)})
                with draft_of(path) as draft:
                    draft.write_text(text + "\n", encoding="utf-8")
            elif kind == "removed":
                path.unlink()
            if kind is not None:
                counts[kind] += 1
                first.setdefault(kind, str(path))
    log.info("sidecar files: %s", ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if counts["kept"]:
        log.warning(
            "%d text files were not written by medart or have changed since, such as %s, and are "
            "kept; take their texts with --texts sidecar, or remove them",
            counts["kept"], first["kept"],
        )  # fmt: skip
    if counts["shared"]:
        log.warning("%d rows share a text file with a row above, such as %s, and are left out",
                    counts["shared"], first["shared"])  # fmt: skip
    return counts


def read_written(ledger: Path) -> dict[str, set[str]]:
    """Read the hashes of all texts that medart wrote beside each image; none without a ledger.

    Raises:
        ConfigError: The ledger cannot be read.
    """
    found: dict[str, set[str]] = defaultdict(set)
    if not ledger.is_file():
        return found
    repair_manifest(ledger)
    try:
        for line in ledger.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found[str(entry["file_name"])].add(str(entry["text_hash"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{ledger}: cannot be read: {error}; remove it, and medart takes the "
                          "text files beside images for yours") from error  # fmt: skip
    return found


def _judge(row: Record, ours: Collection[str]) -> str | None:
    """Say what is to become of the file beside an image; None where there is none and no text."""
    try:
        texts = [text for text in _read_texts(row) if text]
    except ConfigError:  # what is no text is not ours either
        return "kept"
    told = hash_text(row.text or "") if (row.text or "").strip() else None
    if any(hash_text(text) not in (told, *ours) for text in texts):
        return "kept"
    if told is None:
        return "removed" if texts and _find_place(row).is_file() else None
    return "same" if texts and all(hash_text(text) == told for text in texts) else "written"


def _find_place(row: Record) -> Path:
    """Return the file that `--export sidecar` writes for an image: a.txt for a.jpg."""
    path = row.path
    stem = path.stem if path.suffix.lower() in IMAGE_ENDINGS else path.name
    return path.with_name(stem + ENDING)


def _read_text(row: Record) -> str | None:
    texts = _read_texts(row)
    if len(texts) > 1:
        one, two, *_ = texts.values()
        raise ConfigError(f"{two}: differs from {one}, of the same image; keep one")
    return next(iter(texts), None) or None


def _read_texts(row: Record) -> dict[str, Path]:
    """Read the texts beside an image, each with the first file that has it."""
    first: dict[str, Path] = {}
    for path in find_texts(row.path):
        try:
            text = decode_text(path.read_bytes(), str(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        first.setdefault("\n".join(text.split("\r\n")).strip(), path)
    return first
