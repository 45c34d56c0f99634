"""Whether a classifier finds the class in drawn images as often as in real ones it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from medart_cli.metrics.arrays import Array, Indices
from medart_cli.metrics.intervals import Linear, contrast_limits, find_limits

AS_WELL, LESS, NOT_SHOWN = "as well", "less", "not shown"
# By so much the share of the drawn images may be lower for "as well"; the interval must exclude
# more. In reader studies of diagnostic tests 0.05 to 0.1 is the usual margin.
LOWER_MARGIN = 0.1


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of a set.

    Attributes:
        truth: The class of each image, (N,).
        said: The class that the classifier finds likeliest, (N,).
        groups: Patient of each image, as codes, (N,).
    """

    truth: Indices
    said: Indices
    groups: Indices


def compare_recognition(
    real: Predictions, drawn: Predictions, classes: Sequence[str]
) -> dict[str, Any]:
    """Compare the shares of images that a classifier puts in their class.

    Labels count alike: the overall share is the mean over the labels that both sets have (balanced
    accuracy). Intervals are by patient, see `find_limits` and `contrast_limits`.

    Args:
        real: Held-out real images.
        drawn: Drawn ones.
        classes: The classifier's classes.

    Returns:
        `labels`: for each label of the drawn images `n_drawn`, `n_real`, `drawn` and `real` (each
        `value` and `interval`; real is null where there is no such image) and `difference`, drawn
        less real; `drawn`, `real` and `difference` over the labels of both, null where there is
        none; `confusion_drawn` and `confusion_real`, counts of true (rows, all classes) against
        predicted classes; `verdict` and its `reason`.
    """
    codes = np.concatenate([real.groups, drawn.groups + real.groups.max(initial=-1) + 1])
    present = [code for code in range(len(classes)) if (drawn.truth == code).any()]
    shared = [code for code in present if (real.truth == code).any()]
    labels = {classes[code]: _compare(real, drawn, [code], codes) for code in present}
    found = _compare(real, drawn, shared, codes)
    verdict, reason = judge_recognition(found, len(classes))
    return {
        "labels": labels,
        **found,
        "confusion_drawn": _count_confusions(drawn, len(classes)),
        "confusion_real": _count_confusions(real, len(classes)),
        "verdict": verdict,
        "reason": reason,
    }


def _count_confusions(item: Predictions, classes: int) -> list[list[int]]:
    if not len(item.truth):
        return np.zeros((classes, classes), dtype=np.int64).tolist()
    table: list[list[int]] = confusion_matrix(
        item.truth, item.said, labels=list(range(classes))
    ).tolist()
    return table


def _compare(
    real: Predictions, drawn: Predictions, chosen: Sequence[int], codes: Indices
) -> dict[str, Any]:
    """Compare the mean share over some classes, of which the drawn set has each."""
    counts = [int(np.isin(item.truth, chosen).sum()) for item in (drawn, real)]
    found: dict[str, Any] = {
        "n_drawn": counts[0],
        "n_real": counts[1],
        "drawn": None,
        "real": None,
        "difference": None,
    }
    if not chosen:
        return found
    count = len(chosen)
    columns = [_count_hits(drawn, code, len(real.truth), first=False) for code in chosen]
    if counts[1]:
        columns += [_count_hits(real, code, len(drawn.truth), first=True) for code in chosen]
    linear = _linearize(columns, codes)
    one, none = np.full(count, 1 / count), np.zeros(count)
    found["drawn"] = _measure(linear, codes, np.concatenate([one, none][: 1 + bool(counts[1])]))
    if counts[1]:
        found["real"] = _measure(linear, codes, np.concatenate([none, one]))
        found["difference"] = _measure(linear, codes, np.concatenate([one, -one]))
    return found


def _measure(linear: Linear, codes: Indices, weights: Array) -> dict[str, Any]:
    value = float(weights @ linear.values[0])
    if (weights < 0).any():
        return {"value": value, "interval": list(contrast_limits(linear, codes, weights))}
    if (weights > 0).sum() == 1:
        return {"value": value, "interval": find_limits(linear, codes)[weights > 0][0].tolist()}
    low, high = contrast_limits(linear, codes, weights)
    return {"value": value, "interval": [max(0.0, low), min(1.0, high)]}


def _count_hits(item: Predictions, code: int, others: int, *, first: bool) -> tuple[Array, Array]:
    """Return which rows of both sets together are of a class and of this set, and which are hit."""
    own = (item.truth == code).astype(np.float64)
    hits = own * (item.said == code)
    rest = np.zeros(others)
    return tuple(  # type: ignore[return-value] # two
        np.concatenate([part, rest] if first else [rest, part]) for part in (own, hits)
    )


def _linearize(columns: Sequence[tuple[Array, Array]], codes: Indices) -> Linear:
    """Express shares by the influence of each row."""
    own, hits = (np.stack(part, axis=1) for part in zip(*columns, strict=True))  # (N, K)
    images = own.sum(axis=0)
    values = hits.sum(axis=0) / images
    groups = np.array([len(np.unique(codes[column > 0])) for column in own.T])
    return Linear(values[None, :], (hits - values * own) / images, images, groups)


def judge_recognition(found: dict[str, Any], classes: int) -> tuple[str, str]:
    """Say what the difference shows: `AS_WELL`, `LESS` or `NOT_SHOWN`, and why.

    Args:
        found: `real` and `difference`, with their intervals.
        classes: How many the classifier has.
    """
    if found["difference"] is None:
        reason = "no label has synthetic images and real ones that the classifier has not seen"
        return NOT_SHOWN, reason
    if found["real"]["interval"][0] <= 1 / classes:
        return NOT_SHOWN, "the classifier is not shown to tell the real images' classes either"
    low, high = found["difference"]["interval"]
    if high < 0:
        return LESS, "a difference that is more than chance"
    if low > -LOWER_MARGIN:
        return AS_WELL, f"a share lower by {100 * LOWER_MARGIN:.0f} points is excluded"
    return (
        NOT_SHOWN,
        f"{100 * LOWER_MARGIN:.0f} points less are not excluded; more images could do so",
    )
