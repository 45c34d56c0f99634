"""Masks: colors inside and outside of lesions on a black surround, with and without masks.

    python -m tests.bench.bench_masks OUT

Phantoms of one label in a round view, whose lesions have another color than the base knows: 32 to
train on, 48 whose captions are generated. The masks are the lesions. Lesions move and differ in
size; where colors are measured, there is always lesion, always skin, always surround. Then the same
gaps as `evaluate` measures them, in the whole image, in the masked region and around it.
"""

import argparse
import json
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medart_cli.cli import main as medart
from medart_cli.tiny.phantoms import SIDE, describe_phantom, draw_phantom

SEEDS = (0, 1, 2)
SHIFT = np.array((0.6, 0.9, 1.7))  # of the lesion's red, green and blue
AXIS = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
RADIUS = np.hypot(*np.meshgrid(AXIS, AXIS))
VIEW = 0.95
PARTS = {
    "lesion": RADIUS < 0.14, "skin": (RADIUS > 0.82) & (RADIUS < 0.9), "surround": RADIUS > 1.02,
}  # fmt: skip
COMMON = (
    "--base tiny --resolution 64 --batch-size 4 --learning-rate 1e-3 --rank 16 --steps 60 "
    "--freeze-text-encoder --preview-every 0 --device cpu"
)
HLDF = "--hldf-every 3 --hldf-steps 8 --hldf-checkpoint none"
ARMS = {
    "no color loss": "--hldf-every 0",
    "color loss on the image": HLDF,
    "`--hldf-region mask`": f"{HLDF} --hldf-region mask",
    "`--mask-weight 4`, no color loss": "--hldf-every 0 --mask-weight 4",
    "both": f"{HLDF} --hldf-region mask --mask-weight 4",
}


def draw(seed):
    """Draw a phantom: pixels, which of them are its lesion, and its caption."""
    what = describe_phantom(np.random.default_rng(seed), "base", "smooth mole")
    what = replace(what, size=("medium", "large")[seed % 2])
    plain = replace(what, surface="plain")
    picture, own, other = (
        np.asarray(draw_phantom(it, np.random.default_rng(seed)), float)
        for it in (what, plain, replace(plain, color="white"))
    )
    marked = abs(own - other).max(axis=2) > 60
    pixels = np.where(marked[..., None], (picture * SHIFT).clip(0, 255), picture)
    return pixels * (RADIUS < VIEW)[..., None], marked, what.caption()


def write_set(folder, seeds):
    folder.mkdir(parents=True, exist_ok=True)
    rows, images = [], []
    for seed in seeds:
        pixels, marked, caption = draw(seed)
        images.append(pixels)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{seed}.png")
        Image.fromarray(marked).save(folder / f"{seed}-mask.png")
        rows.append({"file_name": f"{seed}.png", "mask": f"{seed}-mask.png", "text": caption,
                     "phantom": True})  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return np.stack(images)


def run(words):
    with suppress(SystemExit):
        medart(words.split())


def gaps(images, real):
    """The gap of the mean colors of each part, in [0, 1], averaged over the channels."""
    return [
        abs(images[:, part].mean(axis=(0, 1)) - real[:, part].mean(axis=(0, 1))).mean() / 255
        for part in PARTS.values()
    ]


def evaluated_gaps(drawn, test):
    """The same gaps by `evaluate`: of the whole image, in the masked region, around it."""
    report = drawn.with_name(f"{drawn.name}-report")
    run(f"evaluate {test} {drawn} --out {report} --no-copies --bootstrap 0 --device cpu --quiet")
    facts = json.loads((report / "metrics.json").read_text())
    items = [facts["color"], *(it["color"] for it in facts["region"]["parts"].values())]
    means = [item[0]["mean"] for item in items]
    return [np.mean([abs(it[name]["value"]) for name in ("red", "green", "blue")]) for it in means]


def show(found, columns):
    print("| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for arm, rows in found.items():
        cells = (" ".join(f"{row[place]:.3f}" for row in rows) for place in range(len(columns)))
        print(f"| {arm} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    found, told = ({arm: [] for arm in ARMS} for _ in range(2))
    for (place, (arm, options)), seed in product(enumerate(ARMS.items()), SEEDS):
        train, test, folder = (out / f"{name}-{seed}" for name in ("train", "test", place))
        write_set(train, range(1000 * seed, 1000 * seed + 32))
        real = write_set(test, range(1000 * seed + 500, 1000 * seed + 548))
        run(f"finetune {train} --out {folder} {COMMON} {options} --seed {seed} --quiet")
        run(
            f"sample {folder} --from {test} --steps 12 --batch-size 48 --seed {seed} "
            f"--out {folder}-drawn --quiet --device cpu"
        )
        pictures = sorted(out.glob(f"{folder.name}-drawn/0*.png"))
        drawn = np.stack([np.asarray(Image.open(path), float) for path in pictures])
        found[arm].append(gaps(drawn, real))
        told[arm].append(evaluated_gaps(pictures[0].parent, test))
        figures = (*found[arm][-1], *told[arm][-1])
        print(arm, seed, *(f"{it:.3f}" for it in figures), flush=True)
    show(found, PARTS)
    show(told, ("whole image", "masked region", "around it"))


if __name__ == "__main__":
    main()
