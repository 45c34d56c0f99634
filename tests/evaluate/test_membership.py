import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medart_cli.data.manifest import Record
from medart_cli.diffusion.process import Times
from medart_cli.evaluate.membership import (
    find_times,
    measure_losses,
    measure_membership,
    read_posteriors,
    tell_membership,
    word_alike,
)
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import hash_sets, read_sets
from medart_cli.evaluate.training import TrainedRun

WORDING = {"simple": "A photo of {label}", "unlabeled": "A photo", "classes": {"a": "an ant"}}
BY_MODEL = {"model": "m", "profile": "p", "status": "ok"}


def record(text=None, **fields):
    return Record({"file_name": "x.png", "label": "a", "text": text} | fields, Path(), "m:1")


def build_run(base, folder=None, **facts):
    facts = {"resolution": 16, "settings": {}, "wording": WORDING, "base_hashes": {}} | facts
    return TrainedRun(folder or base, facts, base, "mark", None)


@pytest.mark.parametrize(
    ("ours", "others", "kind"),
    [
        ([record("t"), record("u")], [record("v")], "own"),
        ([record("t"), record("u")], [record(None)], "template"),
        ([record("t", caption=BY_MODEL)], [record("v")], "template"),
        ([record("t", caption=BY_MODEL)], [record("v", caption=BY_MODEL | {"seed": 3})], "own"),
        (
            [record("t", caption=BY_MODEL), record("A photo", caption={"status": "simple"})],
            [record("v", caption=BY_MODEL)],
            "own",
        ),
        ([record("A", caption={"status": "simple"})], [record("v", caption=BY_MODEL)], "template"),
        ([record("t", caption=BY_MODEL)], [record("v", caption=BY_MODEL | {"model": "n"})],
         "template"),
    ],
)  # fmt: skip
def test_captions_are_of_one_kind_on_both_sides(ours, others, kind):
    texts, found = word_alike(build_run(Path()), (ours, others))
    assert found == kind
    rows = [*ours, *others]
    assert texts == (
        [it.text for it in rows] if kind == "own" else ["A photo of an ant"] * len(rows)
    )


def test_times_are_drawn_as_the_run_drew_them(small_base):
    assert find_times(build_run(small_base), None, 8) == Times("uniform")
    told = {"timesteps": "logit-normal", "timestep_shift": 2.0}
    assert find_times(build_run(small_base, settings=told), None, 8) == Times("logit-normal", 2.0)


@pytest.fixture
def rows(tmp_path):
    random = np.random.default_rng(0)
    for i in range(4):
        pixels = random.integers(0, 255, (16, 26, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return [Record({"file_name": f"{i}.png"}, tmp_path, "m:1") for i in range(4)]


def build_config(**options):
    return EvaluateConfig(real="real", synthetic=["syn"], out=Path("out"), device="cpu", **options)


def test_the_loss_of_an_image_does_not_depend_on_its_batch_and_a_run_of_no_change_gains_nothing(
    small_base, rows
):
    texts = ["a red lesion", "a nevus", "a", "a nevus"]
    run = build_run(small_base)
    found = measure_losses(build_config(batch_size=32), run, rows, texts)
    assert found.shape == (2, 4) and found.dtype == torch.float64
    assert torch.equal(found[0], found[1]) and len({*found[0].tolist()}) == 4
    small = measure_losses(build_config(batch_size=1), run, rows, texts)
    torch.testing.assert_close(small, found, rtol=1e-4, atol=0)
    same = measure_losses(build_config(), run, [rows[0]] * 2, ["a", "a"])
    assert same[0, 0].item() == pytest.approx(same[0, 1].item(), rel=1e-5)  # the same noises
    other = measure_losses(build_config(seed=1), run, rows, texts)
    assert not torch.allclose(other, found, rtol=1e-4)
    half = measure_losses(build_config(precision="bf16"), run, rows, texts)
    assert not torch.equal(half, found)
    torch.testing.assert_close(half, found, rtol=0.1, atol=0)


def test_the_losses_are_the_same_wherever_the_text_encoder_waits(small_base, rows, fetched):
    texts, run = ["a red lesion", "a nevus"], build_run(small_base)
    found = measure_losses(build_config(), run, rows[:2], texts)
    for value in ("text-encoder-layers", "text-encoder"):
        moved = measure_losses(build_config(offload=value, run="run"), run, rows[:2], texts)
        assert torch.equal(moved, found)
    assert fetched == ["T5EncoderModel"] * 2  # that of the base, and that of the run


def test_a_run_with_buckets_is_asked_at_their_shapes(small_base, rows):
    Image.open(rows[1].path).rotate(90, expand=True).save(rows[1].path)
    texts = ["a red lesion", "a nevus", "a", "a nevus"]
    plain = build_run(small_base)
    run = build_run(small_base, buckets={"unit": 4, "largest_loss": 0.2, "images": {}})
    posteriors, scale = read_posteriors(run, rows, torch.device("cpu"))
    shapes = [tuple(scale * side for side in it["mean"].shape[1:]) for it in posteriors]
    assert shapes == [(12, 20), (20, 12), (12, 20), (12, 20)]
    found = measure_losses(build_config(batch_size=3), run, rows, texts)
    alone = measure_losses(build_config(batch_size=1), run, rows, texts)
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=0)
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found, measure_losses(build_config(), plain, rows, texts), rtol=1e-4)


