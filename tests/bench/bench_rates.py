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
import torch

from medart_cli.evaluate.colors import measure_gaps
from medart_cli.metrics import closeness, color
from medart_cli.metrics.closeness import find_closeness
from medart_cli.metrics.distances import (
    bootstrap_frechet,
    extrapolate_frechet,
    frechet_distance,
    neighbor_coverage,
)
from medart_cli.metrics.kernel import energy_jackknife, kernel_distance, kernel_jackknife, subtract
from medart_cli.metrics.ranking import Sample, find_sign, rank_sets
from medart_cli.models.backbone import load_backbone
from medart_cli.tiny.phantoms import BASE, describe_phantom, draw_phantom

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
    closeness.PERMUTATIONS = 499  # the rate does not depend on it

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


def cover_kernel(random, patients, each, scale, shift):
    """Say whether the kernel distance's intervals hold its truth: by patient, and by image."""
    own = random.normal(size=(patients, 1, 32)) + random.normal(size=(patients, each, 32))
    real = (scale * own / 2**0.5).reshape(-1, 32)
    synthetic = scale * random.normal(size=(200, 32)) + shift
    truth = 0.0
    if shift:  # to a part in a thousand
        fresh = np.random.default_rng(12345)
        far = scale * fresh.normal(size=(3000, 32)) + shift
        truth = kernel_distance(scale * fresh.normal(size=(3000, 32)), far)[0]
    groups = np.arange(patients * each) // each, np.arange(200)
    low, high = kernel_jackknife(real, synthetic, groups).find_interval()
    value, error = kernel_distance(real, synthetic)
    return low < truth < high, abs(value - truth) < 1.96 * error


