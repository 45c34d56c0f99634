import csv
import io
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medart_cli.data.tables import clean_name, decode_text, read_table, write_table
from medart_cli.errors import ConfigError

NEEDED = ("file_name", "label")
PLAIN = [{"file_name": "a.png", "label": "mel"}, {"file_name": "b.png", "label": "nev, benign"}]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
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
        ("name;class\na;b\n", "its columns are: name, class; rename the one that is meant"),
        ("file_name,label,label\n", "column 'label' appears twice; keep one"),
        ('file_name,label\na.png,"mel\nb.png,nev\n', "t.csv:2: column label has a quoting error"),
        ('file_name,label\na.png,mel\nb.png,"n"ev\n', "t.csv:3: column label has a quoting error"),
        ('file_name,label\n"a.png,mel\nb.png,nev\n', "t.csv:2: column file_name has a quoting"),
        (
            'file_name|a|label\n"x|y"|b "|"n"ev\n',
            "t.csv:2: column label has .*; fix the",
        ),
        ('file_name,"label\na.png,mel\n', "t.csv:1: cell 2 has a quoting error"),
        ("file_name,label\na.png,mel,extra\n", "t.csv:2: has 3 cells where the header has 2"),
        ("file_name,label\na.png\n", "t.csv:2: has no cell for column label; add it"),
        ('file_name,label\na.png,"mel\nb.png,nev"\n', "t.csv:3: label contains a line break"),
        ('file_name,label\na.png,"mel\nb.png,"nev"\n', "t.csv:2: column label has a quoting error"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_by_line_and_column(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_table(write(tmp_path / "t.csv", text), NEEDED)


def test_another_encoding_and_a_missing_file_are_refused(tmp_path):
    message = r"t\.csv: cannot be read as utf-8 text from line 2 on; save it in UTF-8"
    with pytest.raises(ConfigError, match=message):
        read_table(write(tmp_path / "t.csv", "file_name,label\nä,b\n", "latin-1"), NEEDED)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_table(tmp_path / "none.csv", NEEDED)


def test_names_of_windows_are_paths():
    assert clean_name(r"C:\data\a0.png") == "data/a0.png"
    assert clean_name(r"nev\a.png") == "nev/a.png"
    assert clean_name("nev/a.png") == "nev/a.png"


def test_the_line_in_which_excel_names_its_separator_is_no_head(tmp_path):
    columns, rows = read_table(write(tmp_path / "t.csv", "sep=;\nfile_name;label\na;b,c\n"), NEEDED)
    assert columns == ["file_name", "label"]
    assert rows[0].values == {"file_name": "a", "label": "b,c"} and rows[0].place.endswith(":3")


def test_columns_without_a_name_are_left_out(tmp_path):
    text = ",file_name,label,\n0,a.png,mel,\n1,b.png,nev,\n"
    _, rows = read_table(write(tmp_path / "t.csv", text), NEEDED)
    assert [row.values for row in rows] == [
        {"file_name": "a.png", "label": "mel"}, {"file_name": "b.png", "label": "nev"},
    ]  # fmt: skip


@pytest.mark.parametrize("mark", ["\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}", "\x85", "\x0c"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_only_a_line_end_ends_a_row(tmp_path, mark, name):
    text = f"file_name,label\na.png,one{mark}two\nb.png,c\n"
    if name == "t.jsonl":
        text = f'{{"file_name": "a.png", "label": "one{mark}two"}}\r\n{{"file_name": "b.png"}}\n'
    if mark == "\x0c" and name == "t.jsonl":
        text = text.replace(mark, "\\f")  # JSON has no bare control characters
    columns, rows = read_table(write(tmp_path / name, text), NEEDED)
    assert columns == ["file_name", "label"]
    assert [row.values["file_name"] for row in rows] == ["a.png", "b.png"]
    assert rows[0].values["label"] == f"one{mark}two"


def test_json_lines_are_read_by_their_keys(tmp_path):
    text = '\N{BYTE ORDER MARK}{"file_name": " a.png", "n": 1}\n\n{"file_name": "b", "label": " "}'
    columns, rows = read_table(write(tmp_path / "t.JSONL", text), NEEDED)
    assert columns == ["file_name", "n", "label"]
    assert [row.values for row in rows] == [
        {"file_name": "a.png", "n": 1}, {"file_name": "b", "label": None},
    ]  # fmt: skip
    assert [row.place.rsplit(":", 1)[1] for row in rows] == ["1", "3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "a", "class": "b"}\n', "has no column label; its columns are: file_name"),
        ('{"file_name": "a"\n', r"t.jsonl:1: is not a JSON object: .*; fix it"),
        ('{"file_name": "a"}\n["b"]\n', "t.jsonl:2: is not a JSON object; write one per line"),
        ('{"file_name": "a", "label": 1, "label": 2}\n', "t.jsonl:1: .*'label' is repeated"),
        ('{"file_name": "a", "label": NaN}\n', "t.jsonl:1: is not a JSON object"),
        ('{"file_name": "a", "label": "\\ud800"}\n', "t.jsonl:1: is not a JSON object"),
        ('{"file_name": "a\\nb", "label": "c"}\n', "t.jsonl:1: file_name contains a line break"),
        ("[" * 9999, "t.jsonl:1: is not a JSON object"),
    ],
)
def test_json_lines_that_cannot_be_read_are_refused_by_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_table(write(tmp_path / "t.jsonl", text), NEEDED)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_dropped(encoding):
    assert decode_text("Größe\n".encode(encoding), "it") == "Größe\n"
    assert decode_text(b"", "it") == ""


@pytest.mark.parametrize("head", ["File_Name,LABEL", "FileName, Label ", '"file name","label"'])
def test_columns_are_known_in_any_case_and_with_any_sign_between_words(tmp_path, head):
    columns, rows = read_table(write(tmp_path / "t.csv", f"{head}\na.png,mel\n"), NEEDED)
    assert columns == ["file_name", "label"] and rows[0].values == PLAIN[0]


def test_a_column_of_the_right_name_goes_before_one_in_another_case(tmp_path):
    text = "file_name,Label,label\na.png,x,mel\n"
    _, rows = read_table(write(tmp_path / "t.csv", text), NEEDED)
    assert rows[0].values == {"file_name": "a.png", "Label": "x", "label": "mel"}


def test_what_spreadsheets_add_is_no_part_of_a_cell(tmp_path):
    text = '\ufeff\ufefffile_name,label\n="a.png",="007",,\nb.png,nev,\n,,,\n'
    _, rows = read_table(write(tmp_path / "t.csv", text), NEEDED)
    assert [row.values for row in rows] == [
        {"file_name": "a.png", "label": "007"}, {"file_name": "b.png", "label": "nev"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("=B2", "label is '=B2', a spreadsheet formula or error; write its value"),
        ("#REF!", "label is '#REF!', a spreadsheet formula"),
        ("m\0el", "label contains a control character; remove it"),
    ],
)
def test_cells_that_are_no_value_are_refused(tmp_path, cell, message):
    with pytest.raises(ConfigError, match=f"t.csv:2: {message}"):
        read_table(write(tmp_path / "t.csv", f"file_name,label\na.png,{cell}\n"), NEEDED)


def test_json_that_is_not_called_so_is_refused_as_json(tmp_path):
    with pytest.raises(ConfigError, match=r"looks like JSON; write one object per line"):
        read_table(write(tmp_path / "t.json", '[{"file_name": "a.png"},\n{}]'), NEEDED)


CELLS = [
    "=1+1", "+4", "-a", "@x", "'=x", "''-y", '="z"', "\u00e4,;\t|", 'a "quoted" text', "two\nlines",
    "007", "1.2.826.0.1", "12e4567", "3-4", "2026-11-26", "1,5", "a1", "'quoted'", "-", "x = y",
]  # fmt: skip


def test_what_is_written_comes_back_and_no_cell_is_one_that_spreadsheets_calculate(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path, ("file_name", "text"), [(f"{n}.png", cell) for n, cell in enumerate(CELLS)])
    raw = path.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbffile_name,text\r\n")
    cells = [row[1] for row in csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""))][1:]
    assert not [it for it in cells if it[0] in "=+-@" and not re.fullmatch(r'="[\d.,:/e -]+"', it)]
    _, rows = read_table(path, ("file_name",))
    assert [row.values["text"] for row in rows] == CELLS
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_looks_like_a_formula_comes_back_and_a_formula_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path, ("file_name", "label"), [("=a/-1.png", "+")])
    assert read_table(path, NEEDED)[1][0].values == {"file_name": "=a/-1.png", "label": "+"}
    with pytest.raises(ConfigError, match="file_name is '=a', a spreadsheet formula"):
        read_table(write(path, "file_name,label\n=a,b\n"), NEEDED)
    line = '{"file_name": "a", "label": "\'-"}\n'
    assert read_table(write(tmp_path / "t.jsonl", line), NEEDED)[1][0].values["label"] == "'-"


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
            lambda cell: cell == cell.strip() and "\ufeff" not in cell
        ),
        min_size=1,
    )
)
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(texts):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        write_table(path, ("file_name", "text"), [("a", text) for text in texts])
        assert [row.values["text"] for row in read_table(path, ("text",))[1]] == texts
