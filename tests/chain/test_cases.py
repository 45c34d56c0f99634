"""Small inputs that failed once, with what is right; they lie beside the checkout, if anywhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medart_cli.caption.labels import merge_labels, read_labels
from medart_cli.data.checks import has_mark, warn_of_two_labels
from medart_cli.data.dataset import open_data
from medart_cli.data.hashes import hash_records
from medart_cli.data.images import load_image
from medart_cli.errors import ConfigError, ImageError, ManifestError
from medart_cli.sample.prompts import read_lines
from tests.jobs import build_parts

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")


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
    told = "4 images have a text file next to them; medart caption --texts sidecar"
    assert told in " ".join(said)


def test_labels_in_other_spellings_are_said(said):
    read("c09_case")
    assert "labels that differ only in case, spaces or punctuation" in " ".join(said)


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


def test_colors_of_ultrasound_in_jpeg_are_those_of_the_same_image_without():
    folder = CASES / "c30_dicom"
    colors = {
        path.stem: np.asarray(load_image(path)).reshape(-1, 3).mean(axis=0)  # red, green, blue
        for path in folder.glob("us_*.dcm")
    }
    assert len(colors) == 3
    assert all(np.abs(color - colors["us_rgb"]).max() < 1 for color in colors.values())


def test_pixels_that_are_not_square_are_stretched_and_a_window_of_nothing_is_refused():
    folder = CASES / "c30_dicom"
    assert load_image(folder / "nonsquare_aspect.dcm").size == (64, 128)  # its ratio is 2:1
    with pytest.raises(ImageError, match="a window of 59950 to 60050 that shows nothing"):
        load_image(folder / "window_all_black.dcm")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return build_parts(tmp_path_factory.mktemp("parts"))


def test_separators_inside_texts_do_not_end_a_line_at_the_first_run_nor_the_next(
    medart, parts, tmp_path
):
    quick = ("--workers", 0, "--device", "cpu", "--quiet")
    made = ("classify", CASES / "c56_two_labels", "--backbone", parts / "network", "--freeze")
    assert medart(*made, "--out", tmp_path / "clf", *quick)[0] == 0
    given = [record.fields["note"] for record in read("c41_separators")]
    assert any("\u2028" in note for note in given)
    for _ in range(2):
        code, _, errors = medart(
            "classify", CASES / "c41_separators", "--checkpoint", tmp_path / "clf",
            "--out", tmp_path / "found", *quick,
        )  # fmt: skip
        assert code == 0, errors
        lines = (tmp_path / "found" / "predictions.jsonl").read_text().split("\n")[:-1]
        assert [json.loads(line)["note"] for line in lines] == given


def test_names_with_brackets_are_printed_as_they_are(medart, parts, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    sets = []
    for name in ("c42_brackets", "c42_brackets_syn"):
        shutil.copytree(CASES / name, tmp_path / name)
        rows = [{"file_name": record.file_name, "label": record.label} for record in read(name)]
        rows[0]["label"] = rows[1]["label"] = "[/II]"  # no folder can be called so
        (tmp_path / name / "metadata.jsonl").write_text(
            "".join(json.dumps(it) + "\n" for it in rows)
        )
        sets.append(tmp_path / name)
    code, _, errors = medart(
        "evaluate", *sets, "--features", parts / "network", "--workers", 0, "--bootstrap", 20,
        "--floor-repeats", 2, "--no-copies", "--device", "cpu", "--out", tmp_path / "report",
    )  # fmt: skip
    assert code == 0, errors
    for label in ("nevus [benign]", "lesion [", "odd [x] end", "[/II]"):
        assert f": {label} " in errors, label


def test_drawn_images_among_real_ones_are_refused(medart, tmp_path):
    code, _, errors = medart(
        "classify", CASES / "c44_loose_synthetic", "--out", tmp_path / "clf", "--quiet"
    )
    assert code == 2
    assert "000000.png: a synthetic image in the training images (its file says so)" in errors


def test_a_text_under_caption_is_refused_with_the_right_key():
    with pytest.raises(ManifestError, match="caption must be dict, .*; a text belongs under the k"):
        read("c53_caption_column")


def test_files_under_two_labels_are_said(said):
    rows, _ = hash_records(read("c56_two_labels"), None)
    assert warn_of_two_labels(rows) == 3
    assert "3 files have two labels, such as mel/im0.png (mel) and nev/copy0.png" in said[-1]


def test_the_mark_before_prompts_is_no_part_of_the_first():
    prompts = read_lines(str(CASES / "c57_prompts_bom.txt"))
    assert prompts == ["A dermoscopic image of nevus", "A dermoscopic image of melanoma"]


def test_captions_that_the_text_encoder_cannot_tell_apart_are_said(medart, small_base, tmp_path):
    code, _, errors = medart(
        "finetune", CASES / "c58_chinese", "--base", small_base, "--out", tmp_path / "run",
        "--resolution", 16, "--steps", 1, "--hldf-every", 0, "--preview-every", 0, "--quiet",
    )  # fmt: skip
    assert code == 0, errors
    assert "captions of the labels 色素痣 and 黑色素瘤 are the same tokens" in errors
    assert "Glyph" not in errors


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
    assert "use --folders group_id/label" in " ".join(said)
    facts = read("c60_patients", levels=("group_id", "label")).account.facts()
    assert facts["labels"] == {"Band": 6, "Blast": 6} and facts["patients"] == 6


def test_groups_of_a_table_are_kept(tmp_path):
    folder = CASES.parent / "data" / "isic2017_dermoscopy" / "nevus"
    table = read_labels(CASES / "h_labels_group" / "t.csv")
    names = ["ISIC_0000008.jpg", "ISIC_0000019.jpg", "ISIC_0000022.jpg"]
    for name in names:
        shutil.copy(next(folder.glob("*.jpg")), tmp_path / name)
    merged, _ = merge_labels(list(open_data(tmp_path)), table)
    assert [row.group_name for row in merged] == ["P0", "P0", "P1"]
