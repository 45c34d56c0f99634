"""What is said of a data set at the start of every command."""

import json

import pytest
from PIL import Image

from medart_cli.data.dataset import open_data
from medart_cli.log import log


@pytest.fixture
def said(monkeypatch):
    lines = []
    for name in ("info", "warning"):
        monkeypatch.setattr(
            log, name, lambda text, *values, name=name: lines.append(f"{name}: {text % values}")
        )
    return lines


def write_images(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200, 30, 60)).save(path)


def write_rows(folder, *rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines)


def test_one_line_tells_images_labels_splits_patients_and_texts(tmp_path, said):
    write_rows(
        tmp_path,
        {"file_name": "a.png", "label": "mel", "split": "train", "group_id": 1, "text": "red"},
        {"file_name": "b.png", "label": "nev", "split": "test", "group_id": "1"},
        {"file_name": "c.png", "label": "nev", "split": "test"},
    )
    facts = open_data(tmp_path, images=False).account.facts()
    assert said == [
        f"info: {tmp_path}: 3 images; labels: mel 1, nev 2; splits: test 2, train 1; "
        "1 patients (1 images without one); 1 texts"
    ]
    assert facts["labels"] == {"mel": 1, "nev": 2} and facts["patients"] == 1
    json.dumps(facts)


def test_patients_that_are_spelled_in_two_ways_are_one_and_named(tmp_path, said):
    names = ["P001", "p001", "P 001 ", "P001", "P002", "\uff30002"]
    write_rows(tmp_path, *({"file_name": f"{i}.png", "group_id": n} for i, n in enumerate(names)))
    assert open_data(tmp_path, images=False).account.facts()["patients"] == 2
    assert said[1] == (
        f"warning: {tmp_path}: patients whose names differ in case or spaces only are taken for "
        "one: 'P001' and 'p001', 'P001' and 'P 001', 'P002' and '\uff30002'; if they are two, give "
        "them other names"
    )


def test_unknown_patients_are_said_and_never_counted(tmp_path, said):
    write_images(tmp_path, "mel/a.png", "nev/b.png")
    assert open_data(tmp_path).account.facts()["patients"] is None
    assert said[0].endswith("2 images; labels: mel 1, nev 1; patients unknown; no texts")


def test_files_that_are_not_read_are_counted_by_format(tmp_path, said):
    write_images(tmp_path, "mel/a.png")
    for name in ("mel/a.heic", "mel/b.HEIC", "mel/v.nii.gz", "mel/scan", "mel/clip.mp4"):
        (tmp_path / name).write_bytes(b"no image of ours")
    open_data(tmp_path)
    assert said[1] == (
        f"warning: {tmp_path}: 5 files are in no format that is read and are passed over: .heic 2, "
        ".mp4 1, .nii.gz 1, without an ending 1; convert images to PNG or TIFF"
    )


def test_texts_beside_images_are_said_with_how_to_read_them(tmp_path, said):
    write_images(tmp_path, "mel/a.png", "mel/b.png")
    (tmp_path / "mel" / "a.txt").write_text("red")
    open_data(tmp_path)
    assert said[1:] == [
        f"warning: {tmp_path}: 1 images have a text file beside them; medart caption --texts "
        "sidecar takes those texts as captions"
    ]


def test_labels_that_are_nearly_the_same_are_named(tmp_path, said):
    write_images(tmp_path, "melanoma/a.png", "Melanoma/a.png", "mela_noma/a.png", "nevus/a.png")
    open_data(tmp_path)
    assert "'Melanoma', 'mela_noma', 'melanoma'; if they are one class" in said[1]
    assert len(said) == 2


@pytest.mark.parametrize("folders", ["Patient_{:02}", "{:04}", "Meier {}"])
def test_labels_that_seem_to_be_patients_are_said_with_how_to_name_the_level(
    tmp_path, said, folders
):
    for number in range(6):
        name = folders.format(number)
        write_images(tmp_path, f"{name}/Band/a.png", f"{name}/Blast/b.png")
    open_data(tmp_path)
    assert said[1].endswith("if these are patients, say so with --folders group_id/label")
    said.clear()
    data = open_data(tmp_path, levels=("group_id", "label"))
    assert said == [f"info: {tmp_path}: 12 images; labels: Band 6, Blast 6; 6 patients; no texts"]
    assert data[0].group_name == folders.format(0)


def test_classes_with_like_folders_below_are_no_patients(tmp_path, said):
    for label in ("mel", "nev"):
        write_images(tmp_path, f"{label}/left/a.png", f"{label}/right/b.png")
    open_data(tmp_path)
    assert len(said) == 1


def test_empty_texts_are_counted(tmp_path, said):
    write_rows(tmp_path, {"file_name": "a.png", "text": " "}, {"file_name": "b.png", "text": "x"})
    open_data(tmp_path, images=False)
    assert said[1] == f"warning: {tmp_path}: 1 of 2 texts are empty"
