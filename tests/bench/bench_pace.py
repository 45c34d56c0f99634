"""The hours of `finetune --dry-run`, and of a run's own first steps, beside those of real runs.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_pace IMAGES --steps 60

IMAGES is a folder of real images. The base is the bundled tiny one, on a CPU, at its own size. The
seconds of a step are those of the processor, as the estimate's are, so that other work on the
machine does not count; the first step of each kind is left out. The forecast is what the run itself
would say after its first steps, set against the wall clock of the rest. Prints Markdown.
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
from medart_cli.finetune.run import run

COMMON = "--base tiny --offline --device cpu --batch-size 8 --preview-every 0"
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


def measure(images: Path, words: list[str], every: int) -> tuple[dict[bool, float], float]:
    """Make a run; return the processor's seconds of a step by kind, and those of all steps."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    original = train.take_step

    def timed(work, step, drawn):
        began = time.process_time()
        losses = original(work, step, drawn)
        seconds[every > 0 and step % every == 0].append(time.process_time() - began)
        return losses

    train.take_step = timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(read_options(["finetune", str(images), "--out", f"{folder}/run", *words]))
    finally:
        train.take_step = original
    whole = sum(map(sum, seconds.values()))
    return {kind: median(found[1:]) for kind, found in seconds.items() if found}, whole


def main() -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| setting | step: estimated / run, s | HLDF step, s | all steps, s |")
    print("|---|---|---|---|")
    for name, options in SETTINGS.items():
        words = [*COMMON.split(), "--steps", str(given.steps), *options.split()]
        every = int(re.search(r"--hldf-every (\d+)", options)[1])
        told = estimate(given.images, words)
        found, whole = measure(given.images, words, every)
        colors = given.steps // every if every else 0
        reckoned = (given.steps - colors) * told["step_s"] + colors * (told["hldf_step_s"] or 0)
        cells = [compare(told["step_s"], found[False])]
        cells += [compare(told["hldf_step_s"], found[True]) if every else "-"]
        print(f"| {name} | {' | '.join(cells)} | {compare(reckoned, whole)} |", flush=True)


def compare(told: float, found: float) -> str:
    """Write an estimate beside what was measured, with its error."""
    return f"{told:.3g} / {found:.3g} ({100 * (told / found - 1):+.0f} %)"


if __name__ == "__main__":
    main()
