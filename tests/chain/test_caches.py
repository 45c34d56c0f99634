"""Commands that share a cache never read each other's values as their own."""

import json

import numpy as np
from PIL import Image

EMBEDDED = "efficientnet-lite0"


def save_set(folder, seed, count=6):
    generator = np.random.default_rng(seed)
    for index in range(count):
        path = folder / ("ill", "well")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(path)
    return folder


def test_features_at_another_size_are_not_those_of_evaluate(medart, tmp_path):
    first, second = save_set(tmp_path / "a", 1), save_set(tmp_path / "b", 2)

    def distance(cache):
        out = tmp_path / f"report-{cache}"
        code, _, errors = medart(
            "evaluate", first, second, "--features", EMBEDDED, "--no-copies", "--bootstrap", 0,
            "--cache", tmp_path / cache, "--out", out,
        )  # fmt: skip
        assert code == 0, errors
        facts = json.loads((out / "metrics.json").read_text())
        return next(c for c in facts["comparisons"] if c["label"] is None)["frechet"]["value"]

    code, _, errors = medart(
        "classify", first, "--test", second, "--freeze", "--image-size", 96,
        "--cache", tmp_path / "shared", "--out", tmp_path / "clf",
    )  # fmt: skip
    assert code == 0, errors
    assert distance("shared") == distance("fresh")
