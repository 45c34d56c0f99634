"""The hours of `finetune --dry-run`, and of a run's own first steps, beside those of real runs.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_pace IMAGES --steps 60

IMAGES is a folder of real images. The base is the bundled tiny one, on a CPU, at its own size. The
seconds of a step are those of the processor, as the estimate's are, so that other work on the
machine counts less; it still makes both slower, so the estimate is made before and after the run,
and its mean is compared. The first step of each kind is left out. The forecast is what the run
itself says after its first steps of the rest. Prints Markdown; on standard error, both estimates.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from medart_cli.cli import read_options
from medart_cli.finetune import train
from medart_cli.finetune.remaining import Remaining
from medart_cli.finetune.run import run

COMMON = "--base tiny --offline --device cpu --batch-size 8 --preview-every 0"
KINDS = ("step_s", "hldf_step_s")  # of steps, as the estimate has their seconds
SETTINGS = {
    "LoRA": "--hldf-every 0",
    "all weights": "--method full --hldf-every 0",
    "LoRA, HLDF every 4": "--hldf-every 4",
}


def estimate(images: Path, words: list[str]) -> dict:
    """Return `time` of the estimate, from a process of its own."""
    call = [sys.executable, "-m", "medart_cli", "finetune", str(images), "--out", "unused"]
    done = subprocess.run(
        [*call, *words, "--dry-run", "--json", "--quiet"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)["estimate"]["time"]


def measure(images: Path, words: list[str]) -> list[float]:
    """Make a run; return the processor's seconds of each step."""
    seconds = []
    original = train.take_step

    def timed(work, step, drawn):
        began = time.process_time()
        losses = original(work, step, drawn)
        seconds.append(time.process_time() - began)
        return losses

    train.take_step = timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(read_options(["finetune", str(images), "--out", f"{folder}/run", *words]))
    finally:
        train.take_step = original
    return seconds


def forecast(seconds: list[float], every: int) -> tuple[float, float]:
    """Return what the run itself says the rest takes, once it knows, and what the rest took."""
    pace = Remaining(every, 0, len(seconds))
    for step, took in enumerate(seconds, start=1):
        pace.note(step, took)
        if (told := pace.reckon()) is not None:
            return told, sum(seconds[step:])
    raise ValueError("too few steps")


def main() -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    head = ["setting", "step: --dry-run / run, s", "HLDF step", "all steps", "forecast / rest"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, options in SETTINGS.items():
        words = [*COMMON.split(), "--steps", str(given.steps), *options.split()]
        every = int(re.search(r"--hldf-every (\d+)", options)[1])
        before = estimate(given.images, words)
        seconds = measure(given.images, words)
        after = estimate(given.images, words)
        print(f"{name}: {before}, {after}", file=sys.stderr)
        told = {kind: ((before[kind] or 0) + (after[kind] or 0)) / 2 for kind in KINDS}
        kinds = {True: [], False: []}
        for step, took in enumerate(seconds, start=1):
            kinds[every > 0 and step % every == 0].append(took)
        reckoned = len(kinds[False]) * told["step_s"] + len(kinds[True]) * (told["hldf_step_s"])
        cells = [compare(told["step_s"], median(kinds[False][1:]))]
        cells += [compare(told["hldf_step_s"], median(kinds[True][1:])) if every else "-"]
        cells += [compare(reckoned, sum(seconds)), compare(*forecast(seconds, every))]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def compare(told: float, found: float) -> str:
    """Write an estimate beside what was measured, with its error."""
    return f"{told:.3g} / {found:.3g} ({100 * (told / found - 1):+.0f} %)"


if __name__ == "__main__":
    main()
