"""From what a run trains on to what its report says of it: finetune, sample, evaluate --run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from medart_cli.data.manifest import hash_file

SHORT = ("--preview-every", 0, "--hldf-every", 0, "--device", "cpu", "--resolution", 16, "--quiet")


def save_images(folder, seeds, **fields):
    folder.mkdir()
    lines = []
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC)
        image.save(folder / f"{seed}.png")
        lines.append({"file_name": f"{seed}.png", "group_id": f"P{seed}", "label": "ab"[seed % 2],
                      "text": f"a {'ab'[seed % 2]} lesion"} | fields)  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Training images, others, and a small feature network."""
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path / "images", range(12))
    save_images(tmp_path / "others", range(100, 112))
    torch.manual_seed(0)
    small = {"input_size": (3, 32, 32)}
    model = timm.create_model("test_resnet", num_classes=2, pretrained_cfg_overlay=small)
    save_for_hf(model, tmp_path / "clf", safe_serialization=True)
    return tmp_path


@pytest.fixture
def train(medart, small_base, work):
    def run(*options):
        for words in (
            ("finetune", work / "images", "--base", small_base, "--out", work / "run", *SHORT,
             *options),
            ("sample", work / "run", "--from", work / "images", "--steps", 2, "--quiet",
             "--out", work / "syn"),
        ):  # fmt: skip
            code, _, errors = medart(*words)
            assert code == 0, errors

    return run


@pytest.fixture
def evaluate(medart, work):
    def run(*options, real="others", out="report", code=0):
        ended, output, errors = medart(
            "evaluate", work / real, work / "syn", "--features", work / "clf", "--workers", 0,
            "--bootstrap", 20, "--floor-repeats", 2, "--device", "cpu", "--out", work / out,
            "--json", *options,
        )  # fmt: skip
        assert ended == code, errors
        report = work / out / "metrics.json"
        return json.loads(report.read_text()) if code == 0 else {}, output, errors

    return run


def keys_of(value):
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_a_report_of_a_run_knows_what_was_trained_on_and_what_was_held_out(train, evaluate, work):
    train("--steps", 3, "--val-fraction", 0.3, "--ema", 0.5)
    held = {*(work / "run/heldout_hashes.txt").read_text().split()}
    trained = {*(work / "run/training_hashes.txt").read_text().split()}
    files = {path.name: hash_file(path) for path in (work / "images").glob("*.png")}
    assert held and held | trained == {*files.values()} and not held & trained
    drawn = [json.loads(it) for it in (work / "syn/metadata.jsonl").read_text().splitlines()]
    assert {row["source"]["sha256"] for row in drawn} == trained  # no caption of a held-out image
    assert (work / "syn/heldout_hashes.txt").is_file()

    facts, output, _ = evaluate("--run", work / "run")
    found = facts["membership"]
    assert facts["sets"][-1]["name"] == "images" and facts["sets"][-1]["n"] == len(trained)
    assert facts["copies"][0]["calibration"] == "held-out set"
    copied = facts["copies"][0]["copied"]
    assert copied["set"] == "images" and copied["n"] == copied["patients"]["n"] == len(trained)
    assert found["training"]["n"] <= len(trained) and found["captions"] == "own"
    assert found["losses"]["training"]["run"] != found["losses"]["training"]["base"]
    page = (work / "report/report.html").read_text(encoding="utf-8")
    assert page.count("membership: ") >= 2 and ">Membership</h2>" in page
    assert json.loads(output)["membership"]["auc"] == found["auc"]

    formats = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8")
    section = formats.split("from evaluate")[1].split("## ")[0]
    known = set(re.findall(r"`(\w+)`", section)) | {"a", "b"}
    assert keys_of(found) | keys_of(copied) <= known

    _, again, errors = evaluate("--run", work / "run")
    assert again == output and "already finished; nothing it depends on has changed" in errors
    manifest = work / "images/metadata.jsonl"
    manifest.write_text(manifest.read_text().replace("a b lesion", "a dark lesion"))
    _, _, errors = evaluate("--run", work / "run")
    assert "already finished" not in errors

    _, _, errors = evaluate("--run", work / "run", real="images", out="no", code=2)
    assert "of its 12 images were trained on" in errors.splitlines()[-1]
    (work / "images").rename(work / "moved")
    _, _, errors = evaluate("--run", work / "run", out="no", code=2)
    assert "with --training" in errors and errors.splitlines()[-1].startswith("medart evaluate")
    last = sorted((work / "run/checkpoints").iterdir())[-1]
    facts, _, errors = evaluate("--run", last, "--training", work / "moved", out="checkpoint")
    assert "with others that were trained on the same images" in errors  # drawn by the average
    assert facts["membership"]["training"]["set"] == "moved"


@pytest.mark.nightly
def test_an_over_fitted_run_is_found_and_what_it_did_not_see_is_not(medart, evaluate, work):
    full = ("--method", "full", "--freeze-text-encoder", "--learning-rate", 3e-3)
    steps = ("--steps", 150, "--batch-size", 8)
    for words in (
        (
            "finetune",
            work / "images",
            "--base",
            "tiny",
            "--out",
            work / "run",
            *SHORT,
            *full,
            *steps,
        ),
        ("sample", work / "run", "--from", work / "images", "--steps", 1, "--out", work / "syn"),
    ):
        code, _, errors = medart(*words)
        assert code == 0, errors
    found = evaluate("--run", work / "run")[0]["membership"]
    assert found["auc"] > 0.8 and found["shown"]
    save_images(work / "neither", range(200, 212))
    (work / "run/training_hashes.txt").unlink()
    facts, _, errors = evaluate("--run", work / "run", "--training", work / "neither", out="blind")
    assert "all images of neither are taken for trained on" in errors
    low, high = facts["membership"]["interval"]
    assert low < 0.5 < high and not facts["membership"]["shown"]
