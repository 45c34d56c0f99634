import json
import os
from pathlib import Path

import pytest
from PIL import Image

from medart_cli.caption.edits import accept_text, change_text
from medart_cli.caption.target import beside, find_target, find_unlisted, read_target
from medart_cli.data.manifest import Record, read_manifest, write_manifest
from medart_cli.errors import ConfigError


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "all" / "images"
    (folder / "nevus").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(folder / "nevus" / name)
    return folder


def names(rows):
    return [row.file_name for row in rows]


def test_a_folder_s_and_a_file_s_own_manifest_is_the_target(images):
    own = images / "metadata.jsonl"
    assert find_target(str(images), None, None) == (own, images)
    write_manifest(own, [{"file_name": "nevus/a.png"}])
    assert find_target(str(own), None, None) == (own, images)
    assert find_target(str(images), None, images.parent) == (own, images.parent)


def test_standard_input_is_relative_to_where_one_stands(images):
    out = images / "out.jsonl"
    assert find_target("-", out, None) == (out, Path.cwd())


def test_places_that_cannot_be_are_refused(images, monkeypatch):
    with pytest.raises(ConfigError, match="no such folder or manifest"):
        find_target(str(images / "none"), None, None)
    with pytest.raises(ConfigError, match="is a folder"):
        find_target(str(images), images, None)
    with pytest.raises(ConfigError, match="there is no folder"):
        find_target(str(images), images / "none" / "out.jsonl", None)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="--out"):
        find_target(str(images), None, None)


def test_pages_of_several_manifests_in_one_folder_do_not_share_a_name(tmp_path):
    assert beside(tmp_path / "metadata.jsonl", "review.html").name == "review.html"
    assert beside(tmp_path / "visual.jsonl", "review.html").name == "visual.review.html"


def test_file_names_follow_a_manifest_above_the_images(images):
    target = images.parent.parent / "out.jsonl"
    rows, changed, _ = read_target(str(images), target, images, None)
    assert names(rows) == ["all/images/nevus/a.png", "all/images/nevus/b.png"]
    assert all(row.path.is_file() for row in rows) and not changed


def test_file_names_stay_where_the_manifest_lies_elsewhere(images, tmp_path):
    (tmp_path / "else").mkdir()
    target = tmp_path / "else" / "out.jsonl"
    rows, _, _ = read_target(str(images), target, images, None)
    write_manifest(target, [row.fields for row in rows])
    assert names(rows) == ["nevus/a.png", "nevus/b.png"]
    assert all(row.path.is_file() for row in read_manifest(target, root=images))


def test_rows_of_an_earlier_target_come_first_and_new_images_after_them(images):
    target = images.parent / "out.jsonl"
    write_manifest(target, [{"file_name": "images/nevus/b.png", "text": "mine"}])
    rows, changed, _ = read_target(str(images), target, images, None)
    assert names(rows) == ["images/nevus/b.png", "images/nevus/a.png"]
    assert rows[0].text == "mine" and changed


def test_another_manifest_leaves_our_own_texts_behind_and_takes_those_of_others(images):
    own = images / "metadata.jsonl"
    rows = [
        {"file_name": "nevus/a.png", "text": "ours", "caption": {"status": "ok"}, "age": 5},
        {"file_name": "nevus/b.png", "text": "mine"},
    ]
    write_manifest(own, rows)
    assert [row.text for row in read_target(str(images), own, images, None)[0]] == ["ours", "mine"]
    other = read_target(str(images), images / "other.jsonl", images, None)[0]
    assert [row.fields for row in other] == [{"file_name": "nevus/a.png", "age": 5}, rows[1]]


@pytest.mark.parametrize("mark", [accept_text, lambda row: change_text(row, "mine", "hash")])
def test_a_text_that_was_a_persons_from_the_start_goes_along_when_it_was_corrected(images, mark):
    ours = {"status": "ok", "profile": "generic", "text_hash": "other"}
    for caption, kept in (({}, True), (ours, False)):
        fields = {"file_name": "nevus/a.png", "text": "mine", "caption": caption}
        row = mark(Record(fields, images, "m:1"))
        write_manifest(images / "metadata.jsonl", [row.fields])
        found = read_target(str(images), images / "other.jsonl", images, None)[0]
        assert [it.text for it in found] == (["mine"] if kept else [None])


def test_the_last_line_of_a_manifest_may_lack_its_end_or_be_torn(images):
    own = images / "metadata.jsonl"
    line = json.dumps({"file_name": "nevus/a.png"})
    own.write_text(line)
    assert names(read_target(str(images), own, images, None)[0]) == ["nevus/a.png"]
    own.write_text(line + "\n" + line[:9])
    assert names(read_target(str(images), own, images, None)[0]) == ["nevus/a.png"]


def test_unlisted_images_are_found(images):
    own = images / "metadata.jsonl"
    write_manifest(own, [{"file_name": "nevus/b.png"}])
    rows = read_target(str(images), own, images, None)[0]
    assert names(find_unlisted(images, rows, None)) == ["nevus/a.png"]
    for path in images.glob("nevus/*"):
        path.unlink()
    assert find_unlisted(images, rows, None) == []
