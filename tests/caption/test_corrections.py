import csv
import json
import logging

import pytest

from medart_cli.caption.corrections import (
    check_export,
    correct,
    export_texts,
    merge_texts,
    read_texts,
)
from medart_cli.caption.edits import hash_text, is_users, status_of
from medart_cli.data.manifest import Record
from medart_cli.errors import ConfigError

TEXTS = ["A brown spot.", "A red spot.", None, "Mine.", '-a "quoted", odd; text'] * 2


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("medart"), "propagate", True)
    caplog.set_level("INFO", "medart")
    return lambda: "\n".join(item.getMessage() for item in caplog.records)


@pytest.fixture
def rows(tmp_path):
    return [
        build_row(tmp_path, f"{'ab'[number % 2]}/{number:03d}.png", text, number)
        for number, text in enumerate(TEXTS)
    ]


def build_row(folder, name, text, number=0, label="nevus"):
    fields = {"file_name": name, "label": label}
    if text is None:
        fields |= {"caption": {"status": "rejected", "error": "is no image"}}
    elif text == "Mine.":
        fields |= {"text": text}
    else:
        facts = {"model": "m", "status": "ok", "flags": ["says red"] * (number == 1)}
        fields |= {"text": text, "caption": facts | {"text_hash": hash_text(text)}}
    return Record(fields, folder, f"m:{number}")


def read_cells(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_cells(path, cells, *, encoding="utf-8-sig", delimiter=",", columns=None):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, columns or cells[0], delimiter=delimiter, restval="",
                                extrasaction="ignore")  # fmt: skip
        writer.writeheader()
        writer.writerows(cells)
    return path


def test_a_table_has_a_row_for_each_row_of_the_manifest(rows, tmp_path):
    export_texts(tmp_path / "t.csv", rows)
    cells = read_cells(tmp_path / "t.csv")
    assert [it["file_name"] for it in cells] == [row.file_name for row in rows]
    assert list(cells[0]) == [
        "file_name", "label", "text", "status", "faults", "flags", "written"
    ]  # fmt: skip
    assert [it["status"] for it in cells[:4]] == ["ok", "ok", "rejected", "kept"]
    assert (cells[1]["flags"], cells[2]["faults"]) == ("says red", "is no image")
    assert cells[0]["written"].strip('="') == hash_text("A brown spot.") and not cells[2]["written"]


def test_a_table_that_nobody_touched_changes_nothing(rows, tmp_path, said):
    export_texts(tmp_path / "t.csv", rows)
    merged, changed = merge_texts(rows, read_texts(tmp_path / "t.csv"))
    assert merged == rows and not changed
    told = "--texts: 0 changed, 0 accepted, 0 rejected, 10 unchanged; 0 images not in the file"
    assert told in said() and "WARNING" not in said()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_corrections_come_back_as_a_spreadsheet_saves_them(
    rows, tmp_path, said, encoding, delimiter
):
    path = tmp_path / "t.csv"
    export_texts(path, rows)
    cells = read_cells(path)
    cells[0]["text"] = " A brown,\r\nround spot \u201cso\u201d.  "
    cells[1]["text"] = ""
    cells[2]["text"] = "A text for a row that had none."
    cells[3]["status"] = "accepted"
    cells[4]["text"] = cells[4]["text"].replace('"quoted"', "\u201cquoted\u201d")  # not a change
    for it in cells:  # a spreadsheet calculates ="0123" and saves what comes of it
        it["written"] = it["written"].removeprefix('="').removesuffix('"')
        it["label"] = f" {it['label']} "
    del cells[7]
    cells = [{"file_name": "c/none.png", "text": "x"}, *cells[::-1]]
    write_cells(path, cells, encoding=encoding, delimiter=delimiter, columns=[*cells[-1]])
    merged, changed = merge_texts(rows, read_texts(path))
    assert changed and [status_of(row) for row in merged[:5]] == [
        "edited", "rejected", "edited", "accepted", "ok",
    ]  # fmt: skip
    assert merged[0].text == "A brown, round spot \u201cso\u201d." and merged[1].text is None
    assert merged[0].fields["caption"]["model"] == "m" and merged[4:] == rows[4:]
    assert [is_users(row) for row in merged[:5]] == [True, False, True, True, False]
    told = "--texts: 2 changed, 1 accepted, 1 rejected, 5 unchanged; 1 images not in the file"
    assert told in said() and "1 names in the table match no image, such as c/none.png" in said()
    again, changed = merge_texts(merged, read_texts(path))
    assert again == merged and not changed


def test_a_text_that_is_newer_than_the_table_is_kept_and_said(rows, tmp_path, said):
    path = tmp_path / "t.csv"
    export_texts(path, rows)
    newer = [build_row(tmp_path, row.file_name, f"Newer {n}.", n) for n, row in enumerate(rows)]
    assert merge_texts(newer, read_texts(path)) == (newer, False)
    assert "2 unchanged, 8 newer in the manifest" in said()  # two had no text: that says nothing
    assert "WARNING" not in said()
    cells = read_cells(path)
    cells[0]["text"], cells[1]["text"], cells[5]["status"] = "Corrected.", "", "accepted"
    write_cells(path, cells)
    assert merge_texts(newer, read_texts(path)) == (newer, False)
    assert "3 corrections are of texts that the manifest has no longer, such as that of a/000.png" \
        in said()  # fmt: skip


