import json

import pytest

from medart_cli.caption import journal as journal_module
from medart_cli.caption.journal import Journal, find_journals
from medart_cli.data.manifest import read_manifest, write_manifest
from medart_cli.errors import RunError

ROWS = [
    {"file_name": "b.png", "label": "x"},
    {"file_name": "a.png", "text": "old", "z": None},
    {"file_name": "b.png", "label": "twin"},
]


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "metadata.jsonl"
    write_manifest(path, ROWS)
    return path


def open_journal(manifest):
    return Journal(manifest, list(read_manifest(manifest)))


def rows_of(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def results_of(journal):
    found = {row: journal.merged.result_of(row) for row in range(len(journal.records))}
    return {row: result for row, result in found.items() if result is not None}


def test_rows_of_one_file_are_told_apart_in_any_order(manifest):
    journal = open_journal(manifest)
    for row in (2, 0, 1):
        journal.append(row, {"text": f"t{row}"})
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [(line["file_name"], line["twin"]) for line in lines] == [
        ("b.png", 1), ("b.png", 0), ("a.png", 0)
    ]  # fmt: skip
    assert results_of(open_journal(manifest)) == {row: {"text": f"t{row}"} for row in range(3)}


def test_results_survive_without_a_close_and_the_manifest_is_untouched_until_then(manifest):
    before = manifest.read_bytes()
    open_journal(manifest).append(2, {"text": "t2"})
    assert manifest.read_bytes() == before
    assert results_of(open_journal(manifest)) == {2: {"text": "t2"}}


def test_finishing_puts_results_in_their_rows_and_removes_the_file(manifest):
    journal = open_journal(manifest)
    journal.append(2, {"text": "t2"})
    journal.append(0, {"text": "t0", "label": None})
    journal.append(1, {"caption": {"status": "ok"}})
    assert journal.path.is_file()
    journal.finish()
    assert rows_of(manifest) == [
        {"file_name": "b.png", "text": "t0"},
        {"file_name": "a.png", "text": "old", "z": None, "caption": {"status": "ok"}},
        {"file_name": "b.png", "label": "twin", "text": "t2"},
    ]
    assert not journal.path.exists() and results_of(journal) == {}
    assert [record.fields for record in journal.records] == rows_of(manifest)


def test_a_torn_line_costs_that_row_alone(manifest):
    journal = open_journal(manifest)
    journal.append(0, {"text": "t0"})
    journal.append(1, {"text": "t1"})
    journal.close()
    journal.path.write_bytes(journal.path.read_bytes()[:-5])
    again = open_journal(manifest)
    assert results_of(again) == {0: {"text": "t0"}}
    again.append(1, {"text": "new"})
    assert results_of(open_journal(manifest)) == {0: {"text": "t0"}, 1: {"text": "new"}}


def test_an_empty_journal_is_no_result(manifest):
    journal = open_journal(manifest)
    journal.path.write_bytes(b'{"file_na')
    assert results_of(open_journal(manifest)) == {}


def test_a_journal_fits_a_manifest_that_was_reordered_or_cut(manifest):
    journal = open_journal(manifest)
    for row in range(3):
        journal.append(row, {"text": f"t{row}"})
    journal.close()
    write_manifest(manifest, [ROWS[1], ROWS[0]])
    assert results_of(open_journal(manifest)) == {0: {"text": "t1"}, 1: {"text": "t0"}}


def test_the_manifest_takes_results_up_now_and_then(manifest, monkeypatch):
    monkeypatch.setattr(journal_module, "FOLD_SECONDS", -1.0)
    journal = open_journal(manifest)
    journal.append(1, {"text": "new"})
    assert rows_of(manifest)[1]["text"] == "new"
    assert results_of(open_journal(manifest)) == {1: {"text": "new"}}  # still known as done


def test_finishing_without_results_writes_nothing(manifest):
    before = manifest.stat().st_mtime_ns
    open_journal(manifest).finish()
    assert manifest.stat().st_mtime_ns == before


def test_a_row_that_failed_is_not_done_until_it_has_a_text(manifest):
    journal = open_journal(manifest)
    journal.append(0, {"caption": {"error": "no image"}})
    assert not journal.is_done(0) and journal.failed == {0}
    journal.append(0, {"text": "t0"})
    assert journal.is_done(0) and not open_journal(manifest).failed


def test_parts_keep_their_own_journals_and_one_run_alone_takes_all_up(manifest):
    records = list(read_manifest(manifest))
    before = manifest.read_bytes()
    for number in (1, 2):
        part = Journal(manifest, records, f"{number}-of-2", alone=False)
        assert results_of(part) == {}  # the other part's journal is not looked at
        part.append(number, {"text": f"part {number}"})
        part.fold()  # leaves the manifest alone
    assert manifest.read_bytes() == before
    assert [path.name for path in find_journals(manifest)] == [
        ".metadata.jsonl.1-of-2.journal", ".metadata.jsonl.2-of-2.journal"
    ]  # fmt: skip
    whole = open_journal(manifest)
    assert results_of(whole) == {1: {"text": "part 1"}, 2: {"text": "part 2"}}
    whole.finish()
    assert [row.get("text") for row in rows_of(manifest)] == [None, "part 1", "part 2"]
    assert find_journals(manifest) == []


def test_a_text_changed_since_a_line_was_written_wins_over_it(manifest):
    journal = open_journal(manifest)
    journal.append(0, {"text": "t0"})
    journal.append(1, {"text": "t1"})
    journal.fold()
    rows = rows_of(manifest)
    rows[0]["text"] = "mine"
    write_manifest(manifest, rows)
    assert results_of(open_journal(manifest)) == {1: {"text": "t1"}}


def test_a_manifest_that_someone_changed_is_not_written_over(manifest):
    journal = open_journal(manifest)
    journal.append(0, {"text": "t0"})
    write_manifest(manifest, [*ROWS, {"file_name": "new.png"}])
    with pytest.raises(RunError, match="changed by someone else"):
        journal.finish()
    assert len(rows_of(manifest)) == 4 and journal.path.is_file()
    again = open_journal(manifest)
    again.finish()
    assert rows_of(manifest)[0]["text"] == "t0" and len(rows_of(manifest)) == 4
