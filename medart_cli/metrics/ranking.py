"""Which of several synthetic sets is nearest to the real images, by paired differences.

All sets are compared with the same real images, so what those have by chance is no part of a
difference. The distance is the energy distance, which has no bias at small n; the Frechet distance
is nearly all bias there, and the less the less a set varies. Features are first brought to a like
spread in all directions, else the few along which images vary most hide what a set lacks in the
others. Two differences count: that over all images, and the mean over the labels, without which a
set with its labels exchanged would do as well as one without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular

from medart_cli.metrics.arrays import AnyArray, Array, Indices
from medart_cli.metrics.distances import Moments, pairwise_distances
from medart_cli.metrics.kernel import (
    LEAST_GROUPS,
    Jackknife,
    average,
    jackknife_tables,
    subtract,
    take_root,
)
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL

# By all images, and by label. Two sets that are equally near have a winner in at most 2 % of cases;
# nominally less, for beside few patients there are a little more than is nominal.
FALSE_WINNERS = (0.01, 0.005)
RIDGE = 0.01  # of the real images' variance: what is added to that of each direction


@dataclass(frozen=True)
class Sample:
    """The images of one set, as the ranking sees them.

    Attributes:
        features: (N, D).
        groups: Code of what belongs together, patients as a rule, (N,).
        labels: Code of the label, the same for all sets, (N,); -1 for none.
    """

    features: AnyArray
    groups: Indices
    labels: Indices

    def find(self, label: int | None) -> npt.NDArray[np.bool_]:
        """Say which images have a label, (N,); all for None."""
        return np.full(len(self.groups), True) if label is None else self.labels == label

    def list_labels(self) -> set[int]:
        """List the labels with enough groups for a distance of their own."""
        codes = np.unique(self.labels[self.labels >= 0])
        return {int(it) for it in codes if count_groups(self.groups[self.labels == it])}


def count_groups(groups: Indices) -> int:
    """Count the groups, where they are enough for a jackknife; else 0."""
    count = len(np.unique(groups))
    return count if count >= LEAST_GROUPS else 0


def rank_sets(
    reference: Sample, sets: Mapping[str, Sample], names: list[str], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Rank sets by their energy distances to the reference, and name a winner if there is one.

    Args:
        reference: The real images; with each set it has three groups or more.
        sets: Two synthetic sets or more, by name.
        names: Of the labels, by code.
        left_out: Sets that cannot win, and why.

    Returns:
        Keys: order (best first, those that are left out last), winner (None unless one set is
        surely nearer than every other that can win), reason, left_out, distance (of each set
        `value` and `interval`), pairs (see `_compare`).
    """
    measured = _measure(reference, sets, by_label=len(sets) == 2)
    pairs = []
    for first, second in combinations(sets, 2):
        # By themselves: a third set that is far off would be most of what whitening evens out.
        two = measured
        if len(sets) > 2:
            two = _measure(reference, {first: sets[first], second: sets[second]})
        pairs.append(_compare((first, two[first]), (second, two[second]), names))
    wins = {name: sum(pair["nearer"] == name for pair in pairs) for name in sets}
    order = sorted(
        sets, key=lambda name: (name in left_out, -wins[name], measured[name][None].value)
    )
    winner, reason = _find_winner(order, pairs, left_out)
    return {
        "order": order,
        "winner": winner,
        "reason": reason,
        "left_out": dict(left_out),
        "distance": {name: _describe(measured[name][None], CONFIDENCE_LEVEL) for name in order},
        "pairs": pairs,
    }


def _measure(
    reference: Sample, sets: Mapping[str, Sample], *, by_label: bool = True
) -> dict[str, dict[int | None, Jackknife]]:
    """Measure each set's distance over all images (None) and, if asked, for each common label."""
    real, *others = _even_out([reference.features, *(item.features for item in sets.values())])
    own = -pairwise_distances(real, real)
    found: dict[str, dict[int | None, Jackknife]] = {}
    for (name, item), features in zip(sets.items(), others, strict=True):
        within = -pairwise_distances(features, features)
        across = -pairwise_distances(real, features)
        found[name] = {}
        labels = sorted(reference.list_labels() & item.list_labels()) if by_label else []
        for label in (None, *labels):
            rows, columns = (np.flatnonzero(one.find(label)) for one in (reference, item))
            found[name][label] = jackknife_tables(
                (own[np.ix_(rows, rows)], within[np.ix_(columns, columns)]),
                across[np.ix_(rows, columns)],
                (reference.groups[rows], item.groups[columns]),
            )
    return found


