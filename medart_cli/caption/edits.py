"""Texts that a person wrote, changed, accepted or rejected: known by hashes, and kept."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medart_cli.data.manifest import Record

EDITED = "edited"  # status of a row whose text a person changed
ACCEPTED = "accepted"  # status of a row whose text a person has read and agreed with
READER = "was rejected by a reader"  # the fault of a text that a person did not want
HASH_DIGITS = 16
# What a `caption` says of one text alone, and not of where the row's texts come from.
OF_THE_TEXT = ("faults", "flags", "error")


def hash_text(text: str) -> str:
    """Return what tells a text from others; spaces and the form of letters do not matter."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(plain.encode()).hexdigest()[:HASH_DIGITS]


def status_of(record: Record) -> str:
    """Return how a row's text came about: a status, `kept` for others' texts, `none` without."""
    status = (record.fields.get("caption") or {}).get("status")
    return str(status) if status else "kept" if record.text else "none"


def is_users(record: Record) -> bool:
    """Say whether a text is a person's: not written by medart, or changed or accepted since.

    An empty text is nobody's, so a text that a person removed is written again. A row of an earlier
    version of medart, without the hash, counts as medart's.
    """
    if not (record.text or "").strip():
        return False
    facts: dict[str, Any] = record.fields.get("caption") or {}
    # Medart writes no text with these.
    if facts.get("status") in (None, "rejected", EDITED, ACCEPTED):
        return True
    return _is_other(record, facts)


def change_text(record: Record, text: str, written: str | None = None) -> Record:
    """Give a row a person's text.

    Args:
        record: The row.
        text: The new text.
        written: Hash of the text that the person saw and corrected, if that is known.
    """
    facts = _cleared(record) | {"status": EDITED}
    if written is not None:
        facts["corrected"] = {"from": written, "to": hash_text(text)}
    return record.with_fields(text=text, caption=facts)


def accept_text(record: Record) -> Record:
    """Mark a row's text as read and agreed with; one that is a person's already stays so."""
    if status_of(record) in (EDITED, ACCEPTED):
        return record
    facts = _cleared(record) | {"status": ACCEPTED, "text_hash": hash_text(record.text or "")}
    return record.with_fields(caption=facts)


def reject_text(record: Record) -> Record:
    """Remove a row's text, so that it is captioned again, and note that this text is not wanted."""
    gone = [*rejected_texts(record), hash_text(record.text or "")]
    facts = _cleared(record) | {"status": "rejected", "faults": [READER], "rejected_texts": gone}
    left = {key: value for key, value in record.fields.items() if key != "text"}
    return replace(record, fields=left | {"caption": facts})


def judge_again(record: Record, text: str) -> list[str]:
    """Return the fault of a text that a person rejected before; none of any other."""
    return [READER] if hash_text(text) in rejected_texts(record) else []


def carry_rejections(record: Record) -> dict[str, Any]:
    """Return what a row's new `caption` must keep of the old one: which texts are not wanted."""
    gone = rejected_texts(record)
    return {"rejected_texts": gone} if gone else {}


def rejected_texts(record: Record) -> list[str]:
    """Return the hashes of texts of a row that a person rejected."""
    return list((record.fields.get("caption") or {}).get("rejected_texts", ()))


class Edits(Sequence[Record]):
    """Rows of which those that a person changed say so in their `caption`; read as needed."""

    def __init__(self, records: Sequence[Record]) -> None:
        """Look through all rows once.

        Attributes after it: `users`, how many texts are a person's, and `new`, how many rows do
        not say so yet.
        """
        self._records = records
        self.users = self.new = 0
        for record in records:
            if is_users(record):
                self.users += 1
                self.new += _mark(record) is not record

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        record = self._records[index]
        return _mark(record) if is_users(record) else record


def _mark(record: Record) -> Record:
    facts = record.fields.get("caption") or {}
    same = facts.get("status") == ACCEPTED and not _is_other(record, facts)
    if same or facts.get("status") in (None, EDITED):
        return record
    return record.with_fields(caption=_cleared(record) | {"status": EDITED})


def _is_other(record: Record, facts: dict[str, Any]) -> bool:
    """Say whether a text is another than the one whose hash its row has."""
    written = facts.get("text_hash")
    return written is not None and written != hash_text(record.text or "")


def _cleared(record: Record) -> dict[str, Any]:
    facts = record.fields.get("caption") or {}
    return {key: value for key, value in facts.items() if key not in OF_THE_TEXT}
