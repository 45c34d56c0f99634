"""Pictures that went wrong on purpose, and the figures that show it: docs/troubleshooting.md.

    python -m tests.bench.bench_states [--place FOLDER] [--write DOCS]    (about half an hour)

Fine-tunes the `tiny` base on drawn phantoms, each time with one thing wrong, draws the same
captions with the same noise, and evaluates. Prints a Markdown row for each state; with --write puts
a strip of pictures of each into a folder, `state-NAME.jpg`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from medart_cli.data.images import fit_image, load_image, tile_images
from medart_cli.tiny.dataset import choose_phantoms, write_phantoms
from medart_cli.tiny.phantoms import PROFILE

TRAIN, TEST, FEW = 40, 20, 2  # phantoms of each of the four classes
SHOWN, SIDE = 8, 64
USUAL = {"--steps": "60", "--batch-size": "8", "--learning-rate": "1e-3", "--hldf-every": "4",
         "--hldf-statistics": "grid", "--lr-schedule": "cosine"}  # fmt: skip
# What is wrong in each state: options of finetune, of sample, and the folder to train on.
STATES = {
    "good": ({}, {}, "train"),
    "early": ({"--steps": "6"}, {}, "train"),
    "colors-off": ({"--hldf-every": "0"}, {}, "train"),
    "alike": ({"--hldf-loss": "published", "--hldf-every": "1", "--hldf-weight": "20",
               "--hldf-statistics": "moments", "--hldf-steps": "8"}, {}, "train"),
    "artifacts": ({"--learning-rate": "2e-2", "--max-grad-norm": "0"}, {}, "train"),
    "over-fitted": ({"--steps": "600", "--hldf-every": "40"}, {}, "few"),
    "prompt-ignored": ({}, {"--guidance": "1"}, "train"),
    "guidance-high": ({}, {"--guidance": "20"}, "train"),
    "unfinished": ({}, {"--steps": "2"}, "train"),
}  # fmt: skip


def call(*words):
    """Run a command of medart; return its summary."""
    line = [sys.executable, "-m", "medart_cli", *map(str, words), "--offline", "--json", "--quiet"]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def spell(options):
    return [word for pair in options.items() for word in pair]


def prepare(place):
    """Draw the phantoms, and caption them."""
    for seed, (name, count) in enumerate((("train", TRAIN), ("test", TEST), ("few", FEW))):
        if not (place / name).exists():
            write_phantoms(
                place / name, choose_phantoms("shifted", per_label=count, seed=seed), seed=seed
            )
            call("caption", place / name, "--model", "tiny", "--base", "tiny",
                 "--profile", PROFILE, "--temperature", 0, "--batch-size", 32)  # fmt: skip


def make(place, name):
    """Fine-tune, draw and evaluate one state; return what metrics.json says."""
    training, drawing, data = STATES[name]
    folder = place / name
    run = place / "good" / "run" if not training else folder / "run"
    if not (run / "run.json").exists():
        words = spell(USUAL | training)
        if training.get("--hldf-every") == "0":  # then its other options would do nothing
            words = spell({k: v for k, v in (USUAL | training).items() if k != "--hldf-statistics"})
        call("finetune", place / data, "--base", "tiny", "--out", run, "--profile", PROFILE,
             "--preview-every", 0, *words)  # fmt: skip
    # Captions of the test phantoms, whatever was trained on.
    call("sample", run, "--from", place / "test", "--out", folder / "images", "--batch-size", 40,
         *spell({"--steps": "15"} | drawing))  # fmt: skip
    call(
        "evaluate",
        place / "test",
        folder / "images",
        "--training",
        place / data,
        "--out",
        folder / "report",
        "--features",
        "efficientnet-lite0",
        "--bootstrap",
        100,
    )
    return json.loads((folder / "report" / "metrics.json").read_text())


def tell(name, facts):
    """Write the figures that show a state as a row."""
    whole = next(it for it in facts["comparisons"] if it["label"] is None)
    color, copies, vendi = facts["color"][0], facts["copies"][0], facts["diversity"][0]["vendi"]
    variety = sum(color["variety"][it]["value"] for it in ("red", "green", "blue")) / 3
    floor = whole["floor"]["frechet"]
    cells = [
        f"{floor['synthetic'] / floor['real']:.1f}", f"{whole['precision']:.2f}",
        f"{whole['recall']:.2f}", f"{1e3 * color['energy']['value']:.0f}", f"{variety:.2f}",
        f"{vendi['ratio']:.2f}", f"{100 * copies['share']:.0f} %",
    ]  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |"


def show(place, name):
    """Put some of a state's pictures side by side, the same captions for all."""
    paths = sorted((place / name / "images").glob("0*.png")) if name != "real" else sorted(
        (place / "test").rglob("*.png")
    )  # fmt: skip
    chosen = paths[:: len(paths) // SHOWN][:SHOWN]
    return tile_images([fit_image(load_image(path), SIDE) for path in chosen], columns=SHOWN)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.place or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        prepare(place)
        print("| state | times as far as halves | precision | recall | color energy x 1000 | "
              "color variety | diversity | near-copies |\n" + "|---" * 8 + "|")  # fmt: skip
        for name in STATES:
            print(tell(name, make(place, name)), flush=True)
        for name in ("real", *STATES) if options.write else ():
            picture: Image.Image = show(place, name)
            picture.save(options.write / f"state-{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
