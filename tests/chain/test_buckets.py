"""Images that are not square, from finetune to classify: their shape is kept all the way."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from medart_cli.data.dataset import read_data
from medart_cli.data.images import fit_image, load_image

REAL = Path(__file__).parents[3] / "shared/data/isic2017_dermoscopy"
SIZES = [(160, 120), (120, 160), (160, 120), (128, 128)]  # what is cut out of each


def cut_images(folder, start):
    """Save sixteen images of two classes and three shapes: real ones where they are, else noise."""
    generator = np.random.default_rng(start)
    for label in ("melanoma", "nevus"):
        (folder / label).mkdir(parents=True)
        files = sorted((REAL / label).glob("*.jpg")) if REAL.is_dir() else []
        for index in range(8):
            width, height = SIZES[index % 4]
            if files:
                image = load_image(files[start + index]).crop((40, 40, 40 + width, 40 + height))
            else:
                pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
                image = Image.fromarray(pixels)
            image.save(folder / label / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return cut_images(tmp_path_factory.mktemp("photos") / "images", 0)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return cut_images(tmp_path_factory.mktemp("others") / "others", 8)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("network")
    model = timm.create_model(
        "test_resnet", num_classes=2, pretrained_cfg_overlay={"input_size": (3, 32, 32)}
    )
    save_for_hf(model, folder, safe_serialization=True)
    return folder


@pytest.fixture
def evaluate(medart, network, tmp_path):
    def run(real, synthetic, *options):
        code, _, errors = medart(
            "evaluate", real, synthetic, "--features", network, "--workers", 0, "--bootstrap", 0,
            "--floor-repeats", 2, "--device", "cpu", "--out", tmp_path / "report", "--overwrite",
            *options,
        )  # fmt: skip
        assert code == 0, errors
        return json.loads((tmp_path / "report/metrics.json").read_text()), errors

    return run


def test_images_keep_their_shape_from_finetune_to_classify(
    medart, small_base, photos, others, network, evaluate, tmp_path
):
    run, syn = tmp_path / "run", tmp_path / "syn"
    commands = [
        ("finetune", photos, "--base", small_base, "--out", run, "--resolution", 32, "--steps", 4,
         "--buckets", "--batch-size", 2, "--hldf-every", 2, "--hldf-steps", 2, "--flip",
         "--val-fraction", 0.3, "--preview-every", 0),
        ("sample", run, "--from", photos, "--out", syn, "--steps", 2),
        ("classify", photos, "--synthetic", syn, "--test", others, "--backbone", network,
         "--freeze", "--bootstrap", 100, "--out", tmp_path / "clf"),
    ]  # fmt: skip
    for words in commands:
        code, _, errors = medart(*words, "--device", "cpu", "--quiet")
        assert code == 0, errors
        assert "not square" not in errors
    for record in read_data(syn):
        width, height = Image.open(record.path).size
        own = Image.open(photos / record.fields["source"]["image"]).size
        assert abs(np.log(width / height / (own[0] / own[1]))) < 0.15, own
    shapes = Counter(Image.open(record.path).size for record in read_data(syn))
    assert len(shapes) == 3
    facts, errors = evaluate(others, syn, "--run", run)
    assert "other shapes" not in errors
    assert facts["membership"]["training"]["n"] > 1
    assert facts["membership"]["losses"]["training"]["run"] > 0


def test_real_and_synthetic_images_of_one_shape_are_shown_alike_and_squares_are_said(
    photos, evaluate, tmp_path
):
    """The same pixels on both sides are no distance apart; cut to squares they are."""
    rows = {"whole": [], "square": []}
    for number, record in enumerate(read_data(photos)):
        for name, lines in rows.items():
            image = load_image(record.path)
            image = fit_image(image, min(image.size)) if name == "square" else image
            (tmp_path / name).mkdir(exist_ok=True)
            image.save(tmp_path / name / f"{number}.png", compress_level=1)  # other bytes
            line = {"file_name": f"{number}.png", "label": record.label, "synthetic": True}
            lines.append(json.dumps(line) + "\n")
    found = {}
    for name, lines in rows.items():
        (tmp_path / name / "metadata.jsonl").write_text("".join(lines))
        facts, errors = evaluate(photos, tmp_path / name, "--no-copies")
        assert ("other shapes" in errors) == (name == "square")
        found[name] = facts["comparisons"][0]["frechet"]["value"]
    assert abs(found["whole"]) < 1e-6 < found["square"]
