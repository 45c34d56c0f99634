"""Texts as a table that people correct: written with --export, read back with --texts.

Each row says with which text it was written (`written`, a hash). So a correction is told from a
text that nobody has touched, and from one of a table that is older than the manifest's text.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medart_cli.caption.edits import (
    ACCEPTED,
    accept_text,
    change_text,
    hash_text,
    reject_text,
    rejected_texts,
    status_of,
)
from medart_cli.caption.labels import is_ours, read_cell, read_name
from medart_cli.caption.names import match_names, plain_name
from medart_cli.data.manifest import Record
from medart_cli.data.tables import ERRORS, TableRow, read_table, write_table
from medart_cli.errors import ConfigError
from medart_cli.log import log

EXPORTED = ("file_name", "label", "text", "status", "faults", "flags", "written")
# Signs that spreadsheets and word processors put for others while a person types.
RETYPED = str.maketrans({"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2018": "'", "\u2019": "'",
                       "\u2026": "...", "\u00a0": " "})  # fmt: skip
OLD = "outdated"  # a correction of a text that the manifest has no longer
CORRECTED = ("changed", "accepted", "rejected")  # what a table may make of a row


@dataclass(frozen=True)
class Told:
    """What a row of a table says of an image's text.

    Attributes:
        text: The text; None where the cell is empty.
        label: The label; None where the table does not say.
        accepted: Whether a person has read the text and agrees.
        written: Hash of the text that the row was written with, empty for none; None where the
            table does not say, as a person's own does not.
        place: `file:line` for messages.
    """

    text: str | None
    label: str | None
    accepted: bool
    written: str | None
    place: str


def list_cells(record: Record) -> list[str]:
    """Return the cells of a row of the table."""
    facts = record.fields.get("caption") or {}
    faults = [*facts.get("faults", ()), *([facts["error"]] if facts.get("error") else ())]
    text, label = record.text or "", " ".join((record.label or "").split())
    return [
        record.file_name, label, text, status_of(record), "; ".join(faults),
        "; ".join(map(str, facts.get("flags", ()))), _hash(text),
    ]  # fmt: skip


def export_texts(path: Path, rows: Iterable[Record]) -> None:
    """Write a table with one row for each row of the manifest.

    Raises:
        OSError: The disk is full or lost.
    """
    write_table(path, EXPORTED, (list_cells(row) for row in rows))


def check_export(path: Path, rows: Sequence[Record]) -> None:
    """Refuse to write where a person's corrections would be lost, before any work.

    Raises:
        ConfigError: There is no such folder, or none to write to; or the file is there, and is none
            that --export wrote, or has corrections that the rows lack.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"--export {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--export {path}: {path.parent} is not writable; use another folder")
    if not path.exists():
        return
    try:
        table = read_texts(path)
    except ConfigError as error:
        raise ConfigError(
            f"--export {path}: is there already and cannot be read as an export ({error}); use "
            "another name, or remove it"
        ) from error
    if any(told.written is None for several in table.values() for told in several):
        raise ConfigError(
            f"--export {path}: is there already and was not written by --export (it has no column "
            "written); use another name, or remove it"
        )
    images: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        images[plain_name(row.file_name)].append(row)
    lost = [
        told.place
        for name, several in table.items()
        for told in several
        if images[name] and all(correct(row, told)[1] in (*CORRECTED, OLD) for row in images[name])
    ]
    if lost:
        raise ConfigError(
            f"--export {path}: has {len(lost)} corrections that are not in the manifest (first in "
            f"{lost[0]}); add --texts {path} to take them, or use another name"
        )


def read_texts(path: Path) -> dict[str, list[Told]]:
    """Read what a table says of texts, by file name; an image on several rows has as many.

    A text that medart wrote into another manifest is left out, as by `read_labels`.

    Raises:
        ConfigError: It cannot be read, lacks file_name or text, or a text is a spreadsheet's error.
    """
    if not path.exists():
        raise ConfigError(f"--texts {path}: no such file; use a table, sidecar or none")
    columns, rows = read_table(path, ("file_name", "text"))
    if not rows:
        raise ConfigError(f"{path}: has no row below its header; write one for each image")
    found: dict[str, list[Told]] = defaultdict(list)
    for row in rows:
        found[read_name(row)].append(_read_told(row, exported="written" in columns))
    return found


