import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from medart_cli.data.dataset import open_data, read_data
from medart_cli.data.manifest import PARTS_NAME, read_manifest, write_manifest
from medart_cli.data.stored import StoredRecords, join_manifests
from medart_cli.errors import ConfigError, ManifestError


def rows(*numbers):
    return [{"file_name": f"{number}.png", "text": f"rød {number}", "row": number}
            for number in numbers]  # fmt: skip


def test_stored_records_are_those_that_reading_gives(tmp_path):
    path = tmp_path / "metadata.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows(4, 2, 9)]
    path.write_text("\ufeff" + "\n\n  ".join(lines) + "\r\n\n", encoding="utf-8")
    stored = StoredRecords(path)
    assert len(stored) == 3
    read = list(read_manifest(path))
    assert [record.fields for record in stored] == [record.fields for record in read]
    assert stored[-1].path == tmp_path / "9.png"
    with pytest.raises(IndexError):
        stored[3]


def test_stored_records_are_the_rows_as_they_were_found(tmp_path):
    path = tmp_path / "metadata.jsonl"
    write_manifest(path, rows(1, 2))
    stored = StoredRecords(path)
    write_manifest(path, rows(7))
    assert [record.fields["row"] for record in stored] == [1, 2]


def test_a_file_that_is_changed_while_in_use_is_named(tmp_path):
    path = tmp_path / "metadata.jsonl"
    write_manifest(path, rows(1, 2))
    stored = StoredRecords(path)
    with path.open("r+b") as file:
        file.write(b"x" * 200)
    with pytest.raises(ManifestError, match=r"metadata\.jsonl:2: was changed while in use"):
        stored[1]


def test_a_wrong_line_is_named_before_anything_is_used(tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "a.png"}\n[]\n')
    with pytest.raises(ManifestError, match=r"metadata\.jsonl:2: is a JSON list"):
        StoredRecords(path)


def test_data_of_any_kind_opens(tmp_path, images):
    write_manifest(tmp_path / "metadata.jsonl", rows(1, 2))
    assert [record.fields["row"] for record in open_data(tmp_path, images=False)] == [1, 2]
    data = open_data(tmp_path / "metadata.jsonl", images=False)
    assert isinstance(data.records, StoredRecords)
    listed = open_data(images)
    assert [record.fields for record in listed] == [record.fields for record in read_data(images)]


def test_parts_join_in_order_and_each_row_once(tmp_path):
    (tmp_path / PARTS_NAME).mkdir()
    whole, one = tmp_path / "metadata.jsonl", tmp_path / PARTS_NAME / "1-of-2.jsonl"
    write_manifest(whole, rows(5, 0))
    write_manifest(one, rows(3, 1, 5))
    join_manifests(whole, [whole, one], "row")
    assert [record.fields for record in read_manifest(whole)] == rows(0, 1, 3, 5)


def test_a_folder_whose_manifest_is_in_parts_is_refused(tmp_path):
    (tmp_path / PARTS_NAME).mkdir()
    write_manifest(tmp_path / PARTS_NAME / "1-of-2.jsonl", rows(1))
    with pytest.raises(ConfigError, match="is still in parts"):
        open_data(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    with pytest.raises(ConfigError, match="is still in parts"):
        list(read_data(tmp_path / "metadata.jsonl"))


def test_many_threads_may_read_at_once(tmp_path):
    write_manifest(tmp_path / "m.jsonl", rows(*range(300)))
    stored = StoredRecords(tmp_path / "m.jsonl")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: stored[index].fields["row"], range(300)))
    assert found == list(range(300))


def test_a_page_break_between_lines_is_a_blank_line(tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(b'{"file_name": "a.png"}\n\f\n\v\n{"file_name": "b.png"}\n')
    assert [record.file_name for record in StoredRecords(path)] == ["a.png", "b.png"]
