"""Small inputs that failed once, with what is right; they lie beside the checkout, if anywhere."""

import shutil
from pathlib import Path

import pytest

from medart_cli.data.dataset import open_data
from medart_cli.data.images import load_image
from medart_cli.data.labels import merge_labels, read_labels
from medart_cli.data.marks import has_mark
from medart_cli.errors import ConfigError, ImageError
from medart_cli.log import log

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")


@pytest.fixture
def said(monkeypatch):
    lines = []
    for name in ("info", "warning"):
        monkeypatch.setattr(log, name, lambda text, *values: lines.append(text % values))
    return lines


def read(name, **options):
    return open_data(CASES / name, **options)


def test_training_and_testing_are_splits():
    facts = read("c01_training_testing").account.facts()
    assert facts["splits"] == {"test": 6, "train": 6}
    assert facts["labels"] == {"glioma": 6, "notumor": 6}


def test_formats_that_are_not_read_are_said(said):
    read("c03_heic")
    assert ".heic 6, .jxl 6, .mp4 6, .nii.gz 6, .svs 6" in " ".join(said)


def test_manifests_in_split_folders_are_read(said):
    data = read("c04_split_metadata")
    assert {record.split for record in data} == {"train", "test"}
    assert all(record.text.startswith("My own words") for record in data if record.text)
    assert sum(record.text is not None for record in data) >= 3


def test_metadata_csv_is_read():
    assert any(record.text == "My own words on mel 0." for record in read("c05_metadata_csv"))


def test_texts_beside_images_are_said(said):
    read("c06_sidecar_txt")
    assert "4 images have a text file beside them; medart caption --texts sidecar" in " ".join(said)


def test_labels_in_other_spellings_are_said(said):
    read("c09_case")
    assert "labels that differ in case, spaces or signs only" in " ".join(said)


def test_uids_are_each_their_own():
    rows = list(read("c11_uid_names"))
    merged, _ = merge_labels(rows, read_labels(CASES / "c11_uid.csv"))
    assert {row.file_name: row.label for row in merged} == {
        "1.2.826.7.png": "benign", "1.2.826.7.1.png": "malignant",
        "1.2.826.8.png": "benign", "1.2.826.9.png": "malignant",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["bomcrlf", "empty", "semicolon", "utf16", "winpath"])
def test_tables_are_read(name):
    merged, _ = merge_labels(list(read("c12_csv")), read_labels(CASES / f"c12_{name}.csv"))
    assert {row.label for row in merged} <= {"mel", "nev", None}
    assert merged[0].label == "mel"


def test_an_unclosed_quote_is_refused_by_its_row():
    with pytest.raises(ConfigError, match=r"c12_quote\.csv:2"):
        read_labels(CASES / "c12_quote.csv")


@pytest.mark.parametrize("path", sorted((CASES / "c20_images").glob("*")), ids=lambda it: it.name)
def test_images_whose_range_cannot_be_known_are_refused(path):
    with pytest.raises(ImageError):
        load_image(path)


def test_what_a_disk_left_is_no_class():
    facts = read("c51_usb").account.facts()
    assert facts["labels"] == {"benign": 3, "malignant": 3}
    litter = ("#recycle", "$RECYCLE.BIN", "@Recycle", "__MACOSX")
    assert {f"folders {name}" for name in litter} <= set(facts["passed_over"])


def test_empty_texts_and_labels_that_are_numbers(said):
    read("c53_empty_text")
    assert "4 of 4 texts are empty" in " ".join(said)
    assert read("c53_int_label").account.facts()["labels"] == {"0": 2, "1": 2}


def test_names_are_found_in_both_compositions(tmp_path):
    assert all(record.path.is_file() for record in read("c54_nfd_manifest"))


def test_drawn_images_are_known_by_their_files():
    files = sorted((CASES / "c44_loose_synthetic").glob("*/*.png"))
    assert files and all(has_mark(path) for path in files)


def test_patients_above_classes_are_said_and_can_be_named(said):
    read("c60_patients")
    assert "say so with --folders group_id/label" in " ".join(said)
    facts = read("c60_patients", levels=("group_id", "label")).account.facts()
    assert facts["labels"] == {"Band": 6, "Blast": 6} and facts["patients"] == 6


def test_groups_of_a_table_are_kept(tmp_path):
    folder = CASES.parent / "data" / "isic2017_dermoscopy" / "nevus"
    table = read_labels(CASES / "h_labels_group" / "t.csv")
    names = ["ISIC_0000008.jpg", "ISIC_0000019.jpg", "ISIC_0000022.jpg"]
    for name in names:
        shutil.copy(next(folder.glob("*.jpg")), tmp_path / name)
    merged, _ = merge_labels(list(open_data(tmp_path)), table)
    assert [row.group for row in merged] == ["P0", "P0", "P1"]