def save_set(folder, count, **fields):
    folder.mkdir()
    random = np.random.default_rng(len(folder.name))
    lines = []
    for i in range(count):
        pixels = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        own = {key: it[i] if isinstance(it, list) else it for key, it in fields.items()}
        lines.append(json.dumps({"file_name": f"{i}.png"} | own))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def measure(tmp_path, base, real, training):
    names = [save_set(tmp_path / "real", 6, **real), save_set(tmp_path / "training", 6, **training)]
    config = EvaluateConfig(
        real=names[0], synthetic=[save_set(tmp_path / "s", 2)], training=names[1], run="run",
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    from medart_cli.evaluate.training import place_training

    run = build_run(base)
    sets, _ = hash_sets(read_sets(config, place_training(config, run)))
    return measure_membership(config, sets, run)


def test_patients_of_the_training_images_and_labels_of_one_side_are_left_out(tmp_path, small_base):
    real = {"group_id": ["P1", *"abcde"], "label": [*"aaaabc"]}
    found = measure(
        tmp_path, small_base, real, {"group_id": [*"uvwxy", "p1"], "label": [*"aaabbd"]}
    )
    assert found["heldout"]["labels"] == {"a": 3, "b": 1}
    assert found["training"]["labels"] == {"a": 3, "b": 1}
    assert found["auc"] == 0.5 and not found["shown"] and found["captions"] == "template"


def test_where_nothing_can_be_compared_that_is_said(tmp_path, small_base):
    found = measure(tmp_path, small_base, {"label": "a"}, {"label": "b"})
    assert found["auc"] is None and found["training"]["n"] == 0
    (line,) = tell_membership(found)
    assert line.startswith("membership: cannot be tested: training and real have too few images")


def test_without_a_run_nothing_is_tested_or_said():
    assert measure_membership(build_config(), [], None) is None
    assert tell_membership(None) == []


SIDE = {"set": "x", "n": 120, "patients": 110}
RECOGNIZED = {"share": 0.25, "interval": [0.2, 0.3], "false_rate": 1 / 111}


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        ({"shown": True}, "the weights tell which images they were trained on (AUC 0.80, 95% inter",
         "at 0.9% false alarms 25.0% (95% interval 20.0 to 30.0%) of the training images are rec"),
        ({"recognized": None}, "not shown that the weights tell", "how many are recognized at 1% "),
        ({}, "An AUC up to 0.90 is not ruled out. Stronger tests", "at 0.9% false alarms 25.0%"),
        ({"interval": None}, "(AUC 0.80; .5 is guessing; p = 0.2; 120 images of 110 patients of x",
         "at 0.9% false alarms"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_it_means_for_sharing(change, first, second):
    found = {"reason": None, "auc": 0.8, "interval": [0.7, 0.9], "p_value": 0.2, "shown": False,
             "recognized": RECOGNIZED, "training": SIDE, "heldout": SIDE} | change  # fmt: skip
    lines = tell_membership(found)
    assert first in lines[0] and second in lines[1] and len(lines) == 2
