"""How much of what a caption says is said again of the image that was drawn from it.

The same for the real image that the caption describes is the most that can be hoped for (the
ceiling), and captions of other images of the same label say some of it by chance (the floor).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli.metrics.arrays import Array, Indices, Mask
from medart_cli.metrics.intervals import Linear, contrast_limits, find_limits
from medart_cli.metrics.recognition import AS_WELL, LESS, NOT_SHOWN

# Of what real images show beyond the floor, drawn images must show so much for "as well": the
# interval must exclude less. Keeping a part of an effect, as in trials of non-inferiority.
KEPT = 0.75
LEAST_RETOLD = 10  # captions on either side; of fewer nothing is said


@dataclass(frozen=True)
class Retold:
    """What captions ask for, and what new captions of the images tell.

    Attributes:
        asked: Which of V attributes each image's caption names, (N, V).
        told: Which its new caption names, (N, V).
        labels: Label of each image, as codes, (N,).
        texts: Codes of the captions: two images of one caption have the same, (N,).
        groups: Patient that each caption is of, as codes, the same for drawn and real images, (N,).
    """

    asked: Mask
    told: Mask
    labels: Indices
    texts: Indices
    groups: Indices


@dataclass(frozen=True)
class _Share:
    """A share of attributes, and what each image has to do with it."""

    value: float
    influence: Array
    mentions: int
    groups: int


def compare_retelling(drawn: Retold, real: Retold | None, chosen: Indices) -> dict[str, Any] | None:
    """Compare the shares of attributes that are told again, of drawn and of real images.

    Args:
        drawn: The drawn images.
        real: Real images with their own captions; those that the drawn ones are from, if they are
            there: what both have in common is then no part of the error.
        chosen: Which attributes count.

    Returns:
        `mentions` (attributes that the captions of the drawn images name, each as often as it is
        named), `drawn`, `drawn_floor`, `real`, `real_floor` and `difference` (drawn less real),
        each with `value` and 95 % `interval` by patient, or null; `verdict` and its `reason`. None
        where no caption names any.

    Source:
        Ratios of sums over patients by linearization, limits as in intervals.py.
    """
    sides = [("drawn", drawn), *([("real", real)] if real is not None else [])]
    shares: dict[str, _Share] = {}
    for name, item in sides:
        own = _share_told(item, chosen)
        floor = _share_by_chance(item, chosen)
        shares |= {key: it for key, it in ((name, own), (f"{name}_floor", floor)) if it is not None}
    if "drawn" not in shares:
        return None
    sizes = {"drawn": len(drawn.texts), "real": 0 if real is None else len(real.texts)}
    linear = _join(shares, sizes)
    codes = np.unique(np.concatenate([item.groups for _, item in sides]), return_inverse=True)[1]
    limits = find_limits(linear, codes)
    found: dict[str, Any] = {"mentions": shares["drawn"].mentions, "difference": None}
    for name in ("drawn", "drawn_floor", "real", "real_floor"):
        found[name] = None
        if name in shares:
            ends = limits[[*shares].index(name)].tolist()
            found[name] = {"value": shares[name].value, "interval": ends}
    if "real" in shares:
        found["difference"] = _contrast(linear, codes, [*shares], {"drawn": 1, "real": -1})
    few = min(sizes.values()) < LEAST_RETOLD
    verdict, reason = _judge(linear, codes, [*shares], few=few)
    return found | {"verdict": verdict, "reason": reason}


def _share_told(item: Retold, chosen: Indices) -> _Share | None:
    """Give the share of the captions' attributes that the new captions tell."""
    asked = item.asked[:, chosen]
    counts, hits = asked.sum(axis=1), (asked & item.told[:, chosen]).sum(axis=1)
    total = int(counts.sum())
    if not total:
        return None
    value = float(hits.sum() / total)
    groups = len(np.unique(item.groups[counts > 0]))
    return _Share(value, (hits - value * counts) / total, total, groups)


def _share_by_chance(item: Retold, chosen: Indices) -> _Share | None:
    """Give the share that new captions of other images with the same label tell.

    The mean over all others, which is what any number of random permutations comes to.
    """
    asked = item.asked[:, chosen].astype(np.float64)
    hits = asked @ item.told[:, chosen].astype(np.float64).T  # (N, N)
    others = (item.labels[:, None] == item.labels) & (item.texts[:, None] != item.texts)
    count = others.sum(axis=1)
    known = (count > 0) & (asked.sum(axis=1) > 0)
    weights: npt.NDArray[np.float64] = others[known] / count[known, None]  # rows sum to 1
    counts = asked.sum(axis=1)[known]
    total = counts.sum()
    if not total:
        return None
    value = float((weights * hits[known]).sum() / total)
    influence = (weights * (hits[known] - value * counts[:, None])).sum(axis=0)  # of new captions
    influence[known] += (weights * hits[known]).sum(axis=1) - value * counts  # and of captions
    groups = len(np.unique(item.groups[known]))
    return _Share(value, influence / total, int(total), groups)


def _join(shares: dict[str, _Share], sizes: dict[str, int]) -> Linear:
    """Put the shares of drawn and real images, one set below the other, side by side."""
    columns = []
    for name, share in shares.items():
        rest = np.zeros(sizes["real" if name.startswith("drawn") else "drawn"])
        parts = [share.influence, rest] if name.startswith("drawn") else [rest, share.influence]
        columns.append(np.concatenate(parts))
    return Linear(
        np.array([[share.value for share in shares.values()]]),
        np.stack(columns, axis=1),
        np.array([share.mentions for share in shares.values()], dtype=np.float64),
        np.array([share.groups for share in shares.values()], dtype=np.float64),
    )


def _contrast(
    linear: Linear, codes: Indices, names: list[str], weights: dict[str, float]
) -> dict[str, Any]:
    row = np.array([weights.get(name, 0.0) for name in names])
    return {
        "value": float(row @ linear.values[0]),
        "interval": list(contrast_limits(linear, codes, row)),
    }


def _judge(linear: Linear, codes: Indices, names: list[str], *, few: bool) -> tuple[str, str]:
    """Say what the shares show: `AS_WELL`, `LESS` or `NOT_SHOWN`, and why."""
    if "real" not in names:
        return NOT_SHOWN, "there are no real images with captions to compare with"
    if few:
        return NOT_SHOWN, f"{LEAST_RETOLD} synthetic and {LEAST_RETOLD} real images are needed"
    if not {"drawn_floor", "real_floor"} <= {*names}:
        return NOT_SHOWN, "no label has two different captions"

    def limits(**weights: float) -> list[float]:
        found: list[float] = _contrast(linear, codes, names, weights)["interval"]
        return found

    if limits(real=1, real_floor=-1)[0] <= 0:
        return NOT_SHOWN, (
            "the captioner does not tell the captions of real images from those of other images of "
            "the same label"
        )
    if limits(drawn=1, real=-1)[1] < 0:
        follows = limits(drawn=1, drawn_floor=-1)[0] > 0
        more = "yet more" if follows else "and not shown to be more"
        return LESS, f"less than of real images, {more} than of captions of other images"
    if limits(drawn=1, real=-KEPT, real_floor=KEPT - 1)[0] > 0:
        return AS_WELL, (
            f"at least {KEPT:.0%} of what real images show beyond captions of other images"
        )
    return NOT_SHOWN, "the difference is too unsure; more images or captions could settle it"