def _even_out(tables: list[AnyArray]) -> list[Array]:
    """Whiten features by the covariance of the given sets, the real one first; then scale them.

    All images have the same part in the covariance. Whitened by that of the real images alone,
    these would vary less than new ones of their kind, and sets that vary less would seem nearer.
    The ridge keeps directions of little variance, which few images cannot tell, from counting as
    much as the others.

    Args:
        tables: (N, D) each.

    Returns:
        (N, D) each; the mean square of the real ones' distance from their mean is 1.
    """
    moments = Moments(tables[0].shape[1])
    for table in tables:
        moments.update(table)
    covariance = moments.covariance  # (D, D)
    spread = float(np.var(tables[0], axis=0, dtype=np.float64).sum())
    spread = max(spread, 1e-6 * float(np.trace(covariance)), 1e-12)  # where real ones are equal
    covariance[np.diag_indices_from(covariance)] += RIDGE * spread
    root = cholesky(covariance, lower=True)
    even = [solve_triangular(root, (table - moments.mean).T, lower=True).T for table in tables]
    scale = max(float(np.var(even[0], axis=0).sum()) ** 0.5, 1e-12)
    return [np.ascontiguousarray(table / scale) for table in even]


def _compare(
    first: tuple[str, dict[int | None, Jackknife]],
    second: tuple[str, dict[int | None, Jackknife]],
    names: list[str],
) -> dict[str, Any]:
    """Compare two sets: first less second, so that below zero the first is nearer.

    Returns:
        Keys: first, second, nearer (the name of the one that is surely nearer in one of the two
        differences and not surely farther in the other, or None), distance, root (the difference
        of the roots of both distances), by_label (the mean over labels that both have; None below
        two), labels; a difference has `value`, and `interval` at its `level`; those of the labels
        hold all together.
    """
    ones, others = first[1], second[1]
    labels = [it for it in ones if it is not None and it in others]
    whole = subtract(ones[None], others[None])
    if len(labels) > 1:
        means = (average([found[it] for it in labels]) for found in (ones, others))
        shares = zip((whole, subtract(*means)), FALSE_WINNERS, strict=True)
        counted = [_describe(part, 1 - share) for part, share in shares]
    else:
        counted = [_describe(whole, 1 - sum(FALSE_WINNERS))]
    signs = {find_sign(part["interval"]) for part in counted} - {0}
    each = 1 - (1 - CONFIDENCE_LEVEL) / max(1, len(labels))  # those of the labels hold together
    return {
        "first": first[0],
        "second": second[0],
        "nearer": {-1: first[0], 1: second[0]}[signs.pop()] if len(signs) == 1 else None,
        "distance": counted[0],
        "root": describe_roots(ones[None], others[None]),
        "by_label": counted[1] if len(counted) > 1 else None,
        "labels": {names[it]: _describe(subtract(ones[it], others[it]), each) for it in labels},
    }


def find_sign(interval: tuple[float, float] | list[float]) -> int:
    """Return 1 or -1 where an interval lies above or below zero, 0 where it holds zero."""
    return int(interval[0] > 0) - int(interval[1] < 0)


def describe_roots(first: Jackknife, second: Jackknife) -> dict[str, Any]:
    """Take the difference of the roots of two sets' squared distances: `value` and `interval`."""
    return _describe(subtract(take_root(first), take_root(second)), CONFIDENCE_LEVEL)


def _describe(part: Jackknife, level: float) -> dict[str, Any]:
    return {"value": part.value, "level": level, "interval": list(part.find_interval(level))}


def _find_winner(
    order: list[str], pairs: list[dict[str, Any]], left_out: Mapping[str, str]
) -> tuple[str | None, str]:
    """Name the set that is nearer than every other that can win, and say why or why none is."""
    able = [name for name in order if name not in left_out]
    told = "".join(f"; {name} is left out: {why}" for name, why in left_out.items())
    if len(able) < 2:
        return None, "fewer than two sets can win" + told
    nearer = {frozenset((it["first"], it["second"])): it["nearer"] for it in pairs}
    for name in able:
        if all(nearer[frozenset((name, other))] == name for other in able if other != name):
            return name, "it is nearer than each of the others by more than chance" + told
    return None, "no set is nearer than all others by more than chance" + told
