"""`medart study` on real images, all default arms, at 64 pixels with the embedded tiny base.

    python -m tests.bench.bench_study DERMOSCOPY --profile dermoscopy --out dermoscopy
    python -m tests.bench.bench_study BLOOD --profile blood-smear --most 50 --out blood

The folder has a subfolder for each class. Half of each class's images are trained on, the others
are tested on. No captioner that knows real images can be run where this is made, so a script writes
the captions, in the words that the tiny base was trained with: the class, and the size and color of
what is in the middle and the color around it, as the pixels have them. They are right as far as
they go, and differ from image to image; they are not what a vision-language model would write.

An hour or two on 2 cores for each data set. Stopped, it goes on.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from medart_cli import cli
from medart_cli.data.images import fit_image, load_image
from medart_cli.data.manifest import write_manifest
from medart_cli.data.profiles import read_profile
from medart_cli.tiny.phantoms import COLORS, SURROUNDINGS

FINETUNE = (
    "--base tiny --resolution 64 --steps 240 --batch-size 8 --learning-rate 1e-3 "
    "--lr-schedule cosine --rank 16 --preview-every 0 --val-every 0 --save-every 1000"
)
SAMPLE = "--steps 15 --batch-size 34"
EVALUATE = "--features efficientnet-lite0 --member-count 128"
CLASSIFY = "--freeze"


def describe(path, profile, label):
    """Write a caption from the pixels: class, size and color of the middle, color around it."""
    pixels = np.asarray(fit_image(load_image(path), 64), dtype=np.float64)  # (64, 64, 3)
    middle = np.median(pixels[24:40, 24:40].reshape(-1, 3), axis=0)
    edges = [pixels[:6], pixels[-6:], pixels[:, :6], pixels[:, -6:]]
    around = np.median(np.concatenate([part.reshape(-1, 3) for part in edges]), axis=0)
    inside = np.square(pixels - middle).sum(axis=2) < np.square(pixels - around).sum(axis=2)
    size = "small" if inside.mean() < 0.15 else "medium" if inside.mean() < 0.4 else "large"
    color, field = nearest(middle, COLORS), nearest(around, SURROUNDINGS)
    return f"{profile.simple_caption(label)}. It is {size} and {color}, on {field}."


def nearest(color, names):
    """Name the nearest of some colors, by the squared distance of red, green and blue."""
    return min(names, key=lambda name: np.square(color - np.array(names[name])).sum())


def write_half(folder, out, profile, half, most):
    """Write the manifest of every second image of each class; its images stay where they are."""
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in (".jpg", ".png"))
    rows = []
    for label in sorted({path.parent.name for path in paths}):
        for path in [it for it in paths if it.parent.name == label][:most][half::2]:
            text = describe(path, profile, label)
            name = path.relative_to(folder).as_posix()
            rows.append({"file_name": name, "label": label, "text": text})
    write_manifest(out, rows)


def main(arguments=None):
    """Write both halves, and run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--most", type=int, help="images of each class, for less time")
    given, rest = parser.parse_known_args(arguments)  # the rest are options of study
    given.out.mkdir(parents=True, exist_ok=True)
    profile = read_profile(given.profile)
    for half, name in enumerate(("train", "test")):
        write_half(given.images, given.out / f"{name}.jsonl", profile, half, given.most)
    root = str(given.images)
    words = ["study", str(given.out / "train.jsonl"), "--root", root]
    words += ["--test", str(given.out / "test.jsonl"), "--test-root", root, "--seeds", given.seeds]
    words += ["--finetune", f"{FINETUNE} --profile {given.profile}", "--sample", SAMPLE]
    words += ["--evaluate", EVALUATE, "--classify", CLASSIFY, "--offline"]
    return cli.call([*words, "--out", str(given.out / "study"), *rest])


if __name__ == "__main__":
    sys.exit(main())
