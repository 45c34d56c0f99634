"""HLDF on real images: what each color loss does to the colors, their variety and the distances.

    python -m tests.bench.bench_hldf DATA OUT --sets FOLDER:PROFILE:PER_LABEL ...

DATA/FOLDER/<class>/*.jpg; half of each class to train on, half to test, by seed, shrunk to 64
pixels. Every run is the plain commands: `finetune` of the `tiny` base, `sample` from the captions
of the test half, `evaluate` against it, `classify`. What is done is not done again.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medart_cli.data.images import fit_image, load_image, save_png, tile_images
from medart_cli.data.manifest import write_manifest
from medart_cli.data.profiles import read_profile

SIDE = 64
CHANNELS = ("red", "green", "blue")
HEAD = (
    "| | gap of means | variety R G B | energy x 1000 | Frechet | kernel x 1000 | recall "
    "| real alone | with drawn | training s |\n|---|---|---|---|---|---|---|---|---|---|"
)
COMMON = (
    "--base tiny --resolution 64 --batch-size 8 --learning-rate 1e-3 --lr-schedule cosine "
    "--rank 16 --balance --preview-every 0 --steps 300"
)
HLDF = "--hldf-every 10 --hldf-steps 12 --hldf-checkpoint none"
ARMS = {
    "lora": "--hldf-every 0",
    "published": f"{HLDF} --hldf-loss published",
    "score": HLDF,
    "score+grid": f"{HLDF} --hldf-statistics grid",
}
# Colors of the words that the tiny base's tokenizer knows.
WORDS = {
    "black": (30, 25, 25), "brown": (120, 75, 50), "red": (180, 60, 60), "purple": (110, 60, 150),
    "blue": (70, 90, 170), "pink": (220, 150, 160), "tan": (200, 155, 125),
    "pale": (232, 205, 190), "white": (240, 235, 230), "yellow": (225, 205, 140),
}  # fmt: skip


def nearest_word(color):
    return min(WORDS, key=lambda word: np.square(np.subtract(WORDS[word], color)).sum())


def describe(image):
    """What a caption of real images tells besides the class, measured: colors and size."""
    pixels = np.asarray(image, dtype=np.float64)
    middle = pixels[SIDE // 3 : -SIDE // 3, SIDE // 3 : -SIDE // 3].reshape(-1, 3).mean(axis=0)
    edge = np.concatenate([pixels[:8].reshape(-1, 3), pixels[-8:].reshape(-1, 3)]).mean(axis=0)
    nearer = np.square(pixels - middle).sum(2) < np.square(pixels - edge).sum(2)
    size = ("small", "medium", "large")[int(np.searchsorted([0.25, 0.45], nearer.mean()))]
    return f". It is {size} and {nearest_word(middle)}, on {nearest_word(edge)} field."


def write_sets(source, profile, folder, seed):
    """Write train and test halves with both kinds of captions."""
    if (folder / "done").is_file():
        return
    generator = np.random.default_rng(seed)
    rows = {"train": [], "test": []}
    for label in sorted(path.name for path in source.iterdir() if path.is_dir()):
        paths = sorted((source / label).iterdir())
        order = generator.permutation(len(paths))
        for place, number in enumerate(order):
            part = "train" if place < len(paths) // 2 else "test"
            image = fit_image(load_image(paths[number]), SIDE)
            name = f"{part}-{label}-{number:04d}.png"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            save_png(folder / "images" / name, image)
            simple = read_profile(profile).simple_caption(label)
            rows[part].append((name, label, simple, simple + describe(image)))
    for part, items in rows.items():
        for kind, column in (("simple", 2), ("long", 3)):
            write_manifest(
                folder / "images" / f"{part}-{kind}.jsonl",
                [{"file_name": it[0], "text": it[column], "label": it[1]} for it in items],
            )
    (folder / "done").write_text("")


def medart(line):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEDART_CACHE": os.environ["BENCH_CACHE"]}
    command = [sys.executable, "-m", "medart_cli", *line.split(), "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"medart {line}\n{done.stderr}")


def draw(folder, images, kind, arm, options, seed, per_label):
    """Fine-tune one arm and draw from the captions of the test half."""
    run = folder / kind / arm
    if (run / "syn/metadata.jsonl").is_file():
        return
    medart(f"finetune {images}/train-{kind}.jsonl {COMMON} {options} --seed {seed} --out {run}/run")
    medart(
        f"sample {run}/run --from {images}/test-{kind}.jsonl --per-label {per_label} --steps 15 "
        f"--batch-size 50 --seed {seed} --out {run}/syn"
    )


def measure(folder, images, kind, arm, seed):
    """Evaluate and classify one arm; its figures, once more from the reports on a second call."""
    run = folder / kind / arm
    features = "--features efficientnet-lite0"
    medart(
        f"evaluate {images}/test-{kind}.jsonl {run}/syn {features} --no-copies --workers 0 "
        f"--bootstrap 0 --out {run}/report"
    )
    medart(
        f"classify {images}/train-{kind}.jsonl --synthetic {run}/syn --test "
        f"{images}/test-{kind}.jsonl --freeze --workers 0 --regimes real,mix "
        f"--seed {seed} --out {run}/classifier"
    )
    report = json.loads((run / "report" / "metrics.json").read_text())
    whole = next(item for item in report["comparisons"] if item["label"] is None)
    color = report["color"][0]
    regimes = json.loads((run / "classifier" / "metrics.json").read_text())["regimes"]
    lines = (run / "run" / "metrics.jsonl").read_text().splitlines()
    return {
        "gap": np.mean([abs(color["mean"][name]["value"]) for name in CHANNELS]),
        "variety": [color["variety"][name]["value"] for name in CHANNELS],
        "energy": color["energy"]["value"],
        "frechet": whole["frechet"]["value"],
        "kernel": whole["kernel"]["value"],
        "recall": whole["recall"],
        "real": regimes["real"]["scores"]["balanced_accuracy"]["mean"],
        "mix": regimes["mix"]["scores"]["balanced_accuracy"]["mean"],
        "seconds": sum(json.loads(line)["seconds"] for line in lines),
    }


def format_row(name, item):
    return (
        f"| {name} | {item['gap']:.4f} | {' '.join(f'{x:.2f}' for x in item['variety'])} "
        f"| {1000 * item['energy']:.1f} | {item['frechet']:.0f} | {1000 * item['kernel']:.0f} "
        f"| {item['recall']:.3f} | {item['real']:.3f} | {item['mix']:.3f} | {item['seconds']:.0f} |"
    )


def draw_picture(folder, arms, columns=14):
    """Rows of images of the same captions and noises, one for each arm."""
    rows = []
    for arm in arms:
        paths = sorted((folder / arm / "syn").glob("[0-9]*.png"))
        rows += [load_image(paths[place]) for place in range(0, len(paths), len(paths) // columns)][
            :columns
        ]
    return tile_images(rows, columns=columns)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--sets", nargs="+", required=True, help="FOLDER:PROFILE:IMAGES drawn a label"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--captions", nargs="+", default=["simple", "long"])
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--arm", action="append", default=[], help="another: NAME=OPTIONS")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only-draw", action="store_true")
    options = parser.parse_args()
    os.environ["BENCH_CACHE"] = str(options.out / "cache")
    arms = {name: ARMS[name] for name in options.arms}
    arms |= dict(text.split("=", 1) for text in options.arm)
    jobs = []
    for seed in options.seeds:
        for text in options.sets:
            name, profile, per_label = text.split(":")
            folder = options.out / name / f"seed-{seed}"
            write_sets(options.data / name, profile, folder, seed)
            jobs += [
                (folder, kind, arm, seed, per_label) for kind in options.captions for arm in arms
            ]
    with ThreadPoolExecutor(options.jobs) as pool:

        def work(job):
            folder, kind, arm, seed, per_label = job
            draw(folder, folder / "images", kind, arm, arms[arm], seed, per_label)
            if not options.only_draw:
                return measure(folder, folder / "images", kind, arm, seed)

        found = list(pool.map(work, jobs))
    if options.only_draw:
        return
    place = None
    for (folder, kind, arm, _, _), item in zip(jobs, found, strict=True):
        if place != (folder, kind):
            place = (folder, kind)
            print(f"\n{folder.parent.name}, {folder.name}, {kind} captions\n\n{HEAD}")
            save_png(folder / f"{kind}.png", draw_picture(folder / kind, arms))
        print(format_row(arm, item))


if __name__ == "__main__":
    main()
