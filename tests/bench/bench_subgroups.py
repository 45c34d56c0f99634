"""How often is a gap between subgroups shown where there is none, and where there is one?

python -m tests.bench.bench_subgroups classify --rounds 120
python -m tests.bench.bench_subgroups power --rounds 60
python -m tests.bench.bench_subgroups evaluate --rounds 40
"""

import argparse
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from medart_cli.evaluate.subgroups import measure_shortfall
from medart_cli.metrics.gaps import (
    Term,
    find_largest,
    is_small,
    list_pairs,
    measure_gap,
    measure_recalls,
    measure_shares,
    weigh_classes_alike,
)
from medart_cli.metrics.reach import measure_reaches
from medart_cli.metrics.scores import draw_seeds, draw_weights, score_draws


@dataclass(frozen=True)
class Scene:
    """A test set with subgroups, and a classifier to try on it.

    Attributes:
        shares: Of the classes.
        images: In the test set.
        signal: How far the right logit stands out, in deviations of the noise on it.
        size: Images of a patient.
        alike: Share of that noise which all images of a patient have in common.
        seeds: Trainings.
        within: Whether images of a patient are of different subgroups (site of the body).
        uneven: Whether the first subgroup is half of all, the second half of the rest, and so on.
    """

    shares: tuple[float, ...] = (0.5, 0.5)
    images: int = 300
    signal: float = 1.5
    size: int = 1
    alike: float = 0.0
    seeds: int = 1
    within: bool = False
    uneven: bool = False


COUNTS = (2, 5, 8)
SEVEN = (0.5, 0.15, 0.15, 0.08, 0.06, 0.03, 0.03)
SCENES = {
    "300 images": Scene(),
    "120 images": Scene(images=120),
    "300, near the ceiling": Scene(signal=3.2),
    "300, a class of 10 %": Scene((0.9, 0.1)),
    "600, 7 classes, 5 seeds": Scene(SEVEN, images=600, seeds=5),
    "600 of 60 patients, alike": Scene(images=600, size=10, alike=0.4),
    "the same, 3 seeds": Scene(images=600, size=10, alike=0.4, seeds=3),
    "the same, sites of a patient": Scene(images=600, size=10, alike=0.4, within=True),
    "600, subgroups uneven": Scene(images=600, uneven=True),
}


