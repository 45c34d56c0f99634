from pathlib import Path

import pytest

from medart_cli.caption.edits import (
    READER,
    Edits,
    accept_text,
    carry_rejections,
    change_text,
    hash_text,
    is_users,
    judge_again,
    reject_text,
    status_of,
)
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


def test_a_text_that_a_person_accepted_is_the_persons_and_says_so_until_it_is_edited():
    old = row("A brown lesion", faults=["x"], flags=["y"], **OURS)
    accepted = accept_text(old)
    assert accepted.fields["caption"] == {**OURS, "status": "accepted"} and is_users(accepted)
    assert Edits([accepted]).new == 0 and list(Edits([accepted])) == [accepted]
    changed = accepted.with_fields(text="A red lesion")
    assert Edits([changed]).new == 1 and status_of(Edits([changed])[0]) == "edited"
    mine = accept_text(row("Mine."))
    assert status_of(mine) == "accepted" and is_users(mine) and Edits([mine]).new == 0


def test_a_text_that_a_person_changed_stays_so_when_it_is_accepted():
    changed = change_text(row("A brown lesion", flags=["y"], **OURS), "Red.", OURS["text_hash"])
    assert is_users(changed) and "flags" not in changed.fields["caption"]
    assert changed.fields["caption"]["corrected"] == {
        "from": OURS["text_hash"], "to": hash_text("Red."),
    }  # fmt: skip
    assert accept_text(changed) is changed and list(Edits([changed])) == [changed]


def test_a_text_that_a_person_rejected_is_gone_and_known_when_it_comes_again():
    bare = reject_text(row("A brown lesion", **OURS))
    assert bare.text is None and "text" not in bare.fields and not is_users(bare)
    assert status_of(bare) == "rejected" and bare.fields["caption"]["faults"] == [READER]
    assert judge_again(bare, " A brown\nlesion") == [READER] and not judge_again(bare, "Another.")
    again = reject_text(bare.with_fields(text="Another."))
    assert judge_again(again, "A brown lesion") == judge_again(again, "Another.") == [READER]
    assert carry_rejections(again) == {
        "rejected_texts": [hash_text("A brown lesion"), hash_text("Another.")]
    }
    assert carry_rejections(row("Mine.")) == {}


def test_the_status_says_how_a_text_came_about():
    rows = [row("A.", status="ok"), row("A.", status="simple"), row("A."), row(), row("")]
    assert [status_of(it) for it in rows] == ["ok", "simple", "kept", "none", "none"]
