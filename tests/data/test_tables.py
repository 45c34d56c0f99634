import pytest

from medart_cli.data.tables import clean_name, read_table
from medart_cli.errors import ConfigError

NEEDED = ("file_name", "label")
PLAIN = [{"file_name": "a.png", "label": "mel"}, {"file_name": "b.png", "label": "nev, benign"}]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_all_programs_are_read_alike(tmp_path, encoding, separator, end):
    lines = ["file_name,label".replace(",", separator), f"a.png{separator} mel "]
    lines += ["", f'b.png{separator}"nev, benign"', ""]
    columns, rows = read_table(write(tmp_path / "t.csv", end.join(lines), encoding), NEEDED)
    assert columns == ["file_name", "label"]
    assert [row.values for row in rows] == PLAIN
    assert [row.place.rsplit(":", 1)[1] for row in rows] == ["2", "4"]


def test_an_empty_cell_is_none(tmp_path):
    _, rows = read_table(write(tmp_path / "t.csv", "file_name,label\na.png,\nb.png,  \n"), NEEDED)
    assert [row.values["label"] for row in rows] == [None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name;class\na;b\n", "has no column file_name and no column label; its columns are: name"),
        ("", "its columns are: nothing"),
        ("file_name,label,label\n", "column 'label' stands twice"),
        ('file_name,label\na.png,"mel\nb.png,nev\n', r"t.csv:2: a cell is wrongly quoted"),
        ('file_name,label\na.png,mel\nb.png,"n"ev\n', r"t.csv:3: a cell is wrongly quoted"),
        ("file_name,label\na.png,mel,extra\n", "t.csv:2: has 3 cells where the head has 2"),
        ("file_name,label\na.png\n", "t.csv:2: has 1 cells where the head has 2"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_by_line_and_column(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_table(write(tmp_path / "t.csv", text), NEEDED)


def test_another_encoding_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not utf-8 text; save it as CSV in UTF-8"):
        read_table(write(tmp_path / "t.csv", "file_name,label\nä,b\n", "latin-1"), NEEDED)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_table(tmp_path / "none.csv", NEEDED)


def test_names_of_windows_are_paths():
    assert clean_name(r"C:\data\a0.png") == "data/a0.png"
    assert clean_name(r"nev\a.png") == "nev/a.png"
    assert clean_name("nev/a.png") == "nev/a.png"