def draw_test(scene, subgroups, generator, *, lost=0.0, regimes=1):
    """Draw truth, groups, subgroups (each (N,)) and probabilities of each training and regime.

    The first subgroup's signal is lower by `lost`.
    """
    count = len(scene.shares)
    groups = np.repeat(np.arange(scene.images // scene.size), scene.size)
    chances = 0.5 ** np.minimum(np.arange(1, subgroups + 1), subgroups - 1)
    chances = chances if scene.uneven else np.full(subgroups, 1 / subgroups)
    drawn = generator.choice(subgroups, size=len(groups), p=chances / chances.sum())
    members = drawn if scene.within else drawn[groups * scene.size]
    truth = generator.choice(count, size=len(groups), p=scene.shares)
    common = generator.normal(size=(len(groups), count))[groups * scene.size]
    own = generator.normal(size=(len(groups), count))
    base = np.sqrt(scene.alike) * common + np.sqrt(1 - scene.alike) * own
    base += (scene.signal - lost * (members == 0))[:, None] * np.eye(count)[truth]
    runs = []
    for _ in range(regimes * scene.seeds):
        logits = 1.5 * base
        if regimes * scene.seeds > 1:
            logits = logits + 0.7 * generator.normal(size=base.shape)
            logits = logits + 0.2 * generator.normal(size=count)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        runs.append(shares / shares.sum(axis=1, keepdims=True))
    return truth, groups, members, [runs[i::regimes] for i in range(regimes)]


def find_gaps(truth, groups, members, regimes):
    """Give the gaps of all pairs: within one regime, or of two, how they change."""
    count, parts = regimes[0][0].shape[1], []
    for runs in regimes:
        parts.append({})
        for code in range(members.max() + 1):
            rows = np.flatnonzero(members == code)
            if not is_small(len(rows), len(np.unique(groups[rows]))):
                parts[-1][str(code)] = measure_recalls(truth, runs, groups, rows)
    found = []
    for one, two, classes in list_pairs(parts[0]):
        weights = weigh_classes_alike(classes, count)
        terms = [
            Term(own[name], sign * side * weights, run)
            for run, (own, side) in enumerate(zip(parts, (1, -1), strict=False))
            for name, sign in ((one, 1), (two, -1))
        ]
        found.append(measure_gap(terms, len(parts[0])))
    return found


def try_bootstrap(truth, groups, members, runs, draws, seed):
    """Say whether any pair's percentile interval of bootstrap draws leaves out zero."""
    weights, picks = draw_weights(groups, draws, seed), draw_seeds(len(runs), draws, seed)
    scores = [
        score_draws(truth[rows], [run[rows] for run in runs], weights[:, rows], picks)
        for rows in (np.flatnonzero(members == code) for code in range(members.max() + 1))
        if len(rows) >= 20
    ]
    ends = [
        np.nanquantile(a["balanced_accuracy"] - b["balanced_accuracy"], [0.025, 0.975])
        for a, b in combinations(scores, 2)
    ]
    return any(low > 0 or high < 0 for low, high in ends)


def count_shown(scene, subgroups, rounds, *, lost=0.0, regimes=1, bootstrap=False):
    """Give the share of test sets in which a gap is shown, and that of a plain bootstrap."""
    generator, shown = np.random.default_rng(1), []
    for number in range(rounds):
        drawn = draw_test(scene, subgroups, generator, lost=lost, regimes=regimes)
        gaps = find_gaps(*drawn)
        other = False
        if bootstrap:
            with np.errstate(all="ignore"):
                truth, groups, members, runs = drawn[:4]
                other = try_bootstrap(truth, groups, members, runs[0], 400, number)
        shown.append((bool(gaps) and gaps[find_largest(gaps)].is_shown, other))
    return np.mean(shown, axis=0)


def count_shortfalls(subgroups, rounds, *, missed=0.0, images=200, size=1, varied=False):
    """Give the share of sets that are said to reach a subgroup less than its due.

    Beside it that by recall alone, and that without the luck of which images are drawn.

    `missed` is the share of the first subgroup's images that are drawn of another one instead.
    """
    generator, shown = np.random.default_rng(3), []
    centers = 1.5 * np.random.default_rng(4).normal(size=(subgroups, 12))

    def draw(size, missed):
        codes = np.repeat(generator.integers(subgroups, size=images // size), size)
        lost = (codes == 0) & (generator.uniform(size=len(codes)) < missed)
        codes = np.where(lost, generator.integers(1, subgroups, size=len(codes)), codes)
        noise = generator.normal(size=(len(codes), 12))
        common = np.repeat(generator.normal(size=(images // size, 12)), size, axis=0)
        noise = noise if size == 1 else np.sqrt(0.5) * (noise + common)
        return codes, centers[codes] + noise * (1 + 0.3 * varied * codes[:, None])

    for _ in range(rounds):
        (codes, real), (_, synthetic) = draw(size, 0.0), draw(1, missed)
        patients = np.arange(images) // size
        groups = patients, np.arange(images)
        reaches = measure_reaches(real, synthetic, groups, generator, 5)
        members = [codes == code for code in range(subgroups) if (codes == code).sum() >= 20]
        gaps = [
            measure_shortfall(reaches, patients, pair, (len(members), 1))
            for pair in combinations(members, 2)
        ]
        shares = np.stack([reaches.whole.synthetic, reaches.whole.real], axis=1)
        parts = [measure_shares(shares[own], patients[own], patients.max() + 1) for own in members]
        plain = [
            any(
                measure_gap([Term(one, weights), Term(two, -weights)], len(members)).is_shown
                for one, two in combinations(parts, 2)
            )
            for weights in (np.array([1.0, 0.0]), np.array([1.0, -1.0]))
        ]
        shown.append((gaps[find_largest(gaps)].is_shown, *plain))
    return np.mean(shown, axis=0)


def show(number):
    return f"{number:.3f}".removeprefix("0")


def print_classify(rounds):
    """Print how often gaps and changes are shown where there are none, and gaps where there are."""
    head = " | ".join(f"{count} subgroups" for count in COUNTS)
    print(f"| classify, no true gap | {head} | bootstrap of each pair, the same |")
    for name, scene in SCENES.items():
        cells = [show(count_shown(scene, count, rounds)[0]) for count in COUNTS]
        few = [count_shown(scene, k, rounds // 10, bootstrap=True)[1] for k in COUNTS]
        print(f"| {name} | " + " | ".join(cells) + f" | {', '.join(map(show, few))} |", flush=True)
    print(f"| no true change between two regimes | {head} |")
    for name, scene in list(SCENES.items())[::3]:
        cells = [show(count_shown(scene, k, rounds, regimes=2)[0]) for k in COUNTS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def print_power(rounds):
    """Print how often a true gap is shown."""
    print(
        "| classify, a true gap | of | "
        + " | ".join(f"{count} subgroups" for count in COUNTS)
        + " |"
    )
    for images, lost in ((300, 0.8), (300, 1.5), (1000, 0.4), (1000, 0.8)):
        scene = Scene(images=images)
        generator = np.random.default_rng(5)
        large = draw_test(Scene(images=100_000), 2, generator, lost=lost)
        right = large[3][0][0].argmax(axis=1) == large[0]
        gap = right[large[2] == 1].mean() - right[large[2] == 0].mean()
        cells = [show(count_shown(scene, count, rounds, lost=lost)[0]) for count in COUNTS]
        print(f"| {images} images | {show(gap)} | " + " | ".join(cells) + " |", flush=True)


def print_evaluate(rounds):
    """Print how often a subgroup is said to be reached less than its due."""
    print("Verdict; by recall alone; without the luck of which images are drawn.")
    print("| evaluate | " + " | ".join(f"{count} subgroups" for count in COUNTS) + " |")
    scenes = {
        "no subgroup is missed": {},
        "the same, subgroups vary unlike": {"varied": True},
        "the same, 5 images a patient": {"images": 300, "size": 5},
        "half of one subgroup is missed": {"missed": 0.5, "images": 300},
        "all of one subgroup is missed": {"missed": 1.0},
        "the same, 400 images": {"missed": 1.0, "images": 400},
    }
    for name, scene in scenes.items():
        rates = [count_shortfalls(k, rounds, **{"images": 200} | scene) for k in COUNTS]
        cells = [", ".join(map(show, rate)) for rate in rates]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["classify", "power", "evaluate"])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    {"classify": print_classify, "power": print_power, "evaluate": print_evaluate}[
        parser.parse_args().what
    ](rounds)


if __name__ == "__main__":
    main()
