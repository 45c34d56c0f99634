"""Gaps between subgroups of images: the largest one, with all pairs accounted for.

A gap is a sum of shares with weights, such as the balanced accuracy of one subgroup less that of
another. Each share has Wilson's limits for its effective number of images (intervals.py), those of
the gap follow from them (MOVER), and with as many subgroups as there are the reach of the interval
is that of the largest of all pairs' differences. tests/bench/bench_subgroups.py counts how often a
gap is found where there is one, and where there is none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from scipy import optimize, stats

from medart_cli.metrics.arrays import Array, Indices, Integers
from medart_cli.metrics.intervals import (
    Linear,
    correlate,
    find_effective,
    find_wilson,
    linearize,
    sum_groups,
)
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL

LEAST_IMAGES = 20  # of a subgroup; a smaller one is shown, and takes no part in a verdict
LEAST_UNITS = 10  # patients, where they are known: intervals are by patient
LEAST_OF_CLASS = 5  # images of a class in each of two subgroups, to compare them in it
FARTHEST = 60.0  # reach at which the search for a p-value ends: it is 0 there
# A gap that figures on the size of a study are about, and in how many studies it should be seen.
ASKED_GAP = 0.1
POWER = 0.8


@dataclass(frozen=True)
class Shares:
    """M shares of the images of one subgroup, ready to be put into gaps.

    Attributes:
        values: The shares of each training seed, (S, M).
        share: One over the effective number of images, (M,).
        freedom: Degrees of freedom, (M,).
        sums: Influences of the images, summed over each group of the whole test set, (G, M).
        images: How many images each share rests on, (M,).
    """

    values: Array
    share: Array
    freedom: Array
    sums: Array
    images: Array


@dataclass(frozen=True)
class Term:
    """A part of a gap: which shares, with which weights.

    Attributes:
        part: The shares.
        weights: Of each, (M,).
        run: Which trainings they are from; those of one run have their luck in common.
    """

    part: Shares
    weights: Array
    run: int = 0


@dataclass(frozen=True)
class Gap:
    """A gap, with how far it could be from the truth.

    Attributes:
        value: The gap.
        low: Lower end of its interval.
        high: Upper end.
        reach: Standard errors from the value to the ends of its interval, roughly.
        least_reach: How many would bring one end to zero.
        seed_error: Standard error of the mean over training seeds; a part of the whole.
        freedom: Degrees of freedom.
        subgroups: How many there were to choose the pair from.
        families: How many such sets of subgroups.
    """

    value: float
    low: float
    high: float
    reach: float
    least_reach: float
    seed_error: float
    freedom: float
    subgroups: int
    families: int

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @cached_property
    def p_value(self) -> float:
        """Two-sided; like the interval, all pairs accounted for."""
        tail = _find_tail(self.least_reach, self.subgroups, self.freedom)
        return min(1.0, self.families * tail)

    @property
    def error(self) -> float:
        """Standard error that falls with the number of patients."""
        variance = ((self.high - self.low) / 2 / self.reach) ** 2 - self.seed_error**2
        return math.sqrt(max(0.0, variance))

    def facts(self) -> dict[str, Any]:
        """Return it as metrics.json has it."""
        return {
            "value": self.value,
            "interval": [self.low, self.high],
            "p_value": self.p_value,
            "shown": self.is_shown,
        }


def build_part(linear: Linear, codes: Integers, count: int) -> Shares:
    """Prepare the shares of one subgroup.

    Args:
        linear: The shares, by influences of its images, (N, M).
        codes: The code of each image's group (patient) in the whole test set, (N,).
        count: How many groups there are.
    """
    sums = sum_groups(linear.influence, codes, count)
    effective = find_effective(linear, sums)
    return Shares(linear.values, effective.share, effective.freedom, sums, linear.images)


def measure_recalls(
    truth: Integers, runs: Sequence[Array], codes: Integers, rows: Indices
) -> Shares | None:
    """Measure which share of each class is found in a subgroup.

    Args:
        truth: Class indices of all test images, (N,).
        runs: Probabilities of each training seed, each (N, K).
        codes: The code of each image's group, (N,).
        rows: Which images are of the subgroup.

    Returns:
        Shares of all K classes, of one without images 0; None for a subgroup without images.
    """
    if not len(rows):
        return None
    found = linearize(truth[rows], [run[rows] for run in runs], codes[rows])["sensitivity"]
    part = build_part(found, codes[rows], int(codes.max()) + 1)
    present, classes = np.unique(truth[rows]), runs[0].shape[1]

    def spread(values: Array) -> Array:
        whole = np.zeros((*values.shape[:-1], classes))
        whole[..., present] = values
        return whole

    return Shares(*(spread(np.asarray(item, dtype=np.float64)) for item in vars(part).values()))


def measure_shares(values: Array, codes: Integers, count: int) -> Shares:
    """Measure means over images of what lies between 0 and 1.

    Args:
        values: Of each image, (N, M).
        codes: The code of each image's group, (N,).
        count: How many groups there are in all subgroups.
    """
    mean, width = values.mean(axis=0), values.shape[1]
    images = np.full(width, float(len(values)))
    groups = np.full(width, float(len(np.unique(codes))))
    return build_part(
        Linear(mean[None, :], (values - mean) / len(values), images, groups), codes, count
    )


def is_small(images: int, groups: int) -> bool:
    """Say whether a subgroup is too small for a verdict.

    Args:
        images: How many it has.
        groups: Of how many patients; as many as images where patients are unknown.
    """
    return images < LEAST_IMAGES or groups < LEAST_UNITS


def share_classes(first: Shares, second: Shares) -> Indices:
    """Name the classes in which two subgroups can be compared: both have images enough of them."""
    return np.flatnonzero(np.minimum(first.images, second.images) >= LEAST_OF_CLASS)


def list_pairs(parts: Mapping[str, Shares]) -> list[tuple[str, str, Indices]]:
    """List the pairs of subgroups that have two classes in common, and these classes."""
    pairs = [
        (one, two, share_classes(parts[one], parts[two])) for one, two in combinations(parts, 2)
    ]
    return [pair for pair in pairs if len(pair[2]) >= 2]


def weigh_classes_alike(classes: Indices, count: int) -> Array:
    """Give the weights of a balanced accuracy over some of so many classes, (count,)."""
    weights = np.zeros(count)
    weights[classes] = 1 / len(classes)
    return weights


def measure_gap(terms: Sequence[Term], subgroups: int, families: int = 1) -> Gap:
    """Measure a gap with its interval and p-value, all pairs of subgroups accounted for.

    Args:
        terms: What it is the sum of.
        subgroups: How many there are to choose the pair from.
        families: How many such sets of subgroups are looked at; the error is shared among them.

    Source:
        MOVER with correlations, Zou and Donner 2008, Statistics in Medicine 27, 1693-1702. All
        pairs: Games and Howell 1976, Journal of Educational Statistics 1, 113-125: the studentized
        range (Tukey 1953) with each pair's own variance and degrees of freedom (Satterthwaite
        1946). Families share the error after Bonferroni.
    """
    whole = _Sum(terms)
    level = 1 - (1 - CONFIDENCE_LEVEL) / families
    freedom = _round_down(whole.freedom)
    reach, luck = _find_reach(level, subgroups, freedom), math.sqrt(whole.seed_variance)
    ends, least = whole.find_limits(reach), whole.find_least_reach()
    return Gap(whole.value, *ends, reach, least, luck, freedom, subgroups, families)


def measure_gap_by_error(
    value: float, error: float, freedom: float, family: tuple[int, int]
) -> Gap:
    """Measure a gap whose standard error is known; otherwise as `measure_gap`.

    Args:
        value: The gap.
        error: Its standard error.
        freedom: Degrees of freedom of that.
        family: How many subgroups there are to choose the pair from, and how many such families.
    """
    freedom, (subgroups, families) = _round_down(freedom), family
    reach = _find_reach(1 - (1 - CONFIDENCE_LEVEL) / families, subgroups, freedom)
    least = min(FARTHEST, abs(value) / error) if error else FARTHEST * bool(value)
    low, high = value - reach * error, value + reach * error
    return Gap(value, low, high, reach, least, 0.0, freedom, subgroups, families)


class _Sum:
    """A sum of shares with weights."""

    def __init__(self, terms: Sequence[Term]) -> None:
        """Take the shares with a weight; those without may not exist."""
        kept = [(term, np.flatnonzero(term.weights)) for term in terms]
        self._weights = np.concatenate([term.weights[used] for term, used in kept])  # (M,)
        self._mean = np.concatenate([term.part.values[:, used].mean(axis=0) for term, used in kept])
        self._share = np.concatenate([term.part.share[used] for term, used in kept])
        free = np.concatenate([term.part.freedom[used] for term, used in kept])
        self._likeness = correlate(
            np.concatenate([term.part.sums[:, used] for term, used in kept], axis=1)
        )
        self.value = float(self._weights @ self._mean)
        self.seed_variance, seeds = _sum_luck(terms)
        parts = self._weights**2 * self._share * self._mean * (1 - self._mean)
        total, squares = parts.sum() + self.seed_variance, (parts**2 / free).sum()
        squares += self.seed_variance**2 / max(1, seeds - 1)
        self.freedom = float(total**2 / squares) if squares > 0 else float(free.sum())

    def find_limits(self, reach: float) -> tuple[float, float]:
        """Give the limits at so many standard errors."""
        low, high = find_wilson(self._mean, self._share, reach).T
        down, up = self._mean - low, high - self._mean  # (M,)
        luck = reach**2 * self.seed_variance
        below, above = (
            math.sqrt(max(0.0, float(step @ self._likeness @ step)) + luck)
            for step in (
                self._weights * np.where(self._weights > 0, down, up),
                self._weights * np.where(self._weights > 0, up, down),
            )
        )
        return self.value - below, self.value + above

    def find_least_reach(self) -> float:
        """Find how many standard errors bring an end of the interval to zero."""
        place = 0 if self.value >= 0 else 1  # of the end nearer to zero
        sign = 1 if self.value >= 0 else -1

        def stay_away(reach: float) -> float:
            return sign * self.find_limits(reach)[place]

        if self.value == 0 or stay_away(FARTHEST) >= 0:
            return FARTHEST if self.value else 0.0
        return float(optimize.brentq(stay_away, 0.0, FARTHEST, xtol=1e-4))


def _sum_luck(terms: Sequence[Term]) -> tuple[float, int]:
    """Give the variance of a gap that is due to training seeds, and how many of those there are."""
    variance, seeds = 0.0, 1
    for run in {term.run for term in terms}:
        each = np.sum(
            [it.part.values @ it.weights for it in terms if it.run == run], axis=0
        )  # (S,)
        seeds = len(each)
        variance += float(np.var(each, ddof=1)) / seeds if seeds > 1 else 0.0
    return variance, seeds


@lru_cache(maxsize=4096)
def _find_reach(level: float, subgroups: int, freedom: float) -> float:
    if subgroups < 3:  # the same, by a formula
        return float(stats.t.ppf((1 + level) / 2, freedom))
    return float(stats.studentized_range.ppf(level, subgroups, freedom)) / math.sqrt(2)


def _find_tail(reach: float, subgroups: int, freedom: float) -> float:
    if subgroups < 3:
        return float(2 * stats.t.sf(reach, freedom))
    return float(stats.studentized_range.sf(reach * math.sqrt(2), subgroups, freedom))


def _round_down(freedom: float) -> float:
    """Take few different numbers of degrees of freedom, as tables do: a quantile is an integral."""
    larger = [step for step in (30, 40, 60, 120, 500) if step <= freedom]
    return float(larger[-1] if larger else max(1, math.floor(freedom)))


def find_largest(gaps: Sequence[Gap]) -> int:
    """Name the gap to speak of: of those that are shown the surest one, else the largest."""
    shown = [place for place, gap in enumerate(gaps) if gap.is_shown]
    if shown:
        return min(shown, key=lambda place: (gaps[place].p_value, -abs(gaps[place].value)))
    return max(range(len(gaps)), key=lambda place: abs(gaps[place].value))


def count_needed_groups(gap: Gap, groups: int) -> int | None:
    """Estimate how many patients of two subgroups a study needs to see `ASKED_GAP` between them.

    It sees it in `POWER` of cases. The part of the standard error that is due to patients is taken
    to fall with the root of their number.

    Args:
        gap: As measured.
        groups: How many patients (or images, where those are unknown) both subgroups have.

    Returns:
        None where training seeds alone would hide such a gap.

    Source:
        Julious 2004, Statistics in Medicine 23, 1921-1986 (superiority).
    """
    allowed = (ASKED_GAP / (gap.reach + float(stats.norm.ppf(POWER)))) ** 2 - gap.seed_error**2
    return None if allowed <= 0 else math.ceil(groups * gap.error**2 / allowed)


def round_estimate(number: int) -> int:
    """Round a number of patients or images to two digits, which is all that an estimate has."""
    return round(number, -max(0, len(str(number)) - 2))