def merge_texts(
    rows: Sequence[Record], table: Mapping[str, Sequence[Told]]
) -> tuple[list[Record], bool]:
    """Give rows the texts of a table, where a person changed, accepted or removed them.

    Args:
        rows: The images.
        table: From `read_texts`; its names are matched as those of --labels.

    Returns:
        The rows, and whether any has changed.

    Raises:
        ConfigError: No name matches; or rows of one image disagree.
    """
    names = [plain_name(row.file_name) for row in rows]
    told_of: dict[str, list[Told]] = defaultdict(list)
    for name, image in match_names(table, names, "--texts").items():
        told_of[image] += table[name]
    merged, counts, old = [], Counter[str](), ""
    for name, row in zip(names, rows, strict=True):
        told = _choose(told_of.get(name, ()), row)
        corrected, kind = (row, "missing") if told is None else correct(row, told)
        merged.append(corrected)
        counts[kind] += 1
        counts["relabeled"] += told is not None and not _same(told.label or "", row.label or "")
        old = old or (row.file_name if kind == OLD else "")
    _say(counts, old)
    return merged, any(counts[kind] for kind in CORRECTED)


def correct(row: Record, told: Told) -> tuple[Record, str]:
    """Give a row what a table says of its text, and say what that is.

    Returns:
        The row, and one of `CORRECTED`, `unchanged`, or where the manifest got another text after
        the table was written `newer`, or `OLD` if a person corrected the table's.
    """
    now = row.text or ""
    if told.text is not None and _same(told.text, now):
        accepted = accept_text(row) if told.accepted else row
        return accepted, "unchanged" if accepted is row else "accepted"
    if told.text is None and not told.written:
        return row, "unchanged"  # it had no text then, or the table is no export: says nothing
    if told.text is None and (not now.strip() or told.written in rejected_texts(row)):
        return row, "unchanged"  # done already
    touched = told.text is None or told.accepted or _hash(told.text) != told.written
    gone = now.strip() != "" or told.written in rejected_texts(row)
    if not _is_current(row, told) or (gone and not touched):
        return row, OLD if touched else "newer"
    if told.text is None:
        return reject_text(row), "rejected"
    return change_text(row, told.text, told.written), "changed"


def _is_current(row: Record, told: Told) -> bool:
    """Say whether the row's text is the one that the table was written with.

    Or what an earlier version of the same table made of it, or none.
    """
    now = _hash(row.text or "")
    corrected = (row.fields.get("caption") or {}).get("corrected")
    return told.written is None or now in ("", told.written) or corrected == {
        "from": told.written, "to": now,
    }  # fmt: skip


def _choose(several: Sequence[Told], row: Record) -> Told | None:
    """Choose what is told of this row where its image is on several rows."""
    if len(several) > 1 and several[0].written is not None:
        exact = [told for told in several if told.written == _hash(row.text or "")]
        several = exact or [told for told in several if _is_current(row, told)] or several[:1]
    texts = {told.text for told in several}
    if len(texts) > 1:
        one, two, *_ = several
        raise ConfigError(
            f"{two.place}: {row.file_name!r} has a different text in another row ({one.place}); "
            "keep one"
        )
    return several[0] if several else None


def _read_told(row: TableRow, *, exported: bool) -> Told:
    text = None if is_ours(row) else read_cell(row, "text")
    if text in ERRORS:
        raise ConfigError(f"{row.place}: text is {text}, a spreadsheet's error; write the text")
    return Told(
        text=None if text is None else " ".join(text.split()),
        label=read_cell(row, "label"),
        accepted=read_cell(row, "status") == ACCEPTED,
        written=(read_cell(row, "written") or "") if exported else None,
        place=row.place,
    )


def _say(counts: Mapping[str, int], old: str) -> None:
    kinds = [*CORRECTED, "unchanged", *(["newer in the manifest"] if counts["newer"] else [])]
    told = [f"{counts[kind.split()[0]]} {kind}" for kind in kinds]
    log.info("--texts: %s; %d images not in the file", ", ".join(told), counts["missing"])
    if counts[OLD]:
        log.warning(
            "--texts: %d corrections are of texts that the manifest has no longer, such as that of "
            "%s, and are not used; export again and correct the new ones, or take the file's with "
            "--labels", counts[OLD], old,
        )  # fmt: skip
    if counts["relabeled"]:
        log.warning("--texts: %d labels differ from the manifest's and are not used; --labels "
                    "takes labels from the same file", counts["relabeled"])  # fmt: skip


def _same(one: str, two: str) -> bool:
    return hash_text(one.translate(RETYPED)) == hash_text(two.translate(RETYPED))


def _hash(text: str) -> str:
    return hash_text(text) if text.strip() else ""
