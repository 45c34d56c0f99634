"""Membership: whether the weights tell which images they were trained on.

Each image has a score, how much the training lowered its loss. Where training images have higher
scores than other images of the same source, one who has the weights and an image can tell, better
than by guessing, whether it was among them. How well is the area under the curve (AUC), and the
share that is recognized where at most 1 in 100 other images is taken for a training image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import roc_auc_score

from medart_cli.metrics.arrays import Array, Indices, Mask
from medart_cli.metrics.intervals import Linear, find_class_intervals, find_limits

FALSE_RATE = 0.01  # Carlini et al. 2022: an attack counts by what it finds at few false alarms
LEAST_TO_RECOGNIZE = 99  # patients: of fewer, one already is more than 1 of 100
DEALS = 1_999  # permutations; the least p-value is 1 in 2,000
LEAK = 0.01  # p-value from which it is said that the weights tell


def choose_alike(
    labels: tuple[Sequence[str | None], Sequence[str | None]],
    groups: tuple[Indices, Indices],
    most: int,
    generator: np.random.Generator,
) -> tuple[Indices, Indices]:
    """Choose images of two sides so that each label has the same share of both.

    Labels differ in how much is learned of them, so that another mix of labels would pass for
    membership. The larger side is a whole multiple of the smaller one, for each label. Of many
    images one of each patient is taken first.

    Args:
        labels: Of the images of both sides, None for none. Where a side has none at all, all images
            count as of one label.
        groups: Codes of the patients of both sides.
        most: Images a side, at most, or one of each label.
        generator: Draws.

    Returns:
        Rows of both sides, ascending; empty where no label is on both.
    """
    known = all(any(name is not None for name in side) for side in labels)
    sides = [
        np.asarray([name or "" for name in side] if known else [""] * len(side)) for side in labels
    ]
    shared = np.intersect1d(sides[0], sides[1])
    counts = np.array([[(side == name).sum() for name in shared] for side in sides])  # (2, K)
    if not len(shared):
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    each = counts.min(axis=0)
    if each.sum() > most:
        each = np.maximum(1, each * most // each.sum())
    times = np.clip((counts // each).min(axis=1), 1, max(1, most // each.sum()))  # (2,)
    chosen = []
    for side, codes, factor in zip(sides, groups, times, strict=True):
        order = _spread(codes, generator)
        taken = [
            order[side[order] == name][: factor * count]
            for name, count in zip(shared, each, strict=True)
        ]
        chosen.append(np.sort(np.concatenate(taken)))
    return chosen[0], chosen[1]


def _spread(codes: Indices, generator: np.random.Generator) -> Indices:
    """Shuffle rows, the first image of each patient before the second of any."""
    order = generator.permutation(len(codes))
    seen: dict[int, int] = {}
    turns = []
    for code in codes[order].tolist():
        turns.append(seen.get(code, 0))
        seen[code] = turns[-1] + 1
    return np.asarray(order[np.argsort(turns, kind="stable")], dtype=np.intp)


def judge_membership(
    scores: tuple[Array, Array],
    groups: tuple[Indices, Indices],
    labels: tuple[Sequence[str | None], Sequence[str | None]],
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Say how well scores tell training images from others.

    Args:
        scores: Of training images (N,), and of others (M,); higher is likelier trained on.
        groups: Codes of their patients; the sides share none, and codes of one mean nothing on the
            other.
        labels: Of their images; patients are dealt among those with images of the same labels.
        generator: Deals.

    Returns:
        Keys: auc; its 95 % interval, None below two patients a side; p_value, one-sided; shown,
        whether that is 0.01 or less; recognized, see `count_recognized`.

    Source:
        Yeom et al. 2018 (membership by the loss); DeLong et al. 1988, with influences summed by
        patient, for the interval, as in intervals.py.
    """
    pooled = np.concatenate(scores)
    trained = np.repeat([True, False], [len(side) for side in scores])
    codes = np.concatenate([groups[0], groups[1] + 1 + groups[0].max()])
    several = all(len(np.unique(side)) > 1 for side in groups)
    interval = None
    if several:
        columns = np.stack([-pooled, pooled], axis=1)  # only their order counts
        found = find_class_intervals(trained.astype(np.int64), [columns], codes.tolist())
        interval = [float(end) for end in found["auroc"][1]]
    p_value = _deal_patients(pooled, trained, codes, [*labels[0], *labels[1]], generator)
    return {
        "auc": float(roc_auc_score(trained, pooled)),
        "interval": interval,
        "p_value": p_value,
        "shown": p_value <= LEAK,
        "recognized": count_recognized(scores, groups),
    }


