"""How often `medart evaluate` is wrong: rates over many drawn pairs of sets whose truth is known.

    python -m tests.bench.bench_rates                # all, some minutes on one core
    python -m tests.bench.bench_rates closeness      # one of them

Images are Gaussian features with a falling spectrum, and colors drawn the same way: what is
counted is how often a statement of the report is false, or true. Quick versions with a margin
stand in tests/metrics.
"""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from medart_cli.metrics import closeness
from medart_cli.metrics.closeness import find_closeness
from medart_cli.metrics.distances import extrapolate_frechet, frechet_distance, neighbor_coverage

WIDTH = 64
SCALE = np.arange(1, WIDTH + 1) ** -0.5
CENTERS = 1.5 * SCALE * np.random.default_rng(99).normal(size=(9, WIDTH))  # of nine labels


def draw(random, count, labels=None):
    """Draw independent images, (count, 64); of these labels where some are given."""
    features = SCALE * random.normal(size=(count, WIDTH))
    return features if labels is None else features + CENTERS[labels]


def draw_patients(random, patients, each):
    """Draw so many images of so many patients, half of the variance being the patient's."""
    own = random.normal(size=(patients, 1, WIDTH)) + random.normal(size=(patients, each, WIDTH))
    return (SCALE * own / 2**0.5).reshape(-1, WIDTH)


def count_rate(happens, repeats):
    """Return the share of `repeats` seeds with which something happens."""
    return float(np.mean([happens(np.random.default_rng(seed)) for seed in range(repeats)]))


def bench_closeness():
    """Count how often sets are suspected of copies: honest ones, then copies with noise."""
    closeness.DEALS = 499  # the rate does not depend on it

    def suspect(random, real, synthetic, labels=None):
        return find_closeness(real, synthetic, labels, random)["suspected"]

    for n, m in ((10, 10), (60, 60), (500, 30), (30, 300)):
        rate = count_rate(lambda it, n=n, m=m: suspect(it, draw(it, n), draw(it, m)), 400)
        print(f"honest, n = {n} and {m}: {rate:.3f}")
    rate = count_rate(lambda it: suspect(it, draw_patients(it, 20, 10), draw(it, 60)), 400)
    print(f"honest, 20 patients of 10 images and 60 images: {rate:.3f}")
    counts = np.arange(90) % 9
    for name, labels in (("known", (counts, counts)), ("unknown", None)):
        rate = count_rate(
            lambda it, labels=labels: suspect(
                it, draw(it, 90, counts), draw(it, 90, counts), labels
            ),
            400,
        )
        print(f"honest, ten images of each of nine labels, which are {name}: {rate:.3f}")
    for n, m, share in ((60, 60, 1), (100, 100, 0.5), (300, 60, 1)):

        def happens(random, n=n, m=m, share=share):
            real, synthetic = draw(random, n), draw(random, m)
            copied = int(share * m)
            synthetic[:copied] = real[:copied] + 0.3 * draw(random, copied)
            return suspect(random, real, synthetic)

        print(f"{share:.0%} copies, n = {n} and {m}: {count_rate(happens, 200):.3f}")


def bench_infinite():
    """Show what the value at infinite n is where the truth is 0, beside the distance itself."""
    for width in (64, 256):
        for ratio in (1.2, 2, 3, 4):
            count, rows = round(ratio * width), []
            for seed in range(12):
                random = np.random.default_rng(seed)
                real, synthetic = random.normal(size=(2, count, width))
                line = extrapolate_frechet(real, synthetic, random)
                rows.append([frechet_distance(real, synthetic), line.value, line.deviation])
            plain, value, error = np.mean(rows, axis=0)
            print(
                f"width {width}, n = {count}: distance {plain:.1f}, at infinite n {value:.2f}, "
                f"its stated error {error:.2f}"
            )


def bench_coverage():
    """Show the coverage of a perfect generator at unequal and at equal n."""
    for n, m in ((300, 60), (500, 20), (60, 60), (20, 20)):
        found = [
            neighbor_coverage(draw(random, n), draw(random, m)).coverage
            for random in map(np.random.default_rng, range(40))
        ]
        print(f"coverage of {n} real by {m} perfect: {min(found):.2f} to {max(found):.2f}")


BENCHES = {
    "closeness": bench_closeness,
    "infinite": bench_infinite,
    "coverage": bench_coverage,
}


if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHES:
        print(f"## {name}: {BENCHES[name].__doc__}", flush=True)
        BENCHES[name]()
