"""What goes in stays what was meant, from the first command to the last."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

LABELS = ("ill", "well")
EMBEDDED = ("--features", "efficientnet-lite0")
QUICK = ("--bootstrap", 0, "--no-copies")


def save_images(folder, count, seed=0):
    generator = np.random.default_rng(seed)
    for index in range(count):
        path = folder / LABELS[index % 2] / f"{seed}-{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def run(medart):
    def call(*words, code=0):
        ended, output, errors = medart(*words, "--json")
        assert ended == code, errors
        return json.loads(output) if code == 0 else errors

    return call


def test_what_medart_writes_into_the_image_folder_never_becomes_data(
    run, small_base, tmp_path, monkeypatch
):
    monkeypatch.chdir(save_images(tmp_path / "images", 8))
    train = ("--base", small_base, "--resolution", 16, "--steps", 1, "--hldf-every", 0,
             "--preview-every", 1, "--preview-count", 2)  # fmt: skip
    first = run("finetune", ".", *train, "--out", "run")
    run("sample", "run", "--from", ".", "--steps", 2, "--out", "synthetic")
    found = run("evaluate", ".", "synthetic", *EMBEDDED, *QUICK, "--out", "report")
    again = run("finetune", ".", *train, "--out", "run2")
    assert found["n_real"] == 8 and found["inputs"][0]["labels"] == {"ill": 4, "well": 4}
    assert first["data"] == again["data"]
    passed = again["inputs"][0]["passed_over"]
    assert {name.split(", written by ")[0] for name in passed} == {"report", "run", "synthetic"}


def test_a_drawn_image_that_has_left_its_manifest_is_refused_where_real_ones_are_expected(
    run, small_base, tmp_path
):
    images = save_images(tmp_path / "images", 8)
    run("sample", small_base, "--from", images, "--steps", 2, "--out", tmp_path / "syn")
    shutil.copy(tmp_path / "syn" / "000000.png", images / "ill" / "mine.png")
    train = ("--base", small_base, "--resolution", 16, "--steps", 1, "--hldf-every", 0)
    for command in (
        ("finetune", images, *train, "--out", tmp_path / "run"),
        ("evaluate", images, tmp_path / "syn", *EMBEDDED, *QUICK, "--out", tmp_path / "report"),
        ("classify", images, "--freeze", "--out", tmp_path / "clf"),
    ):
        errors = run(*command, code=2)
        assert "ill/mine.png: a synthetic image in" in errors and "its file says so" in errors
        assert errors.count("\n") <= 2  # what was read, and why it is refused
        run(*command, "--allow-synthetic")


def test_patients_of_a_table_keep_a_classifier_from_being_tested_on_them(run, tmp_path):
    images = save_images(tmp_path / "images", 24)
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    rows = [f"{name},{0 if place == 0 else place // 4},x" for place, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("file_name,group_id,ward\n" + "\n".join(rows) + "\n")
    run("caption", images, "--style", "simple", "--labels", tmp_path / "t.csv")
    found = run("classify", images, "--freeze", "--out", tmp_path / "clf")
    assert found["checks"]["split_by"] == "groups" and found["inputs"][0]["patients"] == 6
    sets = json.loads((tmp_path / "clf" / "metrics.json").read_text())["sets"]
    assert sets["train"]["patients"] + sets["test"]["patients"] == 6
    split = [json.loads(line) for line in (tmp_path / "clf" / "split.jsonl").open()]
    sides = [{row["group_id"] for row in split if row["set"] == name} for name in ("train", "test")]
    assert not sides[0] & sides[1]


def test_a_corrected_caption_is_what_is_trained_on_and_drawn(run, small_base, tmp_path):
    images = save_images(tmp_path / "images", 4)
    run("caption", images, "--style", "simple")
    manifest = images / "metadata.jsonl"
    rows = [json.loads(line) for line in manifest.open()]
    rows[1]["text"] = "A spot that I describe"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("caption", images, "--style", "simple")["statuses"]["edited"] == 1
    again = ("--style", "simple", "--profile", "dermoscopy", "--recaption", "all")
    assert run("caption", images, *again)["statuses"] == {
        "ok": 0, "shortened": 0, "simple": 3, "rejected": 0, "edited": 1, "accepted": 0,
        "kept": 0, "none": 0,
    }  # fmt: skip
    run("sample", small_base, "--from", images, "--steps", 2, "--out", tmp_path / "syn")
    texts = [json.loads(line)["text"] for line in (tmp_path / "syn" / "metadata.jsonl").open()]
    assert texts[1] == "A spot that I describe"
    assert [text.startswith("A dermoscopic image") for text in texts] == [True, False, True, True]
