import pytest

from medart_cli.data.manifest import Record
from medart_cli.data.sidecars import add_sidecar_texts
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
    with pytest.raises(ConfigError, match=r"a\.txt: cannot be read as text in UTF-8"):
        add_sidecar_texts(build_rows(tmp_path, a=None))
