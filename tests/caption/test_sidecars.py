import logging

import pytest
from PIL import Image

from medart_cli.caption.edits import hash_text, status_of
from medart_cli.caption.sidecars import (
    add_sidecar_texts,
    check_sidecars,
    read_written,
    write_sidecars,
)
from medart_cli.data.manifest import Record
from medart_cli.errors import ConfigError


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("medart"), "propagate", True)
    caplog.set_level("INFO", "medart")
    return lambda: "\n".join(item.getMessage() for item in caplog.records)


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
    rows, added = add_sidecar_texts(
        build_rows(tmp_path, a=None, b="own", c=None, d=None, e=None), {}
    )
    assert [row.text for row in rows] == ["red and round", "own", None, "blue", None]
    assert added == 2
    assert all("caption" not in row.fields for row in rows)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"a\.txt: cannot be read as utf-16 text"):
        add_sidecar_texts(build_rows(tmp_path, a=None), {})


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.caption", "a.png.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_are_found_under_the_names_and_encodings_of_other_programs(tmp_path, name, encoding):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / name).write_bytes("n\u00e6vus\r\n".encode(encoding))
    rows, added = add_sidecar_texts([Record({"file_name": "a.png"}, tmp_path, "x:1")], {})
    assert added == 1 and rows[0].text == "n\u00e6vus"


def test_two_texts_of_one_image_must_agree(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [Record({"file_name": "a.png"}, tmp_path, "x:1")]
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "a.caption").write_text("one\n")
    assert add_sidecar_texts(rows, {})[0][0].text == "one"
    (tmp_path / "a.caption").write_text("two")
    with pytest.raises(ConfigError, match=r"a\.caption: differs from .*a\.txt"):
        add_sidecar_texts(rows, {})


def test_texts_go_out_and_what_a_person_changed_there_comes_back(tmp_path, said):
    ledger = tmp_path / ".m.sidecars"
    rows = build_rows(tmp_path, a="A brown\nspot.", b="A red spot.", c=None)
    assert write_sidecars(rows, ledger)["written"] == 2
    assert (tmp_path / "a.txt").read_bytes() == b"A brown spot.\n"
    assert not (tmp_path / "c.txt").exists()
    assert write_sidecars(rows, ledger)["same"] == 2
    assert add_sidecar_texts(rows, read_written(ledger)) == (rows, 0)
    (tmp_path / "b.txt").write_text("A pink spot.")
    back, added = add_sidecar_texts(rows, read_written(ledger))
    assert added == 1 and back[1].text == "A pink spot." and status_of(back[1]) == "edited"
    assert back[0] == rows[0] and "1 texts were changed in sidecar files" in said()
    assert write_sidecars(rows, ledger)["kept"] == 1  # as long as it was not taken
    assert write_sidecars(back, ledger) == {
        "written": 0, "same": 2, "removed": 0, "kept": 0, "shared": 0,
    }  # fmt: skip


def test_own_files_are_replaced_and_a_persons_are_kept_and_said(tmp_path, said):
    ledger = tmp_path / ".m.sidecars"
    (tmp_path / "b.txt").write_text("Mine.")
    (tmp_path / "c.caption").write_text("Mine too.")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\xff")
    rows = build_rows(tmp_path, a="One.", b="Two.", c="Three.", d="Four.")
    counts = write_sidecars(rows, ledger)
    assert (counts["written"], counts["kept"]) == (1, 3)
    assert (tmp_path / "b.txt").read_text() == "Mine." and not (tmp_path / "c.txt").exists()
    assert "3 text files were not written by medart or have changed since, such as" in said()
    again = build_rows(tmp_path, a="One, again.", b="Mine.")
    assert write_sidecars(again, ledger)["written"] == 1
    assert (tmp_path / "a.txt").read_text() == "One, again.\n"
    # An older text of medart's, as after a kill, is no edit of a person's.
    (tmp_path / "a.txt").write_text("One.")
    assert add_sidecar_texts(again, read_written(ledger)) == (again, 0)


def test_the_file_of_a_text_that_is_gone_goes_too_and_comes_not_back_as_a_persons(tmp_path):
    ledger = tmp_path / ".m.sidecars"
    write_sidecars(build_rows(tmp_path, a="One."), ledger)
    bare = build_rows(tmp_path, a=None)
    assert add_sidecar_texts(bare, read_written(ledger)) == (bare, 0)
    assert write_sidecars(bare, ledger)["removed"] == 1 and not (tmp_path / "a.txt").exists()
    (tmp_path / "a.txt").write_text("Mine.")
    assert write_sidecars(bare, ledger)["kept"] == 1
    assert add_sidecar_texts(bare, read_written(ledger))[0][0].text == "Mine."


def test_images_that_share_a_file_are_said(tmp_path, said):
    rows = [Record({"file_name": name, "text": name}, tmp_path, "") for name in ("a.png", "a.jpg")]
    counts = write_sidecars(rows, tmp_path / ".m.sidecars")
    assert (counts["written"], counts["shared"]) == (1, 1)
    assert (tmp_path / "a.txt").read_text() == "a.png\n"
    assert "1 rows share a text file with a row above" in said()


def test_a_folder_that_cannot_be_written_to_is_said_before_any_work(tmp_path, monkeypatch):
    rows = build_rows(tmp_path, a="One.")
    check_sidecars(rows)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="is not writable; export to a CSV file"):
        check_sidecars(rows)


def test_a_broken_ledger_is_named_and_a_torn_line_is_not_missed(tmp_path):
    ledger = tmp_path / ".m.sidecars"
    assert not read_written(ledger)
    write_sidecars(build_rows(tmp_path, a="One."), ledger)
    with ledger.open("a") as file:
        file.write('{"file_name": "b')
    assert read_written(ledger) == {"a.png": {hash_text("One.")}}
    ledger.write_text("[]\n")
    with pytest.raises(ConfigError, match="sidecars: cannot be read"):
        read_written(ledger)
