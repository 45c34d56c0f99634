"""All measures of one pair of feature sets, each with n, uncertainty, floor and caveats.

The result is plain JSON data; docs/formats.md explains its keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli.metrics.arrays import AnyArray, Groups, Indices
from medart_cli.metrics.closeness import find_closeness
from medart_cli.metrics.copies import wilson_interval
from medart_cli.metrics.distances import (
    NEIGHBORS,
    bootstrap_frechet,
    centered_interval,
    cut_rows,
    extrapolate_frechet,
    frechet_distance,
    neighbor_coverage,
)
from medart_cli.metrics.kernel import (
    KID_SUBSET_SIZE,
    kernel_distance,
    kernel_distance_subsets,
    kernel_jackknife,
)

Patients = tuple[Indices, Indices]  # codes of the real and of the synthetic rows
PAIRS_LIMIT = 10_000  # rows; measures over all pairs take that many random rows of a larger set
BOOTSTRAP_LIMIT = 1_000  # rows of a resample; the spread of larger sets is scaled from there
UNBIASED_FROM = 2048  # rows; below, FID is known to depend on n (Heusel et al.: 10,000 and more)
LEAST_EXTRAPOLATED = 24  # rows or patients, so that the smallest of the fitted sets has 8
LEAST_PATIENTS = 5  # for an interval by patient; its coverage was counted down to that number
# Widths up to which the value at infinite n is too large: at twice the width by 7 to 9 % of the
# distance, several of its standard errors; at three times none is seen (tests/bench/bench_rates).
STRAIGHT_FROM = 3
UNKNOWN = (
    "patients are unknown: each image counts as independent; with several images of a patient "
    "distances are too large and intervals too narrow (give the real images a group_id)"
)
CLOSER = (
    "closer to the real images than two sets from the same source are to each other: copies are, "
    "and so can be images generated from these images' captions; no figure then shows quality"
)
COVERAGES = ("precision", "recall", "density", "coverage")
FLOOR_REPEATS = 10


@dataclass(frozen=True)
class Effort:
    """How much is spent on uncertainty.

    Attributes:
        seed: All draws follow from it.
        bootstrap: Resamples of an interval; 0 for no intervals.
        floor_repeats: Random splits of the real set, for the baseline (floor).
    """

    seed: int = 0
    bootstrap: int = 200
    floor_repeats: int = FLOOR_REPEATS


def compare_features(
    real: AnyArray,
    synthetic: AnyArray,
    groups: Groups,
    effort: Effort,
    *,
    labels: Sequence[Groups] | None = None,
    patients: Patients | None = None,
) -> dict[str, Any]:
    """Compute all measures of a synthetic set against a real one.

    Args:
        real: (N1, D), N1 of 2 or more.
        synthetic: (N2, D), N2 of 2 or more.
        groups: What belongs together of the real rows, (N1,); the halves of the floor do not share
            one.
        effort: Resamples and seed.
        labels: Label of each real and each synthetic row, where both sets have them.
        patients: Codes of each real and each synthetic row's patient; None where none is known.
            Where one has several images, what is said of uncertainty is by patient, or left out.

    Returns:
        Keys: n_real, n_synthetic, width, patients, frechet, kernel, closeness, precision, recall,
        density, coverage, coverage_intervals, floor, notes. A measure that needs more rows than
        there are is None, and a note says so.
    """
    generator = np.random.default_rng(effort.seed)
    rows, columns = (choose_rows(item, PAIRS_LIMIT, generator) for item in (real, synthetic))
    counts = None if patients is None else [len(np.unique(codes)) for codes in patients]
    if counts == [len(real), len(synthetic)]:
        patients = None  # images are independent
    found: dict[str, Any] = {
        "n_real": len(real),
        "n_synthetic": len(synthetic),
        "width": real.shape[1],
        "patients": counts and dict(zip(("real", "synthetic"), counts, strict=True)),
        "frechet": _measure_frechet(real, synthetic, generator, effort, patients),
    }
    first, second = real[rows], synthetic[columns]
    near = None if patients is None else (patients[0][rows], patients[1][columns])
    found["kernel"] = _measure_kernel(first, second, generator, near)
    found |= _measure_coverage(first, second, near)
    kept = np.asarray(groups)[rows]
    found["floor"] = measure_floor(first, second, kept, generator, effort.floor_repeats)
    found["closeness"] = find_closeness(real, synthetic, labels, generator)
    found["notes"] = _note(found)
    return found


def _measure_frechet(
    real: AnyArray,
    synthetic: AnyArray,
    generator: np.random.Generator,
    effort: Effort,
    patients: Patients | None,
) -> dict[str, Any]:
    value = frechet_distance(real, synthetic)
    found: dict[str, Any] = {"value": value, "interval": None, "infinite_n": None}
    fewest = _count_fewest(real, synthetic, patients)
    if fewest >= LEAST_EXTRAPOLATED:
        sets, codes = _cut_sets((real, synthetic), PAIRS_LIMIT, generator, patients)
        line = extrapolate_frechet(*sets, generator, groups=codes)
        found["infinite_n"] = {"value": line.value, "standard_error": line.deviation}
    if effort.bootstrap and (patients is None or fewest >= LEAST_PATIENTS):
        # Of large sets, resamples of fewer rows, scaled by the root of n.
        sets, codes = _cut_sets((real, synthetic), BOOTSTRAP_LIMIT, generator, patients)
        resamples = bootstrap_frechet(*sets, generator, effort.bootstrap, codes)
        scale = np.sqrt(min(map(len, sets)) / min(len(real), len(synthetic)))
        low, high = centered_interval(0.0, resamples * scale)
        found["interval"] = [max(0.0, value + low), value + high]
    return found


def _count_fewest(real: AnyArray, synthetic: AnyArray, patients: Patients | None) -> int:
    """Count the independent units of the smaller set: patients, or else images."""
    if patients is None:
        return min(len(real), len(synthetic))
    return min(len(np.unique(codes)) for codes in patients)


def _cut_sets(
    sets: tuple[AnyArray, AnyArray],
    most: int,
    generator: np.random.Generator,
    patients: Patients | None,
) -> tuple[tuple[AnyArray, AnyArray], Patients | None]:
    """Cut both sets to at most so many random rows, of whole patients where they are known."""
    if patients is None:
        first, second = (item[choose_rows(item, most, generator)] for item in sets)
        return (first, second), None
    rows, columns = (
        cut_rows(len(codes), most, generator, codes) if len(codes) > most else np.arange(len(codes))
        for codes in patients
    )
    return (sets[0][rows], sets[1][columns]), (patients[0][rows], patients[1][columns])


def _measure_kernel(
    real: AnyArray,
    synthetic: AnyArray,
    generator: np.random.Generator,
    patients: Patients | None,
) -> dict[str, Any] | None:
    if min(len(real), len(synthetic)) < 3:
        return None
    value, error = kernel_distance(real, synthetic)
    same = len(real) == len(synthetic) <= KID_SUBSET_SIZE  # each subset would be all rows
    found: dict[str, Any] = {
        "value": value,
        "standard_error": error,
        "interval": [value - 1.96 * error, value + 1.96 * error],
        "subsets": value if same else kernel_distance_subsets(real, synthetic, generator),
        "by_patient": None,
    }
    if patients is not None:
        found |= {"standard_error": None, "interval": None}  # images are not independent
        if _count_fewest(real, synthetic, patients) >= LEAST_PATIENTS:
            part = kernel_jackknife(real, synthetic, patients)
            found["by_patient"] = {
                "value": part.value,
                "standard_error": part.error,
                "interval": list(part.find_interval()),
            }
    return found


def _measure_coverage(
    real: AnyArray, synthetic: AnyArray, patients: Patients | None
) -> dict[str, Any]:
    """Cover both ways; the intervals of the shares hold for the other set as it is.

    They take rows for independent, and are left out where several are of one patient.
    """
    if min(len(real), len(synthetic)) <= NEIGHBORS:
        return dict.fromkeys([*COVERAGES, "coverage_intervals"])
    cover = neighbor_coverage(real, synthetic)
    real_codes, synthetic_codes = patients or (np.arange(len(real)), np.arange(len(synthetic)))
    intervals: dict[str, list[float] | None] = {}
    shares = {"precision": synthetic_codes, "recall": real_codes, "coverage": real_codes}
    for name, codes in shares.items():
        hits = round(getattr(cover, name) * len(codes))
        alone = len(np.unique(codes)) == len(codes)
        intervals[name] = list(wilson_interval(hits, len(codes))) if alone else None
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


def _note_patients(found: dict[str, Any]) -> list[str]:
    """Say what is known of patients, and what is left out for it."""
    counts = found["patients"]
    if counts is None:
        return [UNKNOWN]
    if (counts["real"], counts["synthetic"]) == (found["n_real"], found["n_synthetic"]):
        return []
    units = count_units(found)
    told = f"{counts['real']} patients: intervals are by patient, those of recall and coverage "
    notes = [told + "are left out, and the kernel distance is also given between patients"]
    if units < LEAST_PATIENTS:
        notes.append(f"{units} patients: intervals need {LEAST_PATIENTS}, and are left out")
    if units < LEAST_EXTRAPOLATED:
        notes.append(
            f"{units} patients: a value at infinite n needs {LEAST_EXTRAPOLATED}, and is left out"
        )
    return notes


def choose_rows(
    features: AnyArray, most: int, generator: np.random.Generator
) -> slice | npt.NDArray[np.intp]:
    """Choose at most `most` random rows, in order; all rows as a slice, which copies nothing."""
    if len(features) <= most:
        return slice(None)
    return np.sort(generator.choice(len(features), most, replace=False))


def count_units(found: dict[str, Any]) -> int:
    """Count what is independent in the smaller set of a comparison: patients, or else images."""
    counts = found["n_real"], found["n_synthetic"], *(found["patients"] or {}).values()
    return int(min(counts))


def _note(found: dict[str, Any]) -> list[str]:
    n, width = min(found["n_real"], found["n_synthetic"]), found["width"]
    most = max(found["n_real"], found["n_synthetic"])
    notes = []
    if n < UNBIASED_FROM:
        notes.append(
            f"n = {n} is below {UNBIASED_FROM}: the Frechet distance is biased upward; compare it "
            "only at equal n, with the baseline (floor), or by its value at infinite n"
        )
    if (units := count_units(found)) <= STRAIGHT_FROM * width:
        deficient = ", the covariance is rank-deficient" if units <= width else ""
        unit = "n" if units == n else "the number of patients"
        notes.append(
            f"{unit} = {units} is not above {STRAIGHT_FROM} times the feature width "
            f"{width}{deficient}: the value at infinite n is an upper bound, and its error does "
            "not hold"
        )
    notes += _note_patients(found)
    if found["n_real"] != found["n_synthetic"] and found["coverage"] is not None:
        notes.append(
            "precision, recall, density and coverage depend on both n; read them at equal n, "
            "next to those of the halves of the real set"
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
        notes.append("too few images or patients for a real-vs-real baseline (floor)")
    if most > PAIRS_LIMIT:
        notes.append(
            f"measures over all pairs use {PAIRS_LIMIT} random images of each larger set; the "
            "Frechet distance uses all"
        )
    return notes
