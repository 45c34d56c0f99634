"""Training with --buckets: shapes, order, resume, and what is said of the images."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from medart_cli.finetune import batches
from medart_cli.finetune import train as training
from medart_cli.models import pixart
from tests.finetune.test_run import assert_same_weights, metrics

SHORT = ("--steps", 4, "--resolution", 16, "--preview-every", 0, "--device", "cpu")
# Width and height of images, and the buckets (height, width) of 16 x 16 pixels in steps of 4.
SHAPES = {(40, 30): (12, 20), (30, 40): (20, 12), (32, 32): (16, 16), (60, 20): (8, 24)}
HLDF = ("--hldf-every", 2, "--hldf-steps", 2, "--hldf-draws", 2, "--caption-dropout", 0.3)


def save_images(folder, sizes):
    generator = np.random.default_rng(0)
    for index, (width, height) in enumerate(sizes):
        label = ("melanoma", "nevus")[index % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        pixels = generator.normal((200, 120, 110), 30, (height, width, 3)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Twelve images of four shapes: five, four, two and one."""
    sizes = [size for size, count in zip(SHAPES, (5, 4, 2, 1), strict=True) for _ in range(count)]
    return save_images(tmp_path_factory.mktemp("mixed") / "images", sizes)


@pytest.fixture
def finetune(medart, small_base, mixed, tmp_path):
    def run(*options, out="run", data=mixed, code=0):
        ended, _, errors = medart(
            "finetune", data, "--base", small_base, "--out", tmp_path / out, *SHORT, *options
        )
        assert ended == code, errors
        return tmp_path / out, errors

    return run


@pytest.fixture
def seen(monkeypatch):
    """Collect the shapes of latents that each batch has, and that the color loss draws."""
    found = {"batches": [], "drawn": []}
    draw, tell = batches.draw_batch, training.color_statistics

    def draw_batch(*arguments):
        batch = draw(*arguments)
        found["batches"].append((tuple(batch.noisy.shape), batch.positions))
        return batch

    def color_statistics(images, *more):
        found["drawn"].append(tuple(images.shape[2:]))
        return tell(images, *more)

    monkeypatch.setattr(batches, "draw_batch", draw_batch)
    monkeypatch.setattr(training, "color_statistics", color_statistics)
    return found


def test_each_batch_has_one_shape_and_hldf_draws_at_it(finetune, seen):
    run, errors = finetune("--buckets", "--batch-size", 2, "--steps", 8, *HLDF)
    facts = json.loads((run / "run.json").read_text())["buckets"]
    assert facts["unit"] == 4
    assert facts["images"] == {"12x20": 5, "20x12": 4, "16x16": 2, "8x24": 1}
    assert "buckets: 4, height x width (images): 12x20 (5), 20x12 (4)" in errors
    assert "1 images are in buckets of fewer images than a batch has (2)" in errors
    shapes = [shape for shape, _ in seen["batches"]]
    assert {(2 * height, 2 * width) for _, _, height, width in shapes} >= {(12, 20), (20, 12)}
    assert all(shape[:2] == (2, 4) for shape in shapes)
    due = shapes[1::2]  # of the steps with a color loss
    assert len({*due}) > 1
    drawn = {(2 * height, 2 * width) for _, _, height, width in due}
    assert {*seen["drawn"]} == drawn


def test_in_an_epoch_each_row_is_trained_on_once(finetune, seen):
    finetune("--buckets", "--steps", 12, "--hldf-every", 0)
    assert [positions for _, positions in seen["batches"]] == [[number] for number in range(12)]
    assert Counter(shape[2:] for shape, _ in seen["batches"]) == {
        (6, 10): 5, (10, 6): 4, (8, 8): 2, (4, 12): 1,
    }  # fmt: skip


def test_square_images_are_trained_on_as_without_buckets_to_the_bit(finetune, tmp_path):
    data = save_images(tmp_path / "even", [(32, 32)] * 6)
    options = ("--batch-size", 2, *HLDF, "--flip")
    plain, told = finetune(*options, data=data)
    buckets, _ = finetune(*options, "--buckets", data=data, out="buckets")
    assert_same_weights(plain, buckets)
    assert "not square" not in told


