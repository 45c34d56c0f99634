"""What one command passes on to the next: where a synthetic image is from, and what was read."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from medart_cli.data.manifest import hash_file, read_manifest

QUICK = ("--steps", 2, "--batch-size", 8)


@pytest.fixture
def images(tmp_path):
    """Eight images of two classes and four patients, of which one is for testing."""
    generator = np.random.default_rng(0)
    lines = []
    (tmp_path / "images").mkdir()
    for index in range(8):
        pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        lines.append({
            "file_name": f"{index}.png", "label": ("ill", "well")[index % 2],
            "text": f"caption {index}", "group_id": index // 2, "site": "arm",
            "split": "test" if index // 2 == 3 else "train",
        })  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "images" / "metadata.jsonl").write_text(text)
    return tmp_path / "images"


def run(medart, command, *options, code=0):
    ended, output, errors = medart(command, *options, "--json")
    assert ended == code, errors
    return json.loads(output) if ended == 0 else errors


def test_captions_of_test_images_are_not_drawn_and_where_they_are_classify_leaves_them_out(
    medart, small_base, images, tmp_path
):
    first = run(medart, "sample", small_base, "--from", images, "--out", tmp_path / "syn", *QUICK)
    assert first["images"] == 6 and first["inputs"][0]["splits"] == {"test": 2, "train": 6}
    for record in read_manifest(tmp_path / "syn" / "metadata.jsonl"):
        name = record.source["image"]
        assert record.text == f"caption {name[0]}" and record.split is None
        assert record.source == {
            "image": name, "sha256": hash_file(images / name), "split": "train",
            "group_id": str(int(name[0]) // 2),
        }  # fmt: skip
        assert "source" not in json.loads(Image.open(record.path).text["medart"])

    named = ("--from", images, "--split", "train", "--split", "test")
    second = run(medart, "sample", small_base, *named, "--out", tmp_path / "all", *QUICK)
    assert second["images"] == 8
    options = ("--freeze", "--bootstrap", 100, "--out", tmp_path / "clf")
    found = run(medart, "classify", images, "--synthetic", tmp_path / "all", *options)
    sets = json.loads((tmp_path / "clf" / "metrics.json").read_text())["sets"]
    assert (sets["synthetic"]["images"], sets["test"]["patients"]) == (6, 1)
    assert [item["patients"] for item in found["inputs"]] == [4, None]


def test_more_images_go_on_and_other_prompts_are_refused(medart, small_base, images, tmp_path):
    common = ("sample", small_base, "--from", images, "--out", tmp_path / "syn", *QUICK)
    assert run(medart, *common, "--count", 4)["drawn"] == 4
    before = (tmp_path / "syn" / "000003.png").read_bytes()
    assert run(medart, *common, "--count", 6)["drawn"] == 2
    assert (tmp_path / "syn" / "000003.png").read_bytes() == before
    assert len((tmp_path / "syn" / "metadata.jsonl").read_text().splitlines()) == 6
    assert "it has image 5, of 4" in run(medart, *common, "--count", 4, code=2)
    text = (images / "metadata.jsonl").read_text().replace("caption ", "another ")
    (images / "metadata.jsonl").write_text(text)
    assert "was written with other prompts" in run(medart, *common, "--count", 6, code=2)


def test_a_drawn_manifest_is_never_read_from_the_folder_of_the_real_images(
    medart, small_base, images, tmp_path
):
    run(medart, "sample", small_base, "--from", images, "--out", tmp_path / "syn", *QUICK)
    (tmp_path / "lists").mkdir()
    shutil.move(images / "metadata.jsonl", tmp_path / "lists" / "real.jsonl")
    for index in range(8):  # the same names as those of the drawn images
        shutil.copy(images / f"{index}.png", images / f"{index:06d}.png")
    out = tmp_path / "report"
    options = ("--bootstrap", 0, "--no-copies", "--features", "efficientnet-lite0", "--out", out)
    real = (tmp_path / "lists" / "real.jsonl", tmp_path / "syn", "--root", images)
    run(medart, "evaluate", *real, *options)
    facts = json.loads((out / "metrics.json").read_text())
    whole = next(item for item in facts["comparisons"] if item["label"] is None)
    assert whole["frechet"]["value"] > 1  # of the real images with themselves it is near 0
    page = (out / "report.html").read_text()
    assert ">Input data</h2>" in page and "unknown" in page
