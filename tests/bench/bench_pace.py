"""The hours of `finetune --dry-run`, and of a run's own first steps, beside those of real runs.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_pace IMAGES --steps 60

IMAGES is a folder of real images. The base is the bundled tiny one, on a CPU, at its own size. The
seconds of a step are those of the processor, as the estimate's are. Other work on the machine makes
both slower, now more and now less; so the passes of the estimate are timed four times in the course
of the run, between its steps, and their medians compared. The first step of each kind is left out.
The forecast is what the run itself says after its first steps of the rest. Prints Markdown; on
standard error, what the four estimates say.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from medart_cli.cli import read_options
from medart_cli.finetune import train
from medart_cli.finetune.estimate.captions import count_captions
from medart_cli.finetune.estimate.footprint import Reckoner
from medart_cli.finetune.estimate.needs import MODES, find_native, find_shape, list_rows
from medart_cli.finetune.estimate.pace import Pace, measure_pace
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.remaining import Remaining
from medart_cli.finetune.run import run

COMMON = "--base tiny --offline --device cpu --batch-size 8 --preview-every 0"
ESTIMATES = 4  # in the course of a run
SETTINGS = {
    "LoRA": "--hldf-every 0",
    "all weights": "--method full --hldf-every 0",
    "LoRA, HLDF every 4": "--hldf-every 4",
}


def build_estimate(config: FinetuneConfig) -> Callable[[], Pace]:
    """Return what `--dry-run` times, to be called again and again."""
    rows, held = list_rows(config)
    shape, folder = find_shape(config)
    captions = count_captions(config, shape.kind, shape.family, rows, held)
    reckoner = Reckoner(shape, find_native(shape, folder), captions.longest, gpu=False)
    device = torch.device("cpu")
    return lambda: measure_pace(reckoner, captions, config, "fp32", MODES[-1], device)


def measure(images: Path, words: list[str]) -> tuple[list[float], list[Pace]]:
    """Make a run; return the processor's seconds of each step, and the estimates between."""
    seconds: list[float] = []
    paces: list[Pace] = []
    original = train.take_step
    with tempfile.TemporaryDirectory() as folder:
        config: Any = read_options(["finetune", str(images), "--out", f"{folder}/run", *words])
        ask, every = build_estimate(config), config.steps // ESTIMATES

        def timed(work, step, drawn):
            if step % every == 1:
                paces.append(ask())
            began = time.process_time()
            losses = original(work, step, drawn)
            seconds.append(time.process_time() - began)
            return losses

        train.take_step = timed
        try:
            run(config)
        finally:
            train.take_step = original
    return seconds, paces


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
        seconds, paces = measure(given.images, words)
        print(name, *paces, sep="\n", file=sys.stderr)
        plain = median(pace.step for pace in paces)
        color = median(pace.hldf or 0 for pace in paces)
        kinds = {True: [], False: []}
        for step, took in enumerate(seconds, start=1):
            kinds[every > 0 and step % every == 0].append(took)
        reckoned = len(kinds[False]) * plain + len(kinds[True]) * color
        cells = [compare(plain, median(kinds[False][1:]))]
        cells += [compare(color, median(kinds[True][1:])) if every else "-"]
        cells += [compare(reckoned, sum(seconds)), compare(*forecast(seconds, every))]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def compare(told: float, found: float) -> str:
    """Write an estimate beside what was measured, with its error."""
    return f"{told:.3g} / {found:.3g} ({100 * (told / found - 1):+.0f} %)"


if __name__ == "__main__":
    main()
