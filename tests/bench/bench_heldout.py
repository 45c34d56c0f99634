"""The held-out loss: of an over-fitted run, and equal whatever shares the work.

    python -m tests.bench.bench_heldout over FOLDER      # 8 training images, 32 held-out ones
    python -m tests.bench.bench_heldout several          # one process, two, two with FSDP

FOLDER holds real images. *Over*: full weights of the bundled base on 8 images of it; the curve is
printed. Some ten minutes, with --steps 300 two. *Several*: the same runs, of random
weights, by one process, by two with data parallelism and by two that share the weights; their
curves are printed to be compared. Two minutes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from medart_cli.data.dataset import open_data
from tests.small import build_base

ROOT = Path(__file__).parents[2]
FIXED = ("--preview-every", "0", "--hldf-every", "0", "--device", "cpu")


def write_split(data, out, train, held, seed=0):
    """Write a manifest of some images of a folder: so many to train on, so many held out."""
    records = list(open_data(data))
    order = np.random.default_rng(seed).permutation(len(records))[: train + held]
    rows = [
        {"file_name": str(records[place].path.resolve()), "label": records[place].label,
         "group_id": records[place].group_name, "split": "train" if turn < train else "val"}
        for turn, place in enumerate(order)
    ]  # fmt: skip
    lines = ({key: value for key, value in row.items() if value is not None} for row in rows)
    out.write_text("".join(json.dumps(row) + "\n" for row in lines))
    return out


def read_curve(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["val_loss"], row["train_loss"]) for row in rows if "val_loss" in row]


def show_over(place, data, steps):
    manifest = write_split(data, place / "split.jsonl", 8, 32)
    run = place / "run"
    command = [
        *(sys.executable, "-m", "medart_cli", "finetune", manifest, "--root", "/", "--out", run),
        *("--base", "tiny", "--method", "full", "--freeze-text-encoder", *FIXED),
        *("--learning-rate", "1e-3", "--batch-size", "4", "--steps", steps, "--val-every", "150"),
    ]
    subprocess.run([str(word) for word in command], check=True)
    for step, held, trained in read_curve(run):
        print(f"step {step}: held-out {held:.3f}, training {trained:.3f}")
    found = json.loads((run / "run.json").read_text())["figures"]["heldout"]
    print(f"memorized {found['memorized']:.3f} {found['interval']}")


def write_images(folder):
    """Draw ten reddish images of two labels, seven to train on."""
    random, rows = np.random.default_rng(0), []
    folder.mkdir()
    for i in range(10):
        pixels = random.normal((200, 120, 110), 30, (32, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "label": "ab"[i % 2], "text": "a red lesion",
                     "group_id": f"p{i}", "split": "val" if i > 6 else "train"})  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def start(place, launch, module, commands):
    path = place / "commands.json"
    path.write_text(json.dumps([list(map(str, words)) for words in commands]))
    words = [sys.executable, *launch, "-m", module, str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MEDART_CACHE": str(place / "cache")}
    subprocess.run(words, cwd=ROOT, check=True, env=environment)


def show_several(place):
    base, data = build_base(place / "base"), write_images(place / "images")
    full = ("--method", "full", "--freeze-text-encoder")

    def train(out, *options):
        return ["finetune", data, "--out", place / out, "--base", base, "--resolution", 16, *FIXED,
                "--precision", "fp32", "--val-every", 3, "--ema", 0.9, *options]  # fmt: skip

    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    settings = place / "fsdp.yaml"
    settings.write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL).group(1))
    two = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29777")
    shared = ("-m", "accelerate.commands.launch", "--config_file", str(settings),
              "--main_process_port", "29778")  # fmt: skip
    single = ("--steps", 5, "--batch-size", 2)
    start(place, (), "tests.several", [train("one", *single), train("one full", *single, *full)])
    start(place, two, "tests.several", [train("two", "--steps", 5),
                                        train("two full", "--steps", 5, *full)])  # fmt: skip
    start(place, shared, "tests.sharded", [train("sharded", "--steps", 3, *full),
                                           train("sharded", "--steps", 5, *full)])  # fmt: skip
    for name in ("one", "two", "one full", "two full", "sharded"):
        print(name, *(f"step {step}: {held:.6f} {trained:.6f};"
                      for step, held, trained in read_curve(place / name)))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["over", "several"])
    parser.add_argument("data", nargs="?", help="image folder, for over")
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "over":
            show_over(Path(folder), options.data, options.steps)
        else:
            show_several(Path(folder))
