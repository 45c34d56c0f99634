"""The subgroups of the test images: how well each regime does in them, and whether gaps changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medart_cli.classify.options import BASELINES
from medart_cli.data.manifest import HashedRecord, count_patients
from medart_cli.data.page import Table
from medart_cli.data.splits import groups_of
from medart_cli.data.subgroups import NO_VALUE, Cut
from medart_cli.metrics.arrays import Array, Indices, Integers
from medart_cli.metrics.gaps import (
    ASKED_GAP,
    LEAST_IMAGES,
    LEAST_OF_CLASS,
    LEAST_UNITS,
    Gap,
    Shares,
    Term,
    count_needed_groups,
    find_largest,
    is_small,
    list_pairs,
    measure_gap,
    measure_recalls,
    round_estimate,
    weigh_classes_alike,
)
from medart_cli.metrics.intervals import find_score_intervals, linearize, number_groups

SCORED = {"balanced_accuracy": "sensitivity", "auroc": "auroc"}  # scores, and whose mean each is
SMALL = f"fewer than {LEAST_IMAGES} images or {LEAST_UNITS} patients"
CHANGES = ("no change shown", "narrowed", "widened", "reversed")


@dataclass(frozen=True)
class Tested:
    """What all regimes made of the test images.

    Attributes:
        truth: Class indices, (N,).
        runs: By regime, the probabilities of each seed, each (N, K).
        codes: The code of each image's patient, (N,).
        classes: Names of the K classes.
    """

    truth: Integers
    runs: Mapping[str, Sequence[Array]]
    codes: Integers
    classes: Sequence[str]


def measure_subgroups(
    cuts: Sequence[Cut],
    test: Sequence[HashedRecord],
    truth: Integers,
    runs: Mapping[str, Sequence[Array]],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Measure every regime in the subgroups of each key, for metrics.json.

    Args:
        cuts: The subgroups of each key.
        test: The N test rows.
        truth: Their class indices, (N,).
        runs: By regime, the probabilities of each seed, each (N, K).
        classes: Names of the K classes.
    """
    tested = Tested(truth, runs, number_groups(groups_of(test)), classes)
    return [_measure_key(cut, test, tested, len(cuts)) for cut in cuts]


def _measure_key(
    cut: Cut, test: Sequence[HashedRecord], tested: Tested, families: int
) -> dict[str, Any]:
    codes = cut.find_codes(test, len(test))
    rows = {name: np.flatnonzero(codes == code) for code, name in enumerate(cut.names)}
    rows |= {NO_VALUE: np.flatnonzero(codes < 0)}
    rows = {name: part for name, part in rows.items() if len(part)}
    groups = {name: _describe_group(part, test, tested) for name, part in rows.items()}
    compared = [name for name in rows if name != NO_VALUE and not groups[name]["small"]]
    parts = {
        regime: {
            name: part
            for name in compared
            if (part := measure_recalls(tested.truth, runs, tested.codes, rows[name])) is not None
        }
        for regime, runs in tested.runs.items()
    }
    pairs = list_pairs(next(iter(parts.values())))
    family = _Family(parts, pairs, len(compared), families)
    gaps = {regime: family.measure(regime) for regime in parts}
    largest = {regime: find_largest(found) if found else None for regime, found in gaps.items()}
    regimes = {
        regime: {
            "scores": {name: _score(tested, regime, part) for name, part in rows.items()},
            "gap": _describe_gap(family, gaps[regime], largest[regime], rows, tested),
            "change": None,
        }
        for regime in parts
    }
    for regime in parts:
        if pairs and "real" in parts and regime != "real":
            regimes[regime]["change"] = _describe_change(family, gaps, regime, largest["real"] or 0)
    return {"key": cut.key, "bands": cut.ends, "groups": groups, "pairs": len(pairs),
            "regimes": regimes}  # fmt: skip


def _describe_group(rows: Indices, test: Sequence[HashedRecord], tested: Tested) -> dict[str, Any]:
    counts = np.bincount(tested.truth[rows], minlength=len(tested.classes))
    return {
        "images": len(rows),
        "patients": count_patients(test[row] for row in rows),
        "per_class": dict(zip(tested.classes, counts.tolist(), strict=True)),
        "lacks": [name for name, count in zip(tested.classes, counts, strict=True) if not count],
        "small": is_small(len(rows), len(np.unique(tested.codes[rows]))),
    }