def _deal_patients(
    scores: Array,
    trained: Mask,
    codes: Indices,
    labels: Sequence[str | None],
    generator: np.random.Generator,
) -> float:
    """Return the share of deals of patients to the sides whose AUC is as high.

    A patient stays whole, and changes places with one who has images of the same labels.
    """
    _, first, units = np.unique(codes, return_index=True, return_inverse=True)
    own: list[set[str]] = [set() for _ in first]
    for unit, label in zip(units.tolist(), labels, strict=True):
        own[unit].add(label or "")
    strata = np.unique(["\0".join(sorted(names)) for names in own], return_inverse=True)[1]
    dealt = np.tile(trained[first], (DEALS, 1))
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        dealt[:, places] = generator.permuted(dealt[:, places], axis=1)
    sides = np.concatenate([trained[None], dealt[:, units]])  # (1 + deals, N)
    ranks, ours = stats.rankdata(scores), sides.sum(axis=1)
    # By the rank sum, Mann and Whitney 1947.
    wins = sides @ ranks - ours * (ours + 1) / 2
    areas = wins / np.maximum(1, ours * (len(scores) - ours))
    return float((areas >= areas[0] - 1e-12).mean())


def count_recognized(
    scores: tuple[Array, Array], groups: tuple[Indices, Indices]
) -> dict[str, Any] | None:
    """Count the training images above a score that at most 1 of 100 other patients exceeds.

    Args:
        scores: As `judge_membership`.
        groups: As `judge_membership`; of other images those of one patient count as one.

    Returns:
        Keys: share, of the training images; its 95 % interval, by patient, at that score;
        false_rate, the share of unseen patients that is expected above it. None below 99 other
        patients, of whom a single one would be more than 1 in 100.

    Source:
        Carlini et al. 2022, Membership inference attacks from first principles, section 3.1;
        Vovk et al. 2005 for the expected share above an order statistic.
    """
    ours, others = scores
    _, units, sizes = np.unique(groups[1], return_inverse=True, return_counts=True)
    if len(sizes) < LEAST_TO_RECOGNIZE:
        return None
    place = int(FALSE_RATE * (len(sizes) + 1) + 1e-9)
    order = np.argsort(-others)
    reached = np.searchsorted(np.cumsum(1 / sizes[units][order]), place - 1e-9)
    found = (ours > others[order[min(int(reached), len(order) - 1)]]).astype(np.float64)
    return {
        **share_by_patient(found, groups[0]),
        "false_rate": place / (len(sizes) + 1),
    }


def share_by_patient(found: Array, groups: Indices) -> dict[str, Any]:
    """Return a share of images with its 95 % interval by patient.

    Args:
        found: 1 where an image counts, else 0, (N,).
        groups: Codes of the patients, (N,).

    Returns:
        Keys: share; interval, Wilson's for the effective number of images, see intervals.py.
    """
    share = float(found.mean())
    _, codes = np.unique(groups, return_inverse=True)
    sizes = np.array([len(found)]), np.array([codes.max() + 1])
    linear = Linear(np.array([[share]]), (found - share)[:, None] / len(found), *sizes)
    low, high = find_limits(linear, codes.astype(np.int64))[0]
    return {"share": share, "interval": [float(low), float(high)]}
