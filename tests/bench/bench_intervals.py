"""How often do the 95 % intervals of classify hold the truth? By simulation, beside a bootstrap.

python -m tests.bench.bench_intervals --rounds 1000
"""

import argparse
from dataclasses import dataclass, replace

import numpy as np

from medart_cli.metrics.intervals import find_class_intervals, find_score_intervals
from medart_cli.metrics.scores import (
    ECE_BINS,
    SURE,
    compare_draws,
    draw_seeds,
    draw_weights,
    find_interval,
    score_classes,
    score_draws,
    score_predictions,
)

CLASS_SCORES = ("sensitivity", "specificity", "auroc")
DRAWS = 400  # of a bootstrap
EXACT = 200_000  # images behind a true score


@dataclass(frozen=True)
class Scene:
    """A test set to draw and a classifier to try on it.

    Attributes:
        shares: Of the classes; the last one is looked at by itself.
        images: In the test set.
        signal: How far the right logit stands out, in deviations of the noise on it.
        size: Images of a patient.
        alike: Share of that noise which all images of a patient have in common.
        mixed: Whether a patient has images of several classes.
        seeds: Trainings.
    """

    shares: tuple[float, ...] = (0.5, 0.5)
    images: int = 150
    signal: float = 1.5
    size: int = 1
    alike: float = 0.0
    mixed: bool = False
    seeds: int = 1


RARE, THREE = (0.95, 0.05), (1 / 3, 1 / 3, 1 / 3)
SCENES = {
    "60 images": Scene(images=60, signal=1.2),
    "60, near the ceiling": Scene(images=60, signal=2.8),
    "60, nearer": Scene(images=60, signal=3.8),
    "60, a class of 5 %": Scene(RARE, images=60),
    "150, 3 classes, 5 seeds": Scene(THREE, seeds=5),
    "150, near the ceiling": Scene(signal=2.8),
    "150, a class of 5 %": Scene(RARE),
    "600, near the ceiling": Scene(THREE, images=600, signal=2.8),
    "600, a class of 5 %": Scene(RARE, images=600),
    "10 patients of 15": Scene(size=15, alike=0.3),
    "the same, near the ceiling": Scene(signal=2.8, size=15, alike=0.3),
    "the same, very alike": Scene(size=15, alike=0.6),
    "the same, classes mixed": Scene(size=15, alike=0.3, mixed=True),
    "the same, 5 seeds": Scene(size=15, alike=0.3, seeds=5),
    "50 patients of 15": Scene(images=750, size=15, alike=0.3),
    "the same, near the ceiling ": Scene(images=750, signal=2.8, size=15, alike=0.3),
}