def bench_patients():
    """Count how often 95 % intervals hold the truth where half of the variance is the patient's."""
    for name, scale, shift in (
        ("alike, flat spectrum", np.ones(32), 0),
        ("alike, falling spectrum", np.arange(1, 33) ** -0.5, 0),
        ("shifted, falling spectrum", np.arange(1, 33) ** -0.5, 0.2),
    ):
        for patients, each in ((20, 10), (10, 20), (5, 20)):
            found = [
                cover_kernel(np.random.default_rng(seed), patients, each, scale, shift)
                for seed in range(100)
            ]
            known, unknown = np.mean(found, axis=0)
            print(
                f"kernel distance, {name}, {patients} patients of {each}: by patient {known:.2f}, "
                f"by image {unknown:.2f}",
                flush=True,
            )
    scale = np.arange(1, 33) ** -0.5
    for patients, each in ((20, 10), (10, 20), (5, 20)):
        groups, rows = (np.arange(patients * each) // each, np.arange(100)), []
        for seed in range(100):
            random = np.random.default_rng(seed)
            own = random.normal(size=(patients, 1, 32)) + random.normal(size=(patients, each, 32))
            real = (scale * own / 2**0.5).reshape(-1, 32)
            synthetic = scale * (random.normal(size=(100, 32)) + 0.5)
            spreads = [
                bootstrap_frechet(real, synthetic, random, 60, it).std(ddof=1)
                for it in (groups, None)
            ]
            rows.append([frechet_distance(real, synthetic), *spreads])
        values, known, unknown = np.array(rows).T
        off = np.abs(values - values.mean())
        print(
            f"Frechet distance, shifted, {patients} patients of {each}: by patient "
            f"{(off < 1.96 * known).mean():.2f}, by image {(off < 1.96 * unknown).mean():.2f}",
            flush=True,
        )


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


LEVELS = np.arange(256) / 255
ALIKE = np.linalg.cholesky(0.2 * np.eye(4) + 0.8)  # channels rise and fall together


def draw_colors(random, count, shift=0.0):
    """Draw color histograms of bell shape, (count, 1024): means vary by .1, spreads by .025."""
    return paint(random.normal(size=(count, 2, 4)), shift)


def draw_patients_colors(random, patients, each):
    """Draw those of patients, half of the variance being the patient's."""
    own = random.normal(size=(patients, 1, 2, 4)) + random.normal(size=(patients, each, 2, 4))
    return paint(own.reshape(-1, 2, 4) / 2**0.5)


def paint(numbers, shift=0.0):
    """Turn standard normal numbers, (N, 2, 4), into color histograms, (N, 1024)."""
    own = numbers @ ALIKE.T
    centers = (0.5 + shift + 0.1 * own[:, 0]).clip(0.02, 0.98)
    widths = 0.1 + 0.025 * own[:, 1].clip(-3, 3)
    shares = np.exp(-0.5 * ((LEVELS - centers[..., None]) / widths[..., None]) ** 2)
    return (shares / shares.sum(axis=2, keepdims=True)).reshape(len(numbers), 1024)


def names_any(random, real, synthetic, groups):
    gaps = measure_gaps(real, synthetic, groups, random, 0)
    return any(it["beyond_floor"] for channels in gaps.values() for it in channels.values())


def bench_colors():
    """Count how often any color measure is said to differ: sets of one source, then shifted ones.

    The shift is of the means, a half of their deviation from image to image.
    """
    color.FLOOR_PERMUTATIONS = 199  # the rate does not depend on it
    for n, m in ((20, 20), (60, 60), (200, 200), (500, 30), (30, 200)):
        rates = []
        for shift in (0, 0.05):

            def happens(random, n=n, m=m, shift=shift):
                real, synthetic = draw_colors(random, n), draw_colors(random, m, shift)
                return names_any(random, real, synthetic, (np.arange(n), np.arange(m)))

            rates.append(count_rate(happens, 1000 if shift == 0 else 100))
        print(f"n = {n} and {m}: one source {rates[0]:.3f}, shifted {rates[1]:.2f}", flush=True)
    patients = np.repeat(np.arange(20), 10)
    for name, groups in (("known", patients), ("unknown", np.arange(200))):

        def happens(random, groups=groups):
            real, synthetic = draw_patients_colors(random, 20, 10), draw_colors(random, 60)
            return names_any(random, real, synthetic, (groups, np.arange(60)))

        print(f"20 patients of 10 images, {name}, and 60 images: {count_rate(happens, 400):.3f}")


def compare_colors(random, sets, repeats=100):
    """Say which differences of two sets' colors, the first less the second, leave out zero."""
    means = [color.draw_means(it, np.arange(len(it)), random, repeats) for it in sets]
    gaps = [color.average_gaps(means[0], own) for own in means[1:]]
    found = {}
    for name in color.GAP_MEASURES:
        apart = gaps[0][name] - gaps[1][name]
        found[name] = abs(apart[0]) > 1.96 * apart[1:].std(ddof=1)
    told = [color.channel_moments(it)[:, :3].reshape(len(it), -1) for it in sets]
    groups = [np.arange(len(it)) for it in sets]
    first, second = (
        energy_jackknife(told[0], told[place], (groups[0], groups[place])) for place in (1, 2)
    )
    found["energy"] = bool(find_sign(subtract(first, second).find_interval(0.95)))
    return found


def bench_color_pairs():
    """Count how often the colors of one of two sets are said to be nearer than the other's."""
    for n, m in ((60, 60), (200, 60)):
        for name, shifts in (
            ("both right", (0, 0)),
            ("both shifted alike", (0.05, 0.05)),
            ("one shifted by half a deviation", (0.05, 0)),
        ):
            found = []
            for seed in range(200):
                random = np.random.default_rng(seed)
                sets = [draw_colors(random, n), *(draw_colors(random, m, it) for it in shifts)]
                found.append(compare_colors(random, sets))
            rates = {key: float(np.mean([it[key] for it in found])) for key in found[0]}
            print(f"n = {n} real, {m} of each set, {name}: {rates}", flush=True)


def draw_pool(each=300):
    """Draw phantoms of nine classes and compute their features, some minutes: (N, 1280), (N,)."""
    backbone = load_backbone("efficientnet-lite0", device=torch.device("cpu"), offline=True)
    names = [label for kind in BASE.values() for label in kind.labels]
    # Each three are a modality; classes 6, 7 and 8 in this order are one of each modality.
    names = [names[place] for place in (0, 3, 6, 1, 4, 7, 2, 5, 8)]
    features = []
    for number in range(each):
        images = [
            draw_phantom(describe_phantom(random, label=label), random)
            for place, label in enumerate(names)
            for random in [np.random.default_rng(9 * number + place)]
        ]
        with torch.inference_mode():
            batch = torch.stack([backbone.prepare(image) for image in images])
            features.append(backbone.module(batch).float().numpy())
    return np.concatenate(features).astype(np.float64), np.tile(np.arange(9), each)


def pick_sets(random, labels, sizes, classes):
    """Pick disjoint sets of rows from a pool, each of so many images of so many classes."""
    left, found = random.permutation(len(labels)), []
    for size, count in zip(sizes, classes, strict=True):
        wanted = np.bincount(random.integers(count, size=size), minlength=9)
        rows = [left[labels[left] == code][:number] for code, number in enumerate(wanted)]
        found.append(np.concatenate(rows))
        left = np.setdiff1d(left, found[-1], assume_unique=True)
        left = random.permutation(left)
    return found


def bench_ranking_patients():
    """Count winners of two sets beside 20 real patients of 10 images, shifted to opposite sides.

    The shift is in parts of the deviation along each direction.
    """
    patients, unknown = np.arange(200) // 10, np.full(200, -1)
    for shift in (0, 0.1, 0.3):
        winners = []
        for seed in range(1000):
            random = np.random.default_rng(seed)
            real = Sample(draw_patients(random, 20, 10), patients, unknown)
            sets = {
                name: Sample(draw(random, 60) + by * SCALE, np.arange(60), unknown[:60])
                for name, by in (("A", shift), ("B", -shift))
            }
            winners.append(rank_sets(real, sets, [], {})["winner"])
        print_winners(f"shifted by {shift}", winners)


def print_winners(name, winners):
    """Print how often each of two sets, A and B, was the winner."""
    a, b = (winners.count(it) / len(winners) for it in "AB")
    print(f"{name}: A wins {a:.3f}, B wins {b:.3f}", flush=True)


def bench_ranking():
    """Count winners of two sets of phantoms, A and B, of which B may be worse than A.

    B has lost one class of each modality, has its labels exchanged for the next class's, or varies
    less or more (its variance is named). With an offset both sets are as far from the real images
    as these are from their mean, in a random direction or in that from one image to another; on
    opposite sides they are half as far.
    """
    features, labels = draw_pool()
    middle = features.mean(axis=0)
    spread = features.var(axis=0).sum() ** 0.5
    by_chance = np.random.default_rng(0).normal(size=features.shape[1])
    by_chance *= spread / np.linalg.norm(by_chance)
    toward = features[5] - features[1]
    toward *= spread / np.linalg.norm(toward)
    plain = {"classes": 9, "known": True, "turned": 0, "moved": (0, 0), "size": 1}
    cases = {
        "alike": {},
        "alike, no labels": {"known": False},
        "alike, offset": {"moved": (by_chance, by_chance)},
        "alike, offset toward an image": {"moved": (toward, toward)},
        "alike, on opposite sides": {"moved": (by_chance / 2, -by_chance / 2)},
        "alike, on opposite sides toward an image": {"moved": (toward / 2, -toward / 2)},
        "B lost 3 of 9 classes": {"classes": 6},
        "the same, no labels": {"classes": 6, "known": False},
        "B has labels rotated": {"turned": 1},
        "B has 0.64 of the variance": {"size": 0.8},
        "B has 1.44 of the variance": {"size": 1.2},
    }
    for name, case in cases.items():
        case = plain | case
        for n in (20, 60, 100, 200):
            winners = []
            for seed in range(200):
                rows = pick_sets(
                    np.random.default_rng(seed), labels, (n, n, n), (9, 9, case["classes"])
                )
                codes = [labels[it] if case["known"] else np.full(n, -1) for it in rows]
                if case["turned"]:
                    codes[2] = (codes[2] + 1) % 9
                tables = [features[it] for it in rows]
                tables[2] = middle + case["size"] * (tables[2] - middle)
                tables[1:] = [it + by for it, by in zip(tables[1:], case["moved"], strict=True)]
                real, first, second = (
                    Sample(table, np.arange(n), code)
                    for table, code in zip(tables, codes, strict=True)
                )
                ranking = rank_sets(real, {"A": first, "B": second}, list("abcdefghi"), {})
                winners.append(ranking["winner"])
            print_winners(f"{name}, n = {n}", winners)
    for n in (20, 60, 100, 200):
        found = []
        for seed in range(20):
            real, first, second = pick_sets(
                np.random.default_rng(seed), labels, (n, n, n), (9, 9, 9)
            )
            less = middle + 0.8 * (features[second] - middle)
            perfect = frechet_distance(features[real], features[first])
            found.append([perfect, frechet_distance(features[real], less)])
        perfect, less = np.mean(found, axis=0)
        print(f"Frechet distance, n = {n}: perfect {perfect:.1f}, 0.64 of the variance {less:.1f}")


BENCHES = {
    "closeness": bench_closeness,
    "colors": bench_colors,
    "color_pairs": bench_color_pairs,
    "ranking": bench_ranking,
    "ranking_patients": bench_ranking_patients,
    "patients": bench_patients,
    "infinite": bench_infinite,
    "coverage": bench_coverage,
}


if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHES:
        print(f"## {name}: {BENCHES[name].__doc__}", flush=True)
        BENCHES[name]()
