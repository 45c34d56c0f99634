"""The table of docs/contributing.md: what each stage must pass on to the next."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medart_cli.data.manifest import hash_file

pytestmark = pytest.mark.charts

DOCS = Path(__file__).parents[2] / "docs" / "contributing.md"
SECTION = DOCS.read_text(encoding="utf-8").split("## What each stage passes on")[1].split("##")[0]
ROWS = re.findall(r"^\| (\w+) \| `([\w/.]+)`(?:, in `(\w+)`)? \| ([^|]+) \|", SECTION, re.M)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Eight images of four patients with a column of the user's own."""
    folder = tmp_path_factory.mktemp("chain")
    generator = np.random.default_rng(0)
    lines = []
    (folder / "images").mkdir()
    for index in range(8):
        pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        lines.append({
            "file_name": f"{index}.png", "label": ("ill", "well")[index % 2], "site": "arm",
            "group_id": f"P{index // 2}", "split": "test" if index > 5 else "train",
        })  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "images" / "metadata.jsonl").write_text(text)
    return folder


def commands(work):
    images, run, syn = work / "images", work / "run", work / "syn"
    common = ("--bootstrap", 100, "--features", "efficientnet-lite0")
    yield ("caption", images, "--style", "simple")
    yield ("finetune", images, "--base", "tiny", "--resolution", 16, "--steps", 1, "--rank", 2,
           "--hldf-every", 0, "--preview-every", 0, "--out", run)  # fmt: skip
    yield ("sample", run, "--from", images, "--steps", 2, "--out", syn)
    yield ("evaluate", images, syn, *common, "--no-copies", "--out", work / "report")
    yield ("classify", images, "--synthetic", syn, "--freeze", *common[:2], "--out", work / "clf")


def test_nothing_is_dropped_from_caption_to_classify(medart, work):
    for command in commands(work):
        code, _, errors = medart(*command)
        assert code == 0, errors
    assert len(ROWS) == 8
    for stage, name, inside, keys in ROWS:
        text = (work / name).read_text(encoding="utf-8")
        whole = name.endswith(".json")
        records = [json.loads(text)] if whole else list(map(json.loads, text.splitlines()))
        assert records, name
        for key in re.findall(r"`(\w+)`", keys):
            for record in records:
                place = record[inside] if inside else record
                drawn = record.get("set") == "synthetic"  # has no patient, but its source has
                assert key in place or (drawn and key == "group_id"), (stage, name, key)
    hashes = (work / "syn" / "training_hashes.txt").read_text().split()
    assert (work / "syn" / "heldout_hashes.txt").read_text() == ""  # no row is of split val
    assert set(hashes) == {hash_file(work / "images" / f"{index}.png") for index in range(6)}


def test_prompts_are_worded_as_the_training_captions_were(medart, work, tmp_path):
    manifest = tmp_path / "plain.jsonl"
    lines = ({"file_name": f"{i}.png", "label": ("ill", "well")[i % 2]} for i in range(2))
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "classes.toml").write_text('ill = "an inflamed joint"\n')
    words = ("--profile", "radiograph", "--classes", tmp_path / "classes.toml")
    run = tmp_path / "run"
    train = ("finetune", manifest, "--root", work / "images", "--base", "tiny", "--resolution", 16,
             "--steps", 1, "--rank", 2, "--hldf-every", 0, "--preview-every", 0)  # fmt: skip
    draw = ("sample", run, "--from", manifest, "--steps", 2)
    for command in ((*train, *words, "--out", run), (*draw, "--out", tmp_path / "syn"),
                    (*draw, "--profile", "generic", "--out", tmp_path / "other")):  # fmt: skip
        code, _, errors = medart(*command)
        assert code == 0, errors

    def prompts(name):
        lines = (tmp_path / name / "metadata.jsonl").read_text().splitlines()
        return [json.loads(line)["prompt"] for line in lines]

    assert prompts("syn") == ["A radiograph of an inflamed joint", "A radiograph of well"]
    assert prompts("other") == ["A medical image of ill", "A medical image of well"]
