"""Probe and fine-tuning on the real image sets: 50 training images a class, tested on the rest.

python -m tests.bench.bench_classify pbc_blood_cells --draws 5
python -m tests.bench.bench_classify isic2017_dermoscopy --fine-tune --image-size 128
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from medart_cli.classify.options import ClassifyConfig
from medart_cli.classify.run import run
from medart_cli.log import start_log

DATA = Path(__file__).parents[3] / "shared/data"
PROFILES = {"pbc_blood_cells": "blood-smear", "isic2017_dermoscopy": "dermoscopy"}


def write_sets(name, per_class, draw, folder):
    """Draw the training images of each class; the rest is the test set."""
    generator = np.random.default_rng(draw)
    rows = {"train": [], "test": []}
    for label in sorted(path for path in (DATA / name).iterdir() if path.is_dir()):
        files = sorted(label.iterdir())
        for place, index in enumerate(generator.permutation(len(files))):
            fields = {"file_name": f"{name}/{label.name}/{files[index].name}", "label": label.name}
            rows["train" if place < per_class else "test"].append(json.dumps(fields) + "\n")
    for part, lines in rows.items():
        (folder / f"{part}.jsonl").write_text("".join(lines))


def more(options, folder):
    if options.fine_tune:
        return {"seeds": 1, "profile": PROFILES[options.name]}
    return {"cache": Path(folder, "cache")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PROFILES)
    parser.add_argument("--fine-tune", action="store_true")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--draws", type=int, default=1)
    options = parser.parse_args()
    start_log()
    found = []
    for draw in range(options.draws):
        with tempfile.TemporaryDirectory() as folder:
            write_sets(options.name, options.per_class, draw, Path(folder))
            config = ClassifyConfig(
                data=f"{folder}/train.jsonl", test=f"{folder}/test.jsonl", root=DATA,
                out=Path(folder, "CLF"), freeze=not options.fine_tune, offline=True,
                image_size=options.image_size, **more(options, folder),
            )  # fmt: skip
            started = time.monotonic()
            score = run(config)["regimes"]["real"]["mean"]
            seconds = time.monotonic() - started
        found.append(score)
        print(f"draw {draw}: balanced accuracy {score:.3f}, {seconds:.0f} s")
    print(f"mean {np.mean(found):.3f}, deviation {np.std(found):.3f} over {len(found)} draws")


if __name__ == "__main__":
    main()
