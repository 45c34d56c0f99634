"""All measures of one pair of feature sets, each with n, uncertainty, floor and caveats.

The result is plain JSON data; docs/formats.md explains its keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli.metrics.closeness import find_closeness
from medart_cli.metrics.copies import wilson_interval
from medart_cli.metrics.distances import (
    NEIGHBORS,
    AnyArray,
    bootstrap_frechet,
    centered_interval,
    extrapolate_frechet,
    frechet_distance,
    neighbor_coverage,
)
from medart_cli.metrics.kernel import (
    KID_SUBSET_SIZE,
    kernel_distance,
    kernel_distance_subsets,
)

Groups = Sequence[str] | npt.NDArray[np.intp]  # names or codes
PAIRS_LIMIT = 10_000  # rows; measures over all pairs take that many random rows of a larger set
BOOTSTRAP_LIMIT = 1_000  # rows of a resample; the spread of larger sets is scaled from there
UNBIASED_FROM = 2048  # rows; below, FID is known to depend on n (Heusel et al.: 10,000 and more)
LEAST_EXTRAPOLATED = 24  # rows, so that the smallest of the fitted sets has 8
# Widths up to which the value at infinite n is too large: at twice the width by 7 to 9 % of the
# distance, several of its standard errors; at three times none is seen (tests/bench/bench_rates).
STRAIGHT_FROM = 3
CLOSER = (
    "closer to the real images than two sets of one source are to each other: as copies are, and "
    "images drawn from these very images' captions can be; no figure here then speaks of quality"
)
COVERAGES = ("precision", "recall", "density", "coverage")
FLOOR_REPEATS = 10


@dataclass(frozen=True)
class Effort:
    """How much is spent on uncertainty.

    Attributes:
        seed: All draws follow from it.
        bootstrap: Resamples of an interval; 0 for no intervals.
        floor_repeats: Random splits of the real set.
    """

    seed: int = 0
    bootstrap: int = 200
    floor_repeats: int = FLOOR_REPEATS


def compare_features(
    real: AnyArray,
    synthetic: AnyArray,
    groups: Groups,
    effort: Effort,
    labels: Sequence[Groups] | None = None,
) -> dict[str, Any]:
    """Compute all measures of a synthetic set against a real one.

    Args:
        real: (N1, D), N1 of 2 or more.
        synthetic: (N2, D), N2 of 2 or more.
        groups: Patient of each real row, (N1,); the halves of the floor do not share one.
        effort: Resamples and seed.
        labels: Label of each real and each synthetic row, where both sets have them.

    Returns:
        Keys: n_real, n_synthetic, width, frechet, kernel, closeness, precision, recall, density,
        coverage, coverage_intervals, floor, notes. A measure that needs more rows than there are is
        None, and a note says so.
    """
    generator = np.random.default_rng(effort.seed)
    rows, columns = (choose_rows(item, PAIRS_LIMIT, generator) for item in (real, synthetic))
    found: dict[str, Any] = {
        "n_real": len(real),
        "n_synthetic": len(synthetic),
        "width": real.shape[1],
        "frechet": _measure_frechet(real, synthetic, generator, effort),
    }
    first, second = real[rows], synthetic[columns]
    found["kernel"] = _measure_kernel(first, second, generator)
    found |= _measure_coverage(first, second)
    kept = np.asarray(groups)[rows]
    found["floor"] = measure_floor(first, second, kept, generator, effort.floor_repeats)
    found["closeness"] = find_closeness(real, synthetic, labels, generator)
    found["notes"] = _note(found)
    return found


def _measure_frechet(
    real: AnyArray, synthetic: AnyArray, generator: np.random.Generator, effort: Effort
) -> dict[str, Any]:
    value = frechet_distance(real, synthetic)
    found: dict[str, Any] = {"value": value, "interval": None, "infinite_n": None}
    if min(len(real), len(synthetic)) >= LEAST_EXTRAPOLATED:
        first, second = (
            item[choose_rows(item, PAIRS_LIMIT, generator)] for item in (real, synthetic)
        )
        line = extrapolate_frechet(first, second, generator)
        found["infinite_n"] = {"value": line.value, "standard_error": line.deviation}
    if effort.bootstrap:
        found["interval"] = _interval(value, real, synthetic, generator, effort.bootstrap)
    return found


def _interval(
    value: float,
    real: AnyArray,
    synthetic: AnyArray,
    generator: np.random.Generator,
    repeats: int,
) -> list[float]:
    """Interval by resampling; of large sets, resamples of fewer rows, scaled by the root of n."""
    first, second = (
        item[choose_rows(item, BOOTSTRAP_LIMIT, generator)] for item in (real, synthetic)
    )
    resamples = bootstrap_frechet(first, second, generator, repeats)
    scale = np.sqrt(min(len(first), len(second)) / min(len(real), len(synthetic)))
    low, high = centered_interval(0.0, resamples * scale)
    return [max(0.0, value + low), value + high]


def _measure_kernel(
    real: AnyArray, synthetic: AnyArray, generator: np.random.Generator
) -> dict[str, Any] | None:
    if min(len(real), len(synthetic)) < 3:
        return None
    value, error = kernel_distance(real, synthetic)
    same = len(real) == len(synthetic) <= KID_SUBSET_SIZE  # each subset would be all rows
    return {
        "value": value,
        "standard_error": error,
        "interval": [value - 1.96 * error, value + 1.96 * error],
        "subsets": value if same else kernel_distance_subsets(real, synthetic, generator),
    }


def _measure_coverage(real: AnyArray, synthetic: AnyArray) -> dict[str, Any]:
    """Cover both ways; the intervals of the shares hold for the other set as it is."""
    if min(len(real), len(synthetic)) <= NEIGHBORS:
        return dict.fromkeys([*COVERAGES, "coverage_intervals"])
    cover = neighbor_coverage(real, synthetic)
    counts = {"precision": len(synthetic), "recall": len(real), "coverage": len(real)}
    intervals = {
        name: list(wilson_interval(round(getattr(cover, name) * count), count))
        for name, count in counts.items()
    }
    return {name: getattr(cover, name) for name in COVERAGES} | {"coverage_intervals": intervals}


def measure_floor(
    real: AnyArray,
    synthetic: AnyArray,
    groups: Groups,
    generator: np.random.Generator,
    repeats: int,
) -> dict[str, Any] | None:
    """Measure what two halves of the real set give, and the synthetic set at the same n.

    Returns:
        None where a half would have fewer than 3 rows; else keys n, repeats, and for each measure
        (frechet, kernel, and from 6 rows on precision, recall, density and coverage) `real` (mean,
        deviation, lowest, highest over the splits) and `synthetic` (the mean of the synthetic set
        cut to n rows against the first halves).
    """
    pairs = [split_halves(groups, generator) for _ in range(repeats)]
    n = min([len(synthetic), *(len(half) for pair in pairs for half in pair)], default=0)
    if n < 3:
        return None
    tables = []
    for left, right in pairs:
        first, second = (
            real[generator.permutation(left)[:n]],
            real[generator.permutation(right)[:n]],
        )
        third = synthetic[generator.permutation(len(synthetic))[:n]]
        tables.append([_measure_briefly(first, second), _measure_briefly(first, third)])
    found: dict[str, Any] = {"n": n, "repeats": repeats}
    for name in tables[0][0]:
        table = np.array([[measures[name] for measures in row] for row in tables])  # (repeats, 2)
        found[name] = {
            "real": float(table[:, 0].mean()),
            "real_deviation": float(table[:, 0].std()),
            "real_lowest": float(table[:, 0].min()),
            "real_highest": float(table[:, 0].max()),
            "synthetic": float(table[:, 1].mean()),
        }
    return found


def _measure_briefly(real: AnyArray, synthetic: AnyArray) -> dict[str, float]:
    """Compute each measure that so few rows allow, without its uncertainty."""
    found = {
        "frechet": frechet_distance(real, synthetic),
        "kernel": kernel_distance(real, synthetic)[0],
    }
    if min(len(real), len(synthetic)) > NEIGHBORS:
        cover = neighbor_coverage(real, synthetic)
        found |= {name: getattr(cover, name) for name in COVERAGES}
    return found


def split_halves(
    groups: Groups, generator: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Split rows at random into two halves that share no group; they are as equal as groups let."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(codes, minlength=len(names))
    side = np.zeros(len(names), dtype=bool)
    counts = [0, 0]
    for code in generator.permutation(len(names)):
        right = int(counts[1] < counts[0])
        side[code] = bool(right)
        counts[right] += int(sizes[code])
    return np.flatnonzero(~side[codes]), np.flatnonzero(side[codes])


def choose_rows(
    features: AnyArray, most: int, generator: np.random.Generator
) -> slice | npt.NDArray[np.intp]:
    """Choose at most `most` random rows, in order; all rows as a slice, which copies nothing."""
    if len(features) <= most:
        return slice(None)
    return np.sort(generator.choice(len(features), most, replace=False))


def _note(found: dict[str, Any]) -> list[str]:
    n, width = min(found["n_real"], found["n_synthetic"]), found["width"]
    most = max(found["n_real"], found["n_synthetic"])
    notes = []
    if n < UNBIASED_FROM:
        notes.append(
            f"n = {n} is below {UNBIASED_FROM}: the Frechet distance is biased upward; compare it "
            "only at equal n, with the floor, or by its value at infinite n"
        )
    if n <= STRAIGHT_FROM * width:
        deficient = ", the covariance is rank-deficient" if n <= width else ""
        notes.append(
            f"n = {n} is not above {STRAIGHT_FROM} times the feature width {width}{deficient}: the "
            "value at infinite n is an upper bound, and its error does not hold"
        )
    if found["n_real"] != found["n_synthetic"] and found["coverage"] is not None:
        notes.append(
            "precision, recall, density and coverage depend on both n; read them at equal n, "
            "beside those of the halves of the real set"
        )
    if found["closeness"] and found["closeness"]["suspected"]:
        notes.append(CLOSER)
    if n <= NEIGHBORS:
        notes.append(
            f"n = {n}: precision, recall, density and coverage need more than {NEIGHBORS} images"
        )
    if found["kernel"] is None:
        notes.append(f"n = {n}: the kernel distance needs 3 images")
    if found["floor"] is None:
        notes.append("too few images or patients for a real-against-real floor")
    if most > PAIRS_LIMIT:
        notes.append(
            f"measures over all pairs use {PAIRS_LIMIT} random images of each larger set; the "
            "Frechet distance uses all"
        )
    return notes
