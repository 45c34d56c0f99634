import numpy as np
import pytest
from PIL import Image

from medart_cli.data.manifest import hash_file, write_manifest
from medart_cli.evaluate import pictures
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.pictures import STRIP_COLUMNS, show_labels, show_pairs
from medart_cli.evaluate.sets import hash_sets, read_sets

LABELS = ("melanoma", "nevus")


def save_set(folder, count, **keys):
    """Save images of two labels in turn; a key is a function of an image's number."""
    folder.mkdir()
    rows = []
    for index in range(count):
        Image.new("RGB", (12, 8), (10 * len(folder.name), 9 * index, 80)).save(
            folder / f"{index}.png"
        )
        own = {name: value(index) for name, value in keys.items()}
        rows.append({"file_name": f"{index}.png", "label": LABELS[index % 2], **own})
    write_manifest(folder / "metadata.jsonl", rows)
    return folder


def read(*folders):
    real, *drawn = map(str, folders)
    config = EvaluateConfig(real=real, synthetic=drawn, out=folders[0] / "x", workers=0)
    return hash_sets(read_sets(config))[0]


@pytest.fixture
def folders(tmp_path):
    real = save_set(tmp_path / "real", 6, text=lambda i: f"Case {i} of a nevus")
    hashes = [hash_file(real / f"{index}.png") for index in range(6)]
    drawn = {
        "synthetic": lambda _: True,
        "prompt": lambda i: f"Case {5 - i} of a nevus",
        "source": lambda i: {"sha256": hashes[(i + 2) % 6]},
    }
    return [real, save_set(tmp_path / "one", 6, **drawn), save_set(tmp_path / "two", 6, **drawn)]


def test_a_real_image_stands_above_those_that_were_drawn_from_its_caption(folders):
    shown, more, sheet = show_labels(read(*folders), None)
    assert [label for label, _ in shown] == [*LABELS] and more == 0
    titles = [row.title for row in shown[0][1]]
    assert titles == [
        "real (real), whose captions were drawn below",
        "one (synthetic), 3 images",
        "two (synthetic), 3 images",
    ]
    names = [picture.caption for picture in shown[0][1][0].pictures]
    assert names == [f"melanoma: Case {i} of a nevus ({i}.png)" for i in (2, 4, 0)]
    nevus = shown[1][1][1].pictures[0]
    assert nevus.caption == "Case 4 of a nevus (1.png)"  # the caption names the label
    assert nevus.instead == "one (synthetic): Case 4 of a nevus (1.png)"
    assert sheet.size == (STRIP_COLUMNS * 114 - 2, 6 * 114 - 2)


def test_training_images_are_the_first_that_a_source_is_looked_for_in(folders, tmp_path):
    trained = read(save_set(tmp_path / "train", 8), folders[0])[0]
    real = read(*folders)
    shown, _, _ = show_labels(real, trained)
    assert shown[0][1][0].title == "real (real), whose captions were drawn below"
    shown, _, _ = show_labels([trained, *real[1:]], real[0])
    assert shown[0][1][0].title == "real (real), whose captions were drawn below"


def test_without_sources_the_real_images_of_a_label_stand_above_once(folders, tmp_path):
    drawn = save_set(tmp_path / "other", 20, synthetic=lambda _: True)
    shown, _, _ = show_labels(read(folders[0], drawn), None)
    titles = [(row.title, len(row.pictures)) for row in shown[0][1]]
    assert titles == [("real (real), 3 images", 3), ("other (synthetic), 10 images", STRIP_COLUMNS)]


def test_a_label_that_was_not_drawn_is_shown_with_its_real_images(folders, tmp_path):
    drawn = save_set(tmp_path / "other", 4, synthetic=lambda _: True, label=lambda _: "nevus")
    shown, _, _ = show_labels(read(folders[0], drawn), None)
    assert [row.title for row in dict(shown)["melanoma"]] == [
        "real (real), 3 images; no synthetic ones"
    ]


def test_a_page_of_many_labels_stays_small_enough_to_be_sent(folders, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PICTURES", 12)
    monkeypatch.setattr(pictures, "LEAST_COLUMNS", 2)
    monkeypatch.setattr(pictures, "MOST_LABELS", 1)
    shown, more, _ = show_labels(read(*folders), None)
    assert (len(shown), more) == (1, 1)
    assert all(len(row.pictures) == 3 for row in shown[0][1])


class Nearest:
    """Two pairs, the first of which is a copy."""

    def __init__(self, own, real):
        self.own, self.real, self.found = own, real, np.array([1, 0])

    def worst(self, most):
        return [0, 1][:most]

    def describe(self, row):
        return {
            "copy": row == 0, "identical": False, "score": (1.5, 0.25)[row], "space": "pixels",
            "file_name": f"{row}.png", "nearest": f"{1 - row}.png",
        }  # fmt: skip


def test_a_pair_is_one_picture_and_a_copy_has_a_frame_and_says_so(folders):
    real, drawn, _ = read(*folders)
    copy, other = show_pairs(Nearest(drawn, real))
    assert copy.warned and not other.warned
    assert copy.caption == "near-copy, 1.50 by pixels: melanoma 0.png | nevus 1.png"
    assert other.caption == "0.25 by pixels: nevus 1.png | melanoma 0.png"
    assert copy.instead == "Synthetic image 0.png beside the real image 1.png"