def test_the_same_table_may_be_corrected_again_but_not_over_another_edit(rows, tmp_path):
    path = tmp_path / "t.csv"
    export_texts(path, rows[:1])
    cells = read_cells(path)
    for text, status in (("First.", "ok"), ("Second.", "ok"), ("A brown spot.", "accepted")):
        cells[0] |= {"text": text, "status": status}
        rows[:1], _ = merge_texts(rows[:1], read_texts(write_cells(path, cells)))
        assert rows[0].text == text and status_of(rows[0]) == "edited"
    elsewhere = rows[0].with_fields(text="In an editor.")
    cells[0]["text"] = "Third."
    assert merge_texts([elsewhere], read_texts(write_cells(path, cells))) == ([elsewhere], False)
    bare = [build_row(tmp_path, "a/000.png", None)]  # there is nothing to lose
    assert merge_texts(bare, read_texts(path))[0][0].text == "Third."


def test_a_table_of_ones_own_needs_names_and_texts_alone(rows, tmp_path):
    table = read_texts(write_cells(tmp_path / "t.csv", [
        {"file_name": "000", "text": "Own."}, {"file_name": "001.png", "text": ""},
    ]))  # fmt: skip
    merged, _ = merge_texts(rows, table)
    assert merged[0].text == "Own." and status_of(merged[0]) == "edited"
    assert merged[1:] == rows[1:]  # an empty cell says nothing


def test_several_rows_of_one_image_each_have_their_text(tmp_path):
    rows = [build_row(tmp_path, "a.png", text, n) for n, text in enumerate(["One.", "Two.", None])]
    export_texts(tmp_path / "t.csv", rows)
    check_export(tmp_path / "t.csv", rows)
    cells = read_cells(tmp_path / "t.csv")
    cells[1]["text"] = "Two, corrected."
    table = read_texts(write_cells(tmp_path / "t.csv", cells[::-1]))
    assert [row.text for row in merge_texts(rows, table)[0]] == ["One.", "Two, corrected.", None]
    newer = [row.with_fields(text=f"Newer {n}.") for n, row in enumerate(rows)]
    assert merge_texts(newer, table) == (newer, False)
    own = [{"file_name": "a.png", "text": "x"}, {"file_name": "a.png", "text": "y"}]
    with pytest.raises(ConfigError, match=r"csv:3: 'a.png' has a different text in another row"):
        merge_texts(rows, read_texts(write_cells(tmp_path / "t.csv", own)))


def test_other_labels_in_the_table_are_said_and_not_taken(rows, tmp_path, said):
    cells = [{"file_name": row.file_name, "label": "mel", "text": row.text} for row in rows[:2]]
    assert merge_texts(rows, read_texts(write_cells(tmp_path / "t.csv", cells)))[0] == rows
    assert "2 labels differ from the manifest's and are not used; --labels takes" in said()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\na,b\n", "has no column text"),
        ("file_name,text\n", "has no row below its header"),
        ("file_name,text\na.png,#NAME?\n", "csv:2: text is #NAME\\?, a spreadsheet's error"),
        ("file_name,text\n,x\n", "csv:2: file_name is empty"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_texts(tmp_path / "t.csv")


def test_a_table_with_corrections_that_were_not_taken_is_not_written_over(rows, tmp_path):
    path = tmp_path / "t.csv"
    check_export(path, rows)
    export_texts(path, rows)
    check_export(path, rows)
    cells = read_cells(path)
    for number, text in ((0, "Corrected."), (1, "")):
        write_cells(path, [*cells[:number], {**cells[number], "text": text}])
        with pytest.raises(ConfigError, match=f"has 1 corrections .* --texts {path} to take them"):
            check_export(path, rows)
        check_export(path, merge_texts(rows, read_texts(path))[0])
    newer = [row.with_fields(text="Newer.") for row in rows]
    with pytest.raises(ConfigError, match="has 1 corrections"):
        check_export(path, newer)


def test_a_file_that_is_no_export_is_not_written_over(rows, tmp_path):
    path = write_cells(tmp_path / "t.csv", [{"file_name": "a/000.png", "text": "x"}])
    with pytest.raises(ConfigError, match="was not written by --export"):
        check_export(path, rows)
    path.write_text("age\n7\n")
    with pytest.raises(ConfigError, match="cannot be read as an export .*has no column file_name"):
        check_export(path, rows)
    with pytest.raises(ConfigError, match="there is no folder"):
        check_export(tmp_path / "none" / "t.csv", rows)


def test_a_text_is_told_row_by_row(rows, tmp_path):
    export_texts(tmp_path / "t.csv", rows[:1])
    (told,) = read_texts(tmp_path / "t.csv")[rows[0].file_name]
    assert correct(rows[0], told) == (rows[0], "unchanged")
    assert correct(rows[1], told) == (rows[1], "newer")


def test_a_text_that_medart_wrote_elsewhere_is_no_correction(rows, tmp_path):
    lines = [row.with_fields(text=f"Other {n}.").fields for n, row in enumerate(rows[:2])]
    lines[0]["caption"] = {"status": "ok", "text_hash": hash_text("Other 0.")}
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    merged, _ = merge_texts(rows, read_texts(path))
    assert [row.text for row in merged[:2]] == [rows[0].text, "Other 1."]  # that was edited there


def test_a_table_that_nobody_touched_takes_no_correction_back(rows, tmp_path):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    export_texts(old, rows)
    new.write_text(old.read_text(encoding="utf-8").replace(rows[0].text, "Mine."), "utf-8")
    merged, _ = merge_texts(rows, read_texts(new))
    assert merged[0].text == "Mine."
    assert merge_texts(merged, read_texts(old)) == (merged, False)
    check_export(old, merged)  # nothing in it is lost


def test_a_label_of_two_lines_comes_back(tmp_path):
    rows = [build_row(tmp_path, "a.png", "A brown spot.", label="ne\nvus")]
    export_texts(tmp_path / "t.csv", rows)
    assert merge_texts(rows, read_texts(tmp_path / "t.csv")) == (rows, False)