def _score(tested: Tested, regime: str, rows: Indices) -> dict[str, Any]:
    """Score one regime in one subgroup, over the classes that it has."""
    truth, codes = tested.truth[rows], tested.codes[rows].tolist()
    runs = [run[rows] for run in tested.runs[regime]]
    parts, limits = (
        linearize(truth, runs, tested.codes[rows]),
        find_score_intervals(truth, runs, codes),
    )
    found: dict[str, Any] = {}
    for score, shares in SCORED.items():
        found[score] = None
        if score in limits:
            low, high = limits[score]
            found[score] = {"mean": float(parts[shares].values.mean()), "low": low, "high": high}
    return found


@dataclass(frozen=True)
class _Family:
    """All pairs of subgroups of one key.

    Attributes:
        parts: By regime and subgroup, the share of each class that is found.
        pairs: The pairs, with the classes that both have.
        subgroups: How many subgroups are compared.
        families: How many keys there are.
    """

    parts: Mapping[str, Mapping[str, Shares]]
    pairs: list[tuple[str, str, Indices]]
    subgroups: int
    families: int

    def measure(self, regime: str, base: str | None = None) -> list[Gap]:
        """Measure the gap of each pair, or by how much it is above that of another regime."""
        return [
            measure_gap(
                [*self._terms(pair, regime, 1), *(self._terms(pair, base, -1) if base else ())],
                self.subgroups,
                self.families,
            )
            for pair in self.pairs
        ]

    def _terms(self, pair: tuple[str, str, Indices], regime: str, sign: int) -> list[Term]:
        one, two, classes = pair
        own = self.parts[regime]
        weights = sign * weigh_classes_alike(classes, own[one].values.shape[1])
        run = list(self.parts).index(regime)
        return [Term(own[one], weights, run), Term(own[two], -weights, run)]


def _describe_gap(
    family: _Family,
    gaps: Sequence[Gap],
    place: int | None,
    rows: Mapping[str, Indices],
    tested: Tested,
) -> dict[str, Any] | None:
    """Describe the gap to speak of."""
    if place is None:
        return None
    one, two, classes = family.pairs[place]
    both = np.concatenate([rows[one], rows[two]])
    groups = len(np.unique(tested.codes[both]))
    return {
        "first": one,
        "second": two,
        **gaps[place].facts(),
        "classes": [tested.classes[code] for code in classes],
        "units": groups,
        "needed": count_needed_groups(gaps[place], groups),
    }


def _describe_change(
    family: _Family, gaps: Mapping[str, Sequence[Gap]], regime: str, largest: int
) -> dict[str, Any]:
    """Describe how the gaps of a regime differ from those of real images alone.

    A change is shown where it is one against `real` and against `control`, as a better score is;
    of several pairs the surest one is told, else that with the largest gap in `real`.
    """
    bases = [base for base in BASELINES if base in family.parts and base != regime]
    changes = {base: family.measure(regime, base) for base in bases}
    every = range(len(family.pairs))
    shown = [
        place
        for place in every
        if len({(found[place].low > 0) - (found[place].high < 0) for found in changes.values()})
        == 1
        and changes["real"][place].is_shown
    ]
    surest = (
        min(shown, key=lambda at: max(found[at].p_value for found in changes.values()))
        if shown
        else largest
    )
    one, two, _ = family.pairs[surest]
    before, after = gaps["real"][surest].value, gaps[regime][surest].value
    verdict = CHANGES[0]
    if shown:
        verdict = CHANGES[3] if before * after < 0 else CHANGES[1 + int(abs(after) > abs(before))]
    return {
        "first": one,
        "second": two,
        "before": before,
        "after": after,
        **{f"difference_to_{base}": found[surest].facts() for base, found in changes.items()},
        "verdict": verdict,
    }


