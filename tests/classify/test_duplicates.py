import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from medart_cli.classify.duplicates import drop_same
from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.results import tell_duplicates
from medart_cli.classify.sets import read_sets
from medart_cli.errors import ManifestError


def draw_set(folder, count, *, seed, **fields):
    folder.mkdir()
    random = np.random.default_rng(seed)
    lines = []
    for index in range(count):
        pixels = random.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"{index}.png")
        row = {"file_name": f"{index}.png", "label": ("ill", "well")[index % 2], **fields}
        lines.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def put(source, target, change=lambda image: image):
    change(Image.open(source)).save(target)


@pytest.fixture
def sets(tmp_path):
    train, test = draw_set(tmp_path / "train", 12, seed=1), draw_set(tmp_path / "test", 8, seed=2)
    return train, test, draw_set(tmp_path / "syn", 6, seed=3, synthetic=True)


def search(tmp_path, sets, *, cached=True, **options):
    config = ClassifyConfig(
        data=str(sets[0]), test=str(sets[1]), synthetic=str(sets[2]), out=tmp_path / "out",
        workers=0, device="cpu", cache=tmp_path / "cache", **options,
    )  # fmt: skip
    return drop_same(config, read_sets(config), tmp_path / "cache" if cached else None)


def test_images_that_show_a_test_image_in_other_bytes_are_dropped_and_listed(
    tmp_path, sets, caplog
):
    train, test, synthetic = sets
    put(test / "3.png", train / "4.png", lambda image: image.resize((50, 50)))
    put(test / "2.png", synthetic / "1.png", ImageOps.mirror)
    with caplog.at_level("WARNING", "medart"):
        found, pairs = search(tmp_path, sets)
    assert found.checks["near_duplicates_dropped"] == {"train": 1, "synthetic": 1}
    assert "4.png" not in [record.file_name for record in found.rows["train"]]
    assert len(found.rows["synthetic"]) == 5 and len(found.rows["test"]) == 8
    assert [(pair["set"], pair["file_name"], pair["same"], pair["dropped"]) for pair in pairs] == [
        ("train", "4.png", "3.png", True),
        ("synthetic", "1.png", "2.png", True),
    ]
    assert "1 images of the train set show the same picture as a test image" in caplog.text
    assert len(tell_duplicates(found.checks)) == 2


def test_without_a_cache_the_same_is_found(tmp_path, sets):
    put(sets[1] / "3.png", sets[0] / "4.png", lambda image: image.resize((50, 50)))
    (sets[0] / "6.png").write_bytes(b"no image")
    found = [search(tmp_path, sets, cached=cached) for cached in (True, False)]
    assert found[0][1] == found[1][1] != [] and found[0][0].checks == found[1][0].checks


def test_they_are_refused_where_that_is_asked_for(tmp_path, sets):
    put(sets[1] / "3.png", sets[0] / "4.png", lambda image: image.resize((50, 50)))
    with pytest.raises(ManifestError, match=r"jsonl:5: shows the same picture as 3\.png of the te"):
        search(tmp_path, sets, duplicates="refuse")


def test_one_picture_under_two_labels_and_repeats_are_said_and_kept(tmp_path, sets, caplog):
    train, test, _ = sets
    put(train / "0.png", train / "5.png", lambda image: image.resize((50, 50)))
    put(test / "0.png", test / "2.png", ImageOps.mirror)
    with caplog.at_level("WARNING", "medart"):
        found, pairs = search(tmp_path, sets)
    assert [len(found.rows[name]) for name in ("train", "test")] == [12, 8]
    assert found.checks["repeats"] == {
        "train": {"images": 1, "two_labels": 1}, "test": {"images": 1, "two_labels": 0},
    }  # fmt: skip
    assert "as 0.png (ill) and 5.png (well); keep one" in caplog.text
    assert "1 of 8 images of the test set show the same picture as another one" in caplog.text
    assert [pair["dropped"] for pair in pairs] == [False, False]


def test_unlike_and_unreadable_images_are_left_as_they_are(tmp_path, sets):
    (sets[0] / "6.png").write_bytes(b"no image")
    shutil.copy(sets[0] / "6.png", sets[1] / "6.png")
    (sets[1] / "6.png").write_bytes(b"nor this")
    found, pairs = search(tmp_path, sets)
    assert pairs == [] and tell_duplicates(found.checks) == []
    assert [len(found.rows[name]) for name in ("train", "test")] == [12, 8]
