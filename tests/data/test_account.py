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
        f"warning: {tmp_path}: patient names that differ only in case, spaces or zeros count as "
        "one patient: 'P001' and 'p001', 'P001' and 'P 001', 'P002' and '\uff30002'; if they "
        "are two, rename them"
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
        f"warning: {tmp_path}: 5 files are in unsupported formats and are skipped: .heic 2, "
        ".mp4 1, .nii.gz 1, without an ending 1; convert images to PNG or TIFF"
    )


def test_texts_beside_images_are_said_with_how_to_read_them(tmp_path, said):
    write_images(tmp_path, "mel/a.png", "mel/b.png")
    (tmp_path / "mel" / "a.txt").write_text("red")
    open_data(tmp_path)
    assert said[1:] == [
        f"warning: {tmp_path}: 1 images have a text file next to them; medart caption --texts "
        "sidecar uses those texts as captions"
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
    assert said[1].endswith("if the labels are patients, use --folders group_id/label")
    said.clear()
    data = open_data(tmp_path, levels=("group_id", "label"))
    assert said == [f"info: {tmp_path}: 12 images; labels: Band 6, Blast 6; 6 patients; no texts"]
    assert data[0].group_name == folders.format(0)


@pytest.mark.parametrize("tops", [("Siena", "Bern"), ("entrenamiento", "prueba"), ("k1", "k2")])
def test_folders_with_like_folders_below_are_said_and_taken_for_classes(tmp_path, said, tops):
    for top in tops:
        write_images(tmp_path, f"{top}/mel/{top}.png", f"{top}/nev/{top}.png")
    assert set(open_data(tmp_path).account.labels) == set(tops)
    assert len(said) == 2 and said[1].endswith(
        "have subfolders of the same names (mel, nev): if those are the classes, use "
        "--folders -/label, or group_id/label if patients are above them"
    )


@pytest.mark.parametrize("names", [("PAT-1", "PAT-2"), ("1.2.826.7", "1.2.826.8"),
                                   ("2021-03-01", "20220412")])  # fmt: skip
def test_folders_called_like_patients_studies_or_dates_are_said(tmp_path, said, names):
    for name in names:
        write_images(tmp_path / "alone", f"{name}/a.png")
        write_images(tmp_path / "above", f"train/{name}/mel/a.png", f"train/{name}/nev/a.png")
        write_images(tmp_path / "below", f"mel/{name}/a.png", f"nev/{name}/b.png")
    for folder, remedy in (
        (
            "alone",
            "--folders group_id, and give the classes in a table with medart caption --labels",
        ),
        ("above", "--folders split/group_id/label"),
        ("below", "--folders label/group_id"),
    ):
        open_data(tmp_path / folder)
        assert len(said) == 2 and said[1].endswith(remedy)
        said.clear()


def test_one_folder_above_all_classes_is_said(tmp_path, said):
    write_images(tmp_path, "archive/mel/a.png", "archive/nev/b.png")
    open_data(tmp_path)
    assert len(said) == 2 and "--folders -/label" in said[1]


def test_folders_of_images_and_masks_are_said(tmp_path, said):
    write_images(tmp_path, "images/a.png", "masks/a.png")
    open_data(tmp_path)
    assert len(said) == 2 and "images, masks is read as a class" in said[1]


def test_words_for_a_missing_label_or_patient_are_said(tmp_path, said):
    write_rows(tmp_path, {"file_name": "a.png", "label": "NA", "group_id": "nan"},
               {"file_name": "b.png", "label": "mel", "group_id": "7"})  # fmt: skip
    open_data(tmp_path, images=False)
    assert len(said) == 2 and ": NA, patient nan is read as" in said[1]


def test_files_that_may_be_tables_are_said_with_the_way_to_read_them(tmp_path, said):
    write_images(tmp_path, "mel/a.png")
    for name in ("labels.csv", "metadata.parquet"):
        (tmp_path / name).write_bytes(b"file_name,label\n")
    open_data(tmp_path)
    assert (
        len(said) == 2 and "2 files may be tables and are not read: .csv 1, .parquet 1" in said[1]
    )


def test_empty_texts_are_counted(tmp_path, said):
    write_rows(tmp_path, {"file_name": "a.png", "text": " "}, {"file_name": "b.png", "text": "x"})
    open_data(tmp_path, images=False)
    assert said[1] == f"warning: {tmp_path}: 1 of 2 texts are empty"
