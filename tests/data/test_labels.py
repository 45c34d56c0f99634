import pytest

from medart_cli.data.labels import merge_labels, read_labels
from medart_cli.data.manifest import Record
from medart_cli.errors import ConfigError


def records(tmp_path, *names):
    return [Record({"file_name": name, "label": "old"}, tmp_path, name) for name in names]


def labels_of(rows):
    return [row.label for row in rows]


def test_a_table_is_read_from_csv_and_jsonl_alike(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("\N{BYTE ORDER MARK}label,file_name,age\nnevus,a/1.png,6\n", "utf-8")
    lines = tmp_path / "labels.jsonl"
    lines.write_text('{"file_name": "a/1.png", "label": "nevus"}\n')
    assert read_labels(table) == read_labels(lines) == {"a/1.png": "nevus"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na,b\n", "row 1 lacks file_name or label"),
        ("file_name,label\na,b\na,c\n", "a has two labels"),
        ("file_name,label\na,b\nc\n", "row 2 lacks"),
    ],
)
def test_a_wrong_table_is_named_with_its_row(tmp_path, text, message):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_labels(table)


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")


def test_labels_of_the_table_win_and_other_rows_keep_theirs(tmp_path):
    rows, changed = merge_labels(records(tmp_path, "a/1.png", "a/2.png"), {"a/1.png": "nevus"})
    assert labels_of(rows) == ["nevus", "old"] and changed
    assert not merge_labels(rows, {"a/1.png": "nevus"})[1]


def test_names_without_folder_and_ending_fit_where_they_are_unique(tmp_path):
    rows, _ = merge_labels(records(tmp_path, "a/1.png", "b/2.png"), {"1": "nevus", "2.jpg": "mel"})
    assert labels_of(rows) == ["nevus", "mel"]


def test_a_short_name_that_several_images_bear_is_not_guessed(tmp_path):
    images = records(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(ConfigError, match="none of its file names"):
        merge_labels(images, {"1": "nevus"})
    rows, _ = merge_labels(images, {"a/1.png": "nevus"})
    assert labels_of(rows) == ["nevus", "old"]


def test_a_table_of_other_images_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="none of its file names"):
        merge_labels(records(tmp_path, "a/1.png"), {"x.png": "nevus"})
