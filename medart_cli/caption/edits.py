"""Texts that a person wrote or changed: known by the hash of what medart wrote, and kept."""

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

from medart_cli.data.manifest import Record

EDITED = "edited"  # status of a row whose text a person changed
HASH_DIGITS = 16


def hash_text(text: str) -> str:
    """Return what tells a text from others; spaces and the form of letters do not matter."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(plain.encode()).hexdigest()[:HASH_DIGITS]


def is_users(record: Record) -> bool:
    """Say whether a row's text is a person's: not written by medart, or changed since.

    An empty text is nobody's, so a text that a person removed is written again. A row of an earlier
    version of medart, without the hash, counts as medart's.
    """
    if not (record.text or "").strip():
        return False
    facts: dict[str, Any] = record.fields.get("caption") or {}
    if facts.get("status") in (None, "rejected", EDITED):  # medart writes no text with these
        return True
    written = facts.get("text_hash")
    return written is not None and written != hash_text(record.text or "")


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
    if facts.get("status") in (None, EDITED):
        return record
    kept = {key: value for key, value in facts.items() if key not in ("faults", "error")}
    return record.with_fields(caption={**kept, "status": EDITED})
