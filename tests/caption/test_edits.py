from pathlib import Path

import pytest

from medart_cli.caption.edits import Edits, hash_text, is_users
from medart_cli.data.manifest import Record

OURS = {"status": "ok", "model": "m", "text_hash": hash_text("A brown lesion")}


def row(text=None, **caption):
    fields = {"file_name": "a.png", "text": text, "caption": caption}
    return Record({key: value for key, value in fields.items() if value}, Path(), "m:1")


@pytest.mark.parametrize(
    ("record", "theirs"),
    [
        (row("A brown lesion", **OURS), False),
        (row(" A  brown\nlesion ", **OURS), False),  # an editor's spaces
        (row("A red lesion", **OURS), True),
        (row("", **OURS), False),
        (row("A text"), True),
        (row("A text", error="truncated"), True),
        (row("A text", status="rejected", error="truncated"), True),
        (row("A text", status="ok"), False),  # of an earlier version, without the hash
        (row(**OURS), False),
    ],
)
def test_a_text_is_a_persons_where_medart_wrote_another_or_none(record, theirs):
    assert is_users(record) == theirs


def test_letters_with_marks_are_the_same_in_both_forms():
    assert hash_text("nävus") == hash_text("na\u0308vus")


def test_changed_rows_say_so_and_all_else_is_as_it_was():
    rows = [row("A red lesion", faults=["x"], **OURS), row("A brown lesion", **OURS), row("Mine.")]
    edits = Edits(rows)
    assert (edits.users, edits.new) == (2, 1)
    assert edits[0].fields["caption"] == {**OURS, "status": "edited"}
    assert list(edits)[1:] == rows[1:]
    again = Edits(list(edits))
    assert (again.users, again.new) == (2, 0)
