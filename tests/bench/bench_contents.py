"""How often `evaluate` is wrong about diversity, classes and captions of drawn images.

    python -m tests.bench.bench_contents                       # about 1.5 minutes of one core
    python -m tests.bench.bench_contents --images FOLDER       # diversity on real photographs

FOLDER has a folder of images for each class. Diversity: halves of a class without common images
must not be called collapsed, and half of one must be where it has lost variance or modes. Classes
and captions: images and captions of patients, of whom some are easy and some are hard, are
simulated, and verdicts at no difference and at the margin are counted.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from medart_cli.data.images import load_image
from medart_cli.metrics.diversity import compare_diversity
from medart_cli.metrics.recognition import (
    AS_WELL,
    LESS,
    LOWER_MARGIN,
    Predictions,
    compare_recognition,
)
from medart_cli.metrics.retelling import KEPT, Retold, compare_retelling
from medart_cli.models.backbone import EMBEDDED_BACKBONE, load_backbone
from medart_cli.models.classifier import run_module

CASES = ("same", "0.64 of the variance", "half of it", "a third of it", "3 modes", "10 modes")


SCALE = 1 / np.sqrt(1 + np.arange(64))  # a falling spectrum
MEAN = 2 * SCALE  # features of one class have a mean beyond their spread


def draw_class(generator, count):
    return MEAN + generator.normal(size=(count, len(SCALE))) * SCALE


def change(features, case, generator):
    mean, count = features.mean(axis=0), len(features)
    shares = {"0.64 of the variance": 0.64, "half of it": 1 / 2, "a third of it": 1 / 3}
    if case in shares:
        return mean + (features - mean) * np.sqrt(shares[case])
    if case.endswith("modes"):
        chosen = generator.integers(0, int(case.split()[0]), count)
        return features[chosen] + 0.3 * (features[generator.permutation(count)] - mean)
    return features


def measure_diversity(draw, rounds, case, seed=0):
    """Return the share of sets called collapsed, the median ratio, and how often 1 is below."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(rounds):
        real, drawn, groups = draw(generator)
        item = compare_diversity(real, change(drawn, case, generator), groups, generator)
        vendi = item["vendi"]
        found.append((item["diversity_collapsed"], vendi["ratio"], vendi["interval"][1] < 1))
    table = np.array(found, dtype=float)
    return table[:, 0].mean(), np.median(table[:, 1]), table[:, 2].mean()


def simulated(n_real, n_drawn, per_patient=1):
    def draw(generator):
        real = draw_class(generator, n_real)
        groups = np.arange(n_real) // per_patient
        if per_patient > 1:  # half of the variance is between patients
            own = draw_class(generator, groups.max() + 1)[groups]
            real = MEAN + (real - MEAN + own - MEAN) / np.sqrt(2)
        return real, draw_class(generator, n_drawn), (groups, np.arange(n_drawn))

    return draw