def draw_test(scene, generator, regimes=1):
    """Draw truth (N,), groups (N,) and the probabilities of each training of each regime."""
    count = len(scene.shares)
    groups = np.repeat(np.arange(scene.images // scene.size), scene.size)
    while True:
        drawn = generator.choice(count, size=len(groups), p=scene.shares)
        truth = drawn if scene.mixed else drawn[groups * scene.size]
        if len(np.unique(truth)) == count:
            break
    common = generator.normal(size=(len(groups), count))[groups * scene.size]
    own = generator.normal(size=(len(groups), count))
    base = np.sqrt(scene.alike) * common + np.sqrt(1 - scene.alike) * own
    base += scene.signal * np.eye(count)[truth]
    runs = []
    for _ in range(regimes * scene.seeds):
        logits = 1.5 * base
        if regimes * scene.seeds > 1:  # luck of a training, with each image and with each class
            logits = logits + 0.7 * generator.normal(size=base.shape)
            logits = logits + 0.2 * generator.normal(size=count)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        runs.append(shares / shares.sum(axis=1, keepdims=True))
    return truth, groups, [runs[i::regimes] for i in range(regimes)]


def find_truth(scene, exact):
    """Give the true scores: those of many images and trainings."""
    generator, parts = np.random.default_rng(12345), []
    large = replace(scene, images=9000)
    for _ in range(exact // 9000):
        truth, _, [runs] = draw_test(large, generator)
        for run in runs:
            last = score_classes(truth, run, [str(k) for k in range(run.shape[1])])
            own = last[str(run.shape[1] - 1)]
            parts.append(
                {**score_predictions(truth, run), **{f"last {k}": v for k, v in own.items()}}
            )
    return {name: np.mean([part[name] for part in parts]) for name in parts[0]}


def resample_ece(truth, run, weights):
    """Give the calibration error of bootstrap draws."""
    confidence = run.max(axis=1)
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = (confidence - (run.argmax(axis=1) == truth))[:, None] * np.eye(ECE_BINS)[bins]
    return np.abs(weights @ gaps).sum(axis=1) / len(truth)


def measure(scene, rounds, *, bootstrap=True, exact=EXACT):
    """Give how often intervals hold the truth, and their mean width: {method: {score: (c, w)}}."""
    true, generator = find_truth(scene, exact), np.random.default_rng(1)
    held = {"bootstrap": {}, "new": {}}

    def note(method, name, low, high):
        inside = low - 1e-9 <= true[name] <= high + 1e-9
        held[method].setdefault(name, []).append((inside, high - low))

    for number in range(rounds):
        truth, groups, [runs] = draw_test(scene, generator)
        for name, limits in find_score_intervals(truth, runs, groups).items():
            note("new", name, *limits)
        for name, limits in find_class_intervals(truth, runs, groups).items():
            note("new", f"last {name}", *limits[-1])
        if bootstrap:
            weights = draw_weights(groups, DRAWS, number)
            draws = score_draws(truth, runs, weights, draw_seeds(len(runs), DRAWS, number))
            for name in SURE:
                note("bootstrap", name, *find_interval(draws[name]))
            if scene.seeds == 1:
                note("bootstrap", "ece", *find_interval(resample_ece(truth, runs[0], weights)))
    return {
        method: {name: np.mean(values, axis=0) for name, values in table.items()}
        for method, table in held.items()
    }


def count_verdicts(scene, rounds):
    """How often two regimes that are equally good are told apart, with and without a control."""
    generator, found = np.random.default_rng(2), []
    for number in range(rounds):
        truth, groups, regimes = draw_test(scene, generator, regimes=3)
        weights, picks = draw_weights(groups, DRAWS, number), draw_seeds(scene.seeds, DRAWS, number)
        draws = [score_draws(truth, runs, weights, picks)[SURE[0]] for runs in regimes]
        real, control = (compare_draws(0.0, draws[2], draws[i]).sign for i in (0, 1))
        found.append((real != 0, real == control != 0))
    return np.mean(found, axis=0)


def show(number):
    return f"{number:.3f}".removeprefix("0")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    rounds = parser.parse_args().rounds
    print("| test set | " + " | ".join(SURE) + " | width | sensitivity, specificity, AUROC of the "
          "last class | calibration error |")  # fmt: skip
    for name, scene in SCENES.items():
        held = measure(scene, rounds)
        old, new = held["bootstrap"], held["new"]
        cells = [f"{show(old[score][0])}, {show(new[score][0])}" for score in SURE]
        cells.append(f"{show(old[SURE[0]][1])}, {show(new[SURE[0]][1])}")
        cells.append(", ".join(show(new[f"last {score}"][0]) for score in CLASS_SCORES))
        cells.append(show(old["ece"][0]) if "ece" in old else "")
        print(f"| {name.strip()} | " + " | ".join(cells) + " |", flush=True)
    print("| equally good regimes | told apart from real | and from control |")
    for images, size in ((60, 1), (150, 1), (150, 15), (750, 15)):
        scene = Scene(images=images, size=size, alike=0.3 if size > 1 else 0.0, seeds=5)
        rates = count_verdicts(scene, rounds)
        print(f"| {images} images, {images // size} groups | {show(rates[0])} | {show(rates[1])} |")


if __name__ == "__main__":
    main()
