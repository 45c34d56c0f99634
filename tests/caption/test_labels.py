import json
import logging
import unicodedata

import pytest

from medart_cli.caption.edits import hash_text
from medart_cli.caption.labels import merge_labels, read_labels
from medart_cli.data.manifest import Record
from medart_cli.data.tables import TableRow
from medart_cli.errors import ConfigError


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("medart"), "propagate", True)
    caplog.set_level("INFO", "medart")
    return lambda: "\n".join(item.getMessage() for item in caplog.records)


def records(tmp_path, *names, **fields):
    fields = {"label": "old"} | fields
    return [Record({"file_name": name, **fields}, tmp_path, name) for name in names]


def labels_of(rows):
    return [row.label for row in rows]


def rows_of(**labels):
    return {name: TableRow({"label": label}, f"t.csv:{number}")
            for number, (name, label) in enumerate(labels.items(), start=2)}  # fmt: skip


def read(tmp_path, text, name="labels.csv", encoding="utf-8"):
    (tmp_path / name).write_bytes(text.encode(encoding))
    return read_labels(tmp_path / name)


def cells_of(table):
    return {name: row.values for name, row in table.items()}


def test_a_table_is_read_from_csv_and_jsonl_alike(tmp_path):
    table = read(tmp_path, "\N{BYTE ORDER MARK}label,file_name,age\nnevus,a/1.png,6\n")
    line = '{"file_name": "a/1.png", "label": "nevus", "age": 6}\n'
    lines = read(tmp_path, line, "labels.jsonl")
    assert cells_of(table) == cells_of(lines) == {"a/1.png": {"label": "nevus"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na,b\n", "no column file_name; its columns are: image, label; rename"),
        ("file_name;class\na;b\n", "none of the columns .*; its columns are: file_name, class"),
        ("file_name,label\n", "has no row below its header"),
        ("file_name,label\n,b\n", r"labels.csv:2: file_name is empty; name the image"),
        ("file_name,label\na,b\na,c\n", r"csv:3: 'a' has a different label in .*csv:2\); keep one"),
        ("file_name,label\na,b\nc\n", "csv:3: has no cell for column label"),
        ("file_name,group_id\na,b\n./a,c\n", "csv:3: 'a' has a different group_id in"),
        ("file_name,split\na,train\nb,no\n", "csv:3: split 'no' is not train, val or test"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_named_with_row_and_column(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")


def test_all_that_the_manifest_knows_is_taken_and_the_rest_is_named(tmp_path, said):
    head = "file_name,age,text,split,group_id,label,sex"
    table = read(tmp_path, f"{head}\na.png,60,a mole,Training,007,nevus,f\n")
    cells = {"label": "nevus", "group_id": "007", "split": "train", "text": "a mole"}
    assert cells_of(table) == {"a.png": cells}
    assert "1 rows, columns used: label, group_id, split, text; not used: age, sex" in said()


def test_a_table_may_name_groups_alone(tmp_path):
    rows, _ = merge_labels(records(tmp_path, "a.png"), read(tmp_path, "file_name,group_id\na,0\n"))
    assert rows[0].fields == {"file_name": "a.png", "label": "old", "group_id": "0"}


@pytest.mark.parametrize(
    ("word", "split"),
    [("TRAIN", "train"), ("validation", "val"), ("dev", "val"), ("Test set", "test")],
)
def test_splits_have_many_words(tmp_path, word, split):
    assert cells_of(read(tmp_path, f"file_name,split\na,{word}\n")) == {"a": {"split": split}}


def test_rows_of_one_file_that_agree_are_one(tmp_path):
    text = "file_name,label,group_id\na.png,mel,\na.png,mel,P1\na.png,,P1\n"
    assert cells_of(read(tmp_path, text)) == {"a.png": {"label": "mel", "group_id": "P1"}}


def test_empty_cells_are_counted_and_never_a_class(tmp_path, said):
    table = read(tmp_path, "file_name,label,group_id\na.png,,P1\nb.png,  ,\nc.png, nev,P2\n")
    assert "empty cells: 2 of label, 1 of group_id; they change nothing" in said()
    names = ("a.png", "b.png", "c.png")
    assert labels_of(merge_labels(records(tmp_path, *names), table)[0]) == ["old", "old", "nev"]
    bare = [Record({"file_name": name}, tmp_path, name) for name in names]
    assert labels_of(merge_labels(bare, table)[0]) == [None, None, "nev"]


def test_numbers_are_text(tmp_path):
    lines = [{"file_name": "a", "label": 0, "group_id": 0}, {"file_name": "b", "label": 1.5}]
    table = read(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "t.jsonl")
    assert cells_of(table) == {"a": {"label": "0", "group_id": "0"}, "b": {"label": "1.5"}}
    with pytest.raises(ConfigError, match="t.jsonl:1: label is a list; write a text"):
        read(tmp_path, '{"file_name": "a", "label": ["b"]}\n', "t.jsonl")


def test_labels_of_the_table_win_and_other_rows_keep_theirs(tmp_path, said):
    table = rows_of(**{"a/1.png": "nevus"})
    rows, changed = merge_labels(records(tmp_path, "a/1.png", "a/2.png"), table)
    assert labels_of(rows) == ["nevus", "old"] and changed
    assert "1 of 2 images are not in the table, such as a/2.png" in said()
    assert not merge_labels(rows, table)[1]


def test_a_text_of_the_table_is_the_users_and_wins_over_ours(tmp_path):
    ours = {"text": "A medical image of nevus", "caption": {"status": "simple"}}
    rows = records(tmp_path, "a.png", "b.png", **ours)
    same = ours["text"]
    table = read(tmp_path, f"file_name,text\na.png,a mole\nb.png,{same}\n")
    merged, changed = merge_labels(rows, table)
    assert changed and merged[0].text == "a mole" and "caption" not in merged[0].fields
    assert merged[1] == rows[1]  # it says what we wrote


def test_a_text_that_medart_wrote_elsewhere_is_not_taken_as_the_users(tmp_path, said):
    line = {"file_name": "a", "label": "b", "text": "ours", "caption": {"status": "ok"}}
    table = read(tmp_path, json.dumps(line) + "\n", "other.jsonl")
    assert cells_of(table) == {"a": {"label": "b"}}
    assert "not used: caption, and 1 texts that medart wrote" in said()
    line["caption"]["text_hash"] = hash_text("what medart wrote")
    edited = read(tmp_path, json.dumps(line) + "\n", "edited.jsonl")
    assert cells_of(edited) == {"a": {"label": "b", "text": "ours"}}  # a person changed it


UIDS = ("1.2.826.7", "1.2.826.7.1", "1.2.826.70", "1.2.826.8")


@pytest.mark.parametrize("ending", ["", ".png", ".dcm", ".JPG", ".dcm.png"])
@pytest.mark.parametrize("folder", ["", "study/"])
@pytest.mark.parametrize("order", [1, -1])
def test_each_uid_has_its_own_row(tmp_path, ending, folder, order):
    images = records(tmp_path, *(f"{folder}{uid}{ending}" for uid in UIDS))
    lines = [f"{uid},{uid}" for uid in UIDS[::order]]
    table = read(tmp_path, "\n".join(["file_name,label", *lines]))
    assert labels_of(merge_labels(images, table)[0]) == [*UIDS]


def test_a_uid_that_is_not_in_the_table_has_no_label_of_another(tmp_path):
    images = records(tmp_path, "1.2.826.7", "1.2.826.9", "1.2.826.8.png")
    table = read(tmp_path, "file_name,label\n1.2.826.7,b\n1.2.826.7.1,c\n1.2.826.8.1,c\n")
    assert labels_of(merge_labels(images, table)[0]) == ["b", "old", "old"]


@pytest.mark.parametrize("table_form", ["NFC", "NFD"])
@pytest.mark.parametrize("image_form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["nävus/é1.png", "é1"])
def test_letters_may_be_composed_or_not(tmp_path, table_form, image_form, name):
    images = records(tmp_path, unicodedata.normalize(image_form, "nävus/é1.png"))
    text = unicodedata.normalize(table_form, f"file_name,label\n{name},nävus\n")
    rows, _ = merge_labels(images, read(tmp_path, text))
    assert labels_of(rows) == ["nävus"]
    assert rows[0].file_name == images[0].file_name


@pytest.mark.parametrize(
    "name",
    [r"C:\data\a\1.png", r"a\1.png", r"\\nas\x\a\1.png", "/mnt/a/1.png", "./a//1.png", "a/1"],
)
def test_paths_of_other_machines_end_in_those_of_images(tmp_path, name):
    images = records(tmp_path, "a/1.png", "b/1.png")
    table = read(tmp_path, f"file_name,label\n{name},nevus\n")
    assert labels_of(merge_labels(images, table)[0]) == ["nevus", "old"]


def test_several_names_of_one_image_must_agree(tmp_path):
    images = records(tmp_path, "a/1.png", "a/2.png")
    text = "file_name,label,group_id\na/1.png,mel,\n1,mel,P1\n"
    assert merge_labels(images, read(tmp_path, text))[0][0].fields["group_id"] == "P1"
    for name in ("1", r"C:\a\1.png", "1.png"):
        with pytest.raises(ConfigError, match=r"csv:3: 'a/1.png' has a different label in .*csv:2"):
            text = f"file_name,label\na/1.png,mel\n{name},nev\n"
            merge_labels(images, read(tmp_path, text))


def test_files_that_differ_in_their_ending_are_two(tmp_path):
    images = records(tmp_path, "a.png", "a.jpg")
    rows, _ = merge_labels(images, read(tmp_path, "file_name,label\na.png,mel\na.jpg,nev\n"))
    assert labels_of(rows) == ["mel", "nev"]
    rows, _ = merge_labels(images[:1], read(tmp_path, "file_name,label\na.jpg,nev\na.png,mel\n"))
    assert labels_of(rows) == ["mel"]


def test_another_folder_or_ending_fits_where_names_are_unique_and_is_said(tmp_path, said):
    images = records(tmp_path, "a/1.png", "b/2.png")
    rows, _ = merge_labels(images, rows_of(**{"1": "nevus", "c/2.jpg": "mel"}))
    assert labels_of(rows) == ["nevus", "mel"]
    text = "1 names match a file in another folder or with another extension, such as c/2.jpg"
    assert text in said()


def test_a_short_name_that_several_images_bear_is_not_guessed(tmp_path, said):
    images = records(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    with pytest.raises(ConfigError, match=r"file names matches one image \('1' matches several;"):
        merge_labels(images, rows_of(**{"1": "nevus"}))
    rows, _ = merge_labels(images, rows_of(**{"1": "nevus", "2": "mel"}))
    assert labels_of(rows) == ["old", "old", "mel"]
    assert "1 names match several images and are skipped, such as 1; add their" in said()


def test_a_table_of_other_images_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="none .*'x.png' matches none; an image is 'a/1.png'"):
        merge_labels(records(tmp_path, "a/1.png"), rows_of(**{"x.png": "nevus"}))


def test_names_that_are_no_image_are_counted(tmp_path, said):
    table = read(tmp_path, "file_name,label\na.png,x\nTotal,2\n")
    merge_labels(records(tmp_path, "a.png"), table)
    assert "--labels: 1 names in the table match no image, such as Total" in said()


def test_words_for_a_missing_value_are_said(tmp_path, said):
    text = "file_name,label,group_id,text\na.png,NA,nan,none\nb.png,mel,,x\n"
    table = read(tmp_path, text)
    assert table["a.png"].values["label"] == "NA"
    assert "label is NA in some rows and is used as is; where it is unknown" in said()
    assert "group_id is nan in some rows" in said() and "text is" not in said()


def test_whole_numbers_have_no_point(tmp_path):
    text = '{"file_name": "a.png", "label": 1.0}\n{"file_name": "b.png", "label": 1.5}\n'
    table = read(tmp_path, text, "t.jsonl")
    assert [row.values["label"] for row in table.values()] == ["1", "1.5"]