def tell_subgroups(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in sentences which gaps between subgroups are shown, and which changed."""
    lines = []
    for item in facts:
        small = [name for name, group in item["groups"].items() if group["small"]]
        if not item["pairs"]:
            lines.append(
                f"By {item['key']}: not compared; two subgroups with at least {LEAST_IMAGES} "
                f"images, {LEAST_UNITS} patients and {LEAST_OF_CLASS} images of two classes are "
                "needed."
            )
            continue
        for regime, found in item["regimes"].items():
            lines.append(_tell_gap(item, regime, found["gap"]))
        lines += [
            _tell_change(item["key"], regime, found["change"])
            for regime, found in item["regimes"].items()
            if found["change"]
        ]
        if small:
            lines.append(
                f"By {item['key']}: too small to be compared: {', '.join(small)} ({SMALL})."
            )
    return lines


def _tell_gap(item: Mapping[str, Any], regime: str, gap: Mapping[str, Any]) -> str:
    """Say of one regime whether its subgroups differ, and if not, what would settle it."""
    pair = f"{gap['first']} less {gap['second']}"
    classes = next(iter(item["groups"].values()))["per_class"]
    over = "" if len(gap["classes"]) == len(classes) else f" over {', '.join(gap['classes'])}"
    figures = f"{pair} {_with_interval(gap)} in balanced accuracy{over}"
    units = "images" if item["groups"][gap["first"]]["patients"] is None else "patients"
    if gap["shown"]:
        worse = gap["first"] if gap["value"] < 0 else gap["second"]
        return f"{regime}, by {item['key']}: a gap is shown, to the harm of {worse}; {figures}."
    return (
        f"{regime}, by {item['key']}: no difference between subgroups is shown; the largest is "
        f"{figures}; {_tell_needed(gap, units)}."
    )


def _tell_needed(gap: Mapping[str, Any], units: str) -> str:
    wanted = f"a gap of {ASKED_GAP:g} between them"
    if gap["needed"] is None:
        return f"for {wanted} to be seen more training seeds are needed first"
    if gap["needed"] <= gap["units"]:
        return f"{wanted} would be seen in 4 of 5 such tests"
    more = round_estimate(gap["needed"] - gap["units"])
    return (
        f"{wanted} would be seen in 4 of 5 tests with about {more} more {units} than these "
        f"{gap['units']}"
    )


def _tell_change(key: str, regime: str, change: Mapping[str, Any]) -> str:
    cause = "more steps" if regime == "control" else "synthetic images"
    pair = f"{change['first']} less {change['second']}"
    figures = " and ".join(
        f"{_with_interval(change[f'difference_to_{base}'])} against {base}"
        for base in BASELINES
        if f"difference_to_{base}" in change
    )
    ends = f"{pair} from {change['before']:+.3f} to {change['after']:+.3f}, a change of {figures}"
    if change["verdict"] == CHANGES[0]:
        return f"{regime}, by {key}: no change of a gap by {cause} is shown; {ends}."
    return f"{regime}, by {key}: {cause} {change['verdict']} a gap; {ends}."


def _with_interval(gap: Mapping[str, Any]) -> str:
    low, high = gap["interval"]
    return f"{gap['value']:+.3f} [{low:+.3f}, {high:+.3f}], p = {gap['p_value']:.2g}"


def build_subgroup_tables(item: Mapping[str, Any]) -> list[Table]:
    """Write the subgroups of one key as tables: scores of all regimes, then gaps and changes."""
    regimes = item["regimes"]
    head = [item["key"], "images", "patients", "per class"]
    head += [f"{regime}: {score}" for regime in regimes for score in ("balanced accuracy", "AUROC")]
    rows = []
    for name, group in item["groups"].items():
        marks = ["too small"] if group["small"] else []
        marks += [f"no {', '.join(group['lacks'])}"] if group["lacks"] else []
        counts = ", ".join(f"{label} {count}" for label, count in group["per_class"].items())
        cells = [name + (f" ({'; '.join(marks)})" if marks else ""), str(group["images"])]
        cells += ["unknown" if group["patients"] is None else str(group["patients"]), counts]
        for found in regimes.values():
            cells += [_show_score(found["scores"][name][score]) for score in SCORED]
        rows.append(cells)
    return [(head, rows), _build_gaps(regimes)]


def _show_score(score: Mapping[str, float] | None) -> str:
    return (
        "-" if score is None else f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
    )


def _build_gaps(regimes: Mapping[str, Mapping[str, Any]]) -> Table:
    head = ["regime", "gap", "in balanced accuracy", "change", "against real", "verdict"]
    rows = []
    for regime, found in regimes.items():
        cells = [regime]
        for key, figure in (("gap", None), ("change", "difference_to_real")):
            gap = found[key]
            told = gap and _with_interval(gap[figure] if figure else gap)
            cells += [f"{gap['first']} less {gap['second']}", told] if gap else ["-", "-"]
        rows.append([*cells, found["change"]["verdict"] if found["change"] else ""])
    return head, rows