def photographed(classes, n):
    def draw(generator):
        rows = classes[generator.integers(len(classes))]
        rows = rows[generator.permutation(len(rows))]
        size = min(n, len(rows) // 2)
        codes = np.arange(size)
        return rows[:size], rows[size : 2 * size], (codes, codes)

    return draw


def read_classes(folder):
    """EfficientNet-Lite0's features of each class."""
    backbone = load_backbone(EMBEDDED_BACKBONE, device=torch.device("cpu"))
    classes = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(path for path in place.iterdir() if path.suffix in (".jpg", ".png"))
        parts = [
            run_module(
                backbone.module,
                torch.stack([backbone.prepare(load_image(path)) for path in paths[start:][:32]]),
            )
            for start in range(0, len(paths), 32)
        ]
        classes.append(torch.cat(parts).numpy())
    return classes


def draw_predictions(generator, share, *, labels, patients, images, spread=0.0):
    """Say for each image whether it is hit; patients differ in their share by a beta law."""
    truth = np.repeat(np.arange(labels), patients * images)
    groups = np.arange(len(truth)) // images
    own = np.full(groups.max() + 1, share)
    if spread:
        own = generator.beta(share / spread, (1 - share) / spread, len(own))
    hit = generator.random(len(truth)) < own[groups]
    return Predictions(truth, np.where(hit, truth, (truth + 1) % labels), groups)


def measure_recognition(rounds, gap, *, labels, patients, images, drawn, share=0.8, seed=0):
    """Count the verdicts where drawn images are put in their class less often by `gap`."""
    generator = np.random.default_rng(seed)
    verdicts = []
    for _ in range(rounds):
        size = {"labels": labels, "patients": patients, "images": images}
        spread = 0.5 if images > 1 else 0.0
        real = draw_predictions(generator, share, spread=spread, **size)
        own = {"labels": labels, "patients": drawn, "images": 1}
        found = draw_predictions(generator, share - gap, **own)
        names = [str(it) for it in range(labels)]
        verdicts.append(compare_recognition(real, found, names)["verdict"])
    return tuple(verdicts.count(name) / rounds for name in (LESS, AS_WELL))


def draw_retold(generator, asked, kept, groups):
    """New captions that keep each attribute with a chance, and else say one at random."""
    seen = generator.random(asked.shape) < kept
    chance = generator.random(asked.shape) < asked.mean()
    told = np.where(seen, asked, chance)
    count = len(asked)
    return Retold(asked, told, np.zeros(count, dtype=int), np.arange(count), groups)


def measure_retelling(rounds, real_kept, drawn_kept, *, patients, images, attributes=20, seed=0):
    """Count the verdicts where new captions keep these shares of attributes."""
    generator = np.random.default_rng(seed)
    verdicts = []
    groups = np.repeat(np.arange(patients), images)
    for _ in range(rounds):
        usual = generator.random((patients, attributes)) < 0.3  # what a patient's captions share
        own = generator.random((len(groups), attributes)) < 0.3
        asked = np.where(generator.random(own.shape) < 0.5, usual[groups], own)
        skill = generator.uniform(0.8, 1.2, patients)[groups, None]  # some are easier to describe
        real = draw_retold(generator, asked, real_kept * skill, groups)
        drawn = draw_retold(generator, asked, drawn_kept * skill, groups)
        verdicts.append(compare_retelling(drawn, real, np.arange(attributes))["verdict"])
    return tuple(verdicts.count(name) / rounds for name in (LESS, AS_WELL))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    print("diversity: called collapsed, median ratio, interval below 1")
    if options.images:
        classes = read_classes(options.images)
        places = {f"photographs, n = {n}": photographed(classes, n) for n in (25, 50)}
    else:
        places = {
            "n = 25/25": simulated(25, 25),
            "n = 60/60": simulated(60, 60),
            "n = 300/60": simulated(300, 60),
            "n = 200/200": simulated(200, 200),
            "20 patients of 10, 60 drawn": simulated(200, 60, 10),
        }
    for name, draw in places.items():
        for case in CASES:
            shares = measure_diversity(draw, options.rounds, case)
            print(f"  {name}, {case}: " + ", ".join(f"{share:.3f}" for share in shares))
    if options.images:
        return
    print("classes: said less, said as well")
    for size in (
        {"labels": 3, "patients": 20, "images": 1, "drawn": 20},
        {"labels": 3, "patients": 100, "images": 1, "drawn": 100},
        {"labels": 8, "patients": 50, "images": 1, "drawn": 50},
        {"labels": 3, "patients": 20, "images": 10, "drawn": 100},
        {"labels": 2, "patients": 200, "images": 1, "drawn": 500},
    ):
        for gap in (0.0, LOWER_MARGIN, 2 * LOWER_MARGIN):
            less, as_well = measure_recognition(options.rounds, gap, **size)
            print(f"  {size}, lower by {gap:.1f}: {less:.3f}, {as_well:.3f}")
    print("captions: said less, said as well")
    for size in (
        {"patients": 20, "images": 1},
        {"patients": 60, "images": 1},
        {"patients": 200, "images": 1},
        {"patients": 20, "images": 10},
    ):
        for real, drawn in ((0.7, 0.7), (0.7, KEPT * 0.7), (0.7, 0.35), (0.7, 0.0), (0.0, 0.0)):
            less, as_well = measure_retelling(options.rounds, real, drawn, **size)
            print(f"  {size}, kept {real:.2f} and {drawn:.2f}: {less:.3f}, {as_well:.3f}")


if __name__ == "__main__":
    main()
