import pytest
from PIL import Image

from medart_cli.caption.sidecars import add_sidecar_texts
from medart_cli.data.manifest import Record
from medart_cli.errors import ConfigError


def build_rows(folder, **texts):
    return [
        Record({"file_name": f"{name}.png"} | ({} if text is None else {"text": text}), folder, "")
        for name, text in texts.items()
    ]


def test_rows_without_a_text_get_that_of_the_file_beside_their_image(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffred and round\n".encode())
    (tmp_path / "b.txt").write_text("from the file")
    (tmp_path / "c.txt").write_text("  ")
    (tmp_path / "d.caption").write_text("blue")
    rows, added = add_sidecar_texts(build_rows(tmp_path, a=None, b="own", c=None, d=None, e=None))
    assert [row.text for row in rows] == ["red and round", "own", None, "blue", None]
    assert added == 2
    assert all("caption" not in row.fields for row in rows)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"a\.txt: cannot be read as utf-16 text"):
        add_sidecar_texts(build_rows(tmp_path, a=None))


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.caption", "a.png.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_are_found_under_the_names_and_encodings_of_other_programs(tmp_path, name, encoding):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / name).write_bytes("n\u00e6vus\r\n".encode(encoding))
    rows, added = add_sidecar_texts([Record({"file_name": "a.png"}, tmp_path, "x:1")])
    assert added == 1 and rows[0].text == "n\u00e6vus"


def test_two_texts_of_one_image_must_agree(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [Record({"file_name": "a.png"}, tmp_path, "x:1")]
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "a.caption").write_text("one\n")
    assert add_sidecar_texts(rows)[0][0].text == "one"
    (tmp_path / "a.caption").write_text("two")
    with pytest.raises(ConfigError, match=r"a\.caption: differs from .*a\.txt"):
        add_sidecar_texts(rows)
