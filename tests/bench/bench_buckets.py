"""What images lose without --buckets, and what a step costs with them.

python -m tests.bench.bench_buckets [IMAGES]

The first table is arithmetic: of common formats, and of the images of a folder where one is given.
The second trains a small PixArt of random weights, square images and images of seven shapes by
turns, on what device there is.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from medart_cli.cli import main
from medart_cli.data.buckets import (
    LONGEST_RATIO,
    find_bucket,
    find_largest_loss,
    find_loss,
    list_buckets,
)
from medart_cli.data.dataset import open_data
from medart_cli.data.images import read_size
from tests.small import build_base

FORMATS = {
    "square": (1, 1), "5:4 (endoscopy)": (5, 4), "4:3 (ultrasound, dermatoscope)": (4, 3),
    "3:2 (camera)": (3, 2), "16:9 (video)": (16, 9), "2:1 (panoramic radiograph)": (2, 1),
    "1:3 (whole spine)": (1, 3),
}  # fmt: skip
UNITS = (16, 32)  # PixArt, PRX and klein; SANA
RESOLUTION, SIDE = 512, 128  # of the first table, and of the small model
ROUNDS, STEPS, BATCH, IMAGES = 4, 12, 4, 56


def tell_losses(names, sizes):
    """Print what of images of some sizes is cut or padded."""
    print("| format | square | " + " | ".join(f"buckets of {unit}" for unit in UNITS) + " |")
    for name, size in zip(names, sizes, strict=True):
        square = find_loss(size, (RESOLUTION, RESOLUTION))
        found = [find_loss(size, find_bucket(size, list_buckets(RESOLUTION, unit)))
                 for unit in UNITS]  # fmt: skip
        print(f"| {name} | {square:.1%} | " + " | ".join(f"{loss:.1%}" for loss in found) + " |")
    most = [find_largest_loss(list_buckets(RESOLUTION, unit)) for unit in UNITS]
    print(f"at most, up to {LONGEST_RATIO}:1: " + ", ".join(f"{loss:.1%}" for loss in most))


def tell_folder(folder):
    """Print the same, averaged over the images of a folder."""
    sizes = [read_size(record.path) for record in open_data(folder)]
    square = np.mean([find_loss(size, (RESOLUTION, RESOLUTION)) for size in sizes])
    told = [f"square {square:.1%}"]
    for unit in UNITS:
        buckets = list_buckets(RESOLUTION, unit)
        losses = [find_loss(size, find_bucket(size, buckets)) for size in sizes]
        told.append(f"buckets of {unit} {np.mean(losses):.1%}")
    print(f"{folder}, {len(sizes)} images, on average: " + ", ".join(told))


def save_images(folder, formats):
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(IMAGES):
        width, height = formats[index % len(formats)]
        scale = 160 / (width * height) ** 0.5
        size = (round(height * scale), round(width * scale), 3)
        pixels = generator.integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


def train(place, name, turn, *options):
    """Train some steps; return the median seconds of a step, without the first."""
    out = place / f"{name}-{turn}"
    words = ["finetune", place / f"images-{name}", "--base", place / "base", "--out", out, *options,
             "--resolution", SIDE, "--steps", STEPS, "--batch-size", BATCH, "--hldf-every", 0,
             "--preview-every", 0, "--freeze-text-encoder", "--quiet",
             "--cache", place / "cache"]  # fmt: skip
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        assert not ended.code
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(row["seconds"] for row in rows[1:])


def compare_steps():
    """Print what a step takes with squares and with buckets, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        build_base(place / "base", sample_size=64, layers=8)
        save_images(place / "images-square", [(1, 1)])
        save_images(place / "images-mixed", [*FORMATS.values()])
        seconds = {"square": [], "mixed": []}
        for turn in range(ROUNDS):
            seconds["square"].append(train(place, "square", turn))
            seconds["mixed"].append(train(place, "mixed", turn, "--buckets"))
    for name, found in seconds.items():
        print(f"{name}: {statistics.median(found):.4f} s a step ({min(found):.4f} to "
              f"{max(found):.4f})")  # fmt: skip
    ratios = [two / one for one, two in zip(seconds["square"], seconds["mixed"], strict=True)]
    print(f"buckets / squares: {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
          f"{max(ratios):.2f})")  # fmt: skip


if __name__ == "__main__":
    tell_losses(FORMATS, FORMATS.values())
    for source in sys.argv[1:]:
        tell_folder(source)
    compare_steps()