@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(finetune, crop):
    options = ("--buckets", "--crop", crop, "--batch-size", 2, "--accumulate", 2, *HLDF, "--flip",
               "--balance", "--ema", 0.9)  # fmt: skip
    whole, _ = finetune(*options)
    finetune(*options, "--steps", 1, out="parts")
    parts, _ = finetune(*options, out="parts")
    assert_same_weights(whole, parts)
    losses = [[row["loss"] for row in metrics(run)] for run in (whole, parts)]
    assert losses[0] == losses[1]


def test_the_cache_changes_nothing(finetune, tmp_path):
    options = ("--buckets", "--batch-size", 2, *HLDF, "--flip")
    cached, _ = finetune(*options, "--cache", tmp_path / "cache")
    again, _ = finetune(*options, "--cache", tmp_path / "cache", out="again")  # shapes from it
    plain, _ = finetune(*options, "--no-cache", out="plain")
    assert_same_weights(cached, again)
    assert_same_weights(cached, plain)
    shapes = Counter()
    for path in (tmp_path / "cache/latents").rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            shapes[tuple(file.get_slice("mean").get_shape())] += 1
    assert shapes == {(4, 6, 10): 10, (4, 10, 6): 8, (4, 8, 8): 4, (4, 4, 12): 2}  # both flips


def test_the_margin_is_cut_or_padded_as_crop_says(finetune, monkeypatch, mixed):
    given = {}
    encode = pixart.FAMILY.encode_images

    def encode_images(vae, images):
        given.setdefault(tuple(images.shape[2:]), images[0])
        return encode(vae, images)

    object.__setattr__(pixart.FAMILY, "encode_images", encode_images)
    try:
        for crop, black in (("center", False), ("pad", True)):
            given.clear()
            options = ("--buckets", "--hldf-every", 0, "--no-cache", "--steps", 12)
            finetune(*options, "--crop", crop, out=crop)
            edges = torch.cat([given[12, 20][:, :, 0], given[12, 20][:, :, -1]])
            assert {*SHAPES.values()} == {*given}
            assert bool((edges == -1).all()) == black
    finally:
        object.__setattr__(pixart.FAMILY, "encode_images", encode)


def test_previews_and_held_out_images_have_their_shapes(finetune, mixed):
    run, errors = finetune("--buckets", "--preview-every", 4, "--hldf-every", 0, "--batch-size", 4,
                           "--val-fraction", 0.3, "--preview-count", 2)  # fmt: skip
    assert "held-out loss: of" in errors
    facts = json.loads((run / "run.json").read_text())
    assert facts["figures"]["heldout"]["images"] > 1
    assert Image.open(run / "previews/step-000004.png").size != (2 * 16 + 2, 16)


def test_other_buckets_are_another_run(finetune):
    finetune("--hldf-every", 0)
    _, errors = finetune("--hldf-every", 0, "--buckets", code=2)
    assert "buckets was False and is now True" in errors


@pytest.mark.parametrize(
    ("sizes", "options", "told"),
    [
        ([(40, 30)] * 3, (), "--crop center cuts away 25 % of them on average; with --buckets"),
        ([(40, 30)] * 3, ("--crop", "pad"), "25 % of what is trained on is black padding"),
        ([(40, 38)] * 3, (), None),
        ([(40, 40)] * 3, ("--buckets",), None),
        ([(200, 30)] * 3, ("--buckets",), "3 of 3 images are longer than 4 to 1, the longest"),
        ([(200, 30)] * 3, ("--buckets", "--crop", "pad"), None),
    ],
)
def test_what_is_cut_away_is_said(finetune, tmp_path, sizes, options, told):
    data = save_images(tmp_path / "images", sizes)
    _, errors = finetune("--hldf-every", 0, "--steps", 1, *options, data=data)
    lines = [line for line in errors.splitlines() if line.startswith("warning")]
    lines = [line for line in lines if "square" in line or "longer" in line or "padding" in line]
    assert len(lines) == bool(told)
    assert (told or "") in "".join(lines)
