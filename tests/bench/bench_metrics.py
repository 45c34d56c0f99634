"""Distances beside clean-fid's on the same features, and `medart evaluate` end to end, on a CPU.

    python -m tests.bench.bench_metrics                          # about 5 minutes on one core
    python -m tests.bench.bench_metrics --images FOLDER          # with real images, end to end too

Times are process CPU seconds (so that a busy machine does not count) of one thread, the median of
several calls of ours and one of clean-fid's; both get the same arrays, float64 for the Frechet
distance as clean-fid's covariances are, float32 for KID as features come. clean-fid's KID is its
default: 100 subsets. SciPy 1.18 removed the argument that clean-fid 0.1.35 passes to sqrtm; where
it is missing, it is taken off here.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from cleanfid import fid as cleanfid
from scipy import linalg

from medart_cli.metrics.distances import frechet_distance
from medart_cli.metrics.kernel import kernel_distance

WIDTH = 2048


def draw_features(count, seed, shift):
    """Correlated, non-negative features, as Inception's pooled ones are."""
    mixing = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
    draws = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return np.abs(draws @ mixing + shift)


def measure(function, repeats):
    """Return the result and the median CPU seconds of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return result, statistics.median(times)


def frechet_of_cleanfid(real, synthetic):
    """From features to distance, as clean-fid's compare_folders does it."""
    return cleanfid.frechet_distance(
        np.mean(real, axis=0), np.cov(real, rowvar=False),
        np.mean(synthetic, axis=0), np.cov(synthetic, rowvar=False),
    )  # fmt: skip


def mend_sqrtm():
    root = linalg.sqrtm
    try:
        root(np.eye(2), disp=False)
    except TypeError:
        cleanfid.linalg.sqrtm = lambda matrix, disp=True: (
            root(matrix) if disp else (root(matrix), 0)
        )


def bench_distances(count):
    real, synthetic = draw_features(count, 1, 0.0), draw_features(count, 2, 0.1)
    ours, fast = measure(lambda: frechet_distance(real, synthetic), 5)
    theirs, slow = measure(lambda: frechet_of_cleanfid(real, synthetic), 1)
    report(f"Frechet n={count}", fast, slow, ours / theirs)
    real, synthetic = real.astype(np.float32), synthetic.astype(np.float32)
    (ours, _), fast = measure(lambda: kernel_distance(real, synthetic), 5)
    theirs, slow = measure(lambda: cleanfid.kernel_distance(real, synthetic), 1)
    report(f"KID n={count}, with its standard error", fast, slow, ours / theirs)


def report(name, fast, slow, ratio):
    print(
        f"{name}: medart {fast:.3f} s, clean-fid {slow:.2f} s, {slow / fast:.0f} times as fast; "
        f"relative difference {abs(ratio - 1):.1e}"
    )


def bench_command(images, count):
    """Two halves of a folder of images, first run and second."""
    files = sorted(path for path in Path(images).rglob("*") if path.suffix in (".jpg", ".png"))
    random.Random(0).shuffle(files)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, path in enumerate(files[: 2 * count]):
            place = folder / ("real" if index % 2 else "syn")
            place.mkdir(exist_ok=True)
            shutil.copy(path, place / f"{index}{path.suffix}")
        for run in ("first", "cached"):
            command = [
                sys.executable, "-m", "medart_cli", "evaluate", str(folder / "real"),
                str(folder / "syn"), "--out", str(folder / run), "--cache", str(folder / "cache"),
                "--device", "cpu", "--features", "efficientnet-lite0", "--quiet",
            ]  # fmt: skip
            start = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            whole = time.monotonic() - start
            inner = json.loads((folder / run / "metrics.json").read_text())["seconds"]
            print(
                f"evaluate {count} + {count} images, {run} run: {whole:.1f} s, {inner} s of it "
                "after start-up (wall clock; copies, 200 resamples, report included)"
            )


def main():
    """Print all figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", help="folder of images for the end-to-end figures")
    parser.add_argument("--count", type=int, default=300, help="images in each half")
    options = parser.parse_args()
    mend_sqrtm()
    for count in (300, 1000):
        bench_distances(count)
    if options.images:
        bench_command(options.images, options.count)


if __name__ == "__main__":
    main()
