"""How often is the verdict of a reader study wrong? By simulation.

python -m tests.bench.bench_reader --rounds 400
"""

import argparse
from collections import Counter

import numpy as np

from medart_cli.reader.answers import Reading
from medart_cli.reader.results import count_needed, find_verdict, score_readings

# Readers, images, mean and spread over readers of the share that one is right in.
SCENES = (
    (1, 60, 0.5, 0.0), (3, 60, 0.5, 0.0), (3, 100, 0.5, 0.0), (3, 100, 0.5, 0.08),
    (1, 100, 0.65, 0.0), (3, 100, 0.65, 0.0), (3, 100, 0.65, 0.08), (5, 100, 0.65, 0.08),
)  # fmt: skip
FIRST = (
    (60, 0.633),
    (100, 0.58),
    (60, 0.5),
)  # images, and what was seen


def draw_study(generator, readers, images, mean, spread):
    """Draw the answers of readers who are right each in a share of their own; score them."""
    truth = np.arange(images) % 2
    readings = []
    for number in range(readers):
        right = generator.random(images) < generator.normal(mean, spread)
        said = np.where(right, truth, 1 - truth)
        readings.append(Reading(str(number), said, np.zeros(images, dtype=np.int64), 0.0))
    scores = score_readings(truth, readings, np.arange(images), np.arange(images))
    return scores["balanced_accuracy"], find_verdict(scores, readers)[0]


def measure_scene(generator, rounds, scene):
    """Give the coverage and mean width of the interval, and the share of each verdict."""
    found = [draw_study(generator, *scene) for _ in range(rounds)]
    limits = np.array([measure["interval"] for measure, _ in found])
    inside = (limits[:, 0] <= scene[2]) & (limits[:, 1] >= scene[2])
    verdicts = Counter(verdict for _, verdict in found)
    shares = ", ".join(f"{name} {count / rounds:.3f}" for name, count in verdicts.most_common())
    return inside.mean(), np.ptp(limits, axis=1).mean(), shares


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    generator = np.random.default_rng(0)
    for scene in SCENES:
        inside, width, shares = measure_scene(generator, rounds, scene)
        print(*scene, f"coverage {inside:.3f} width {width:.3f}: {shares}", sep="  ", flush=True)
    for images, seen in FIRST:
        error = 1.96 * (seen * (1 - seen) / images) ** 0.5
        needed = count_needed(seen, [seen - error, seen + error], images)
        scene = (1, needed + needed % 2, seen, 0.0)
        print(images, seen, "needs", needed, measure_scene(generator, rounds, scene)[2], sep="  ")


if __name__ == "__main__":
    main()
