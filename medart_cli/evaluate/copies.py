"""The near-copies of `medart evaluate`: features from the cache -> pairs of images."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medart_cli import stop
from medart_cli.evaluate.networks import Networks
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import ImageSet, find_copied, find_heldout
from medart_cli.log import log
from medart_cli.metrics import copies
from medart_cli.metrics.arrays import Indices
from medart_cli.metrics.features import read_features
from medart_cli.metrics.membership import share_by_patient
from medart_cli.models.device import find_device

SPACES = ("features", "features of the middle", "pixels")  # where copies are looked for
# What the search sees through, as measured in docs/benchmarks.md; for the report's page.
SEEN_THROUGH = (
    "Detected: copies that were re-encoded, scaled, blurred, mirrored, rotated by any angle, "
    "brightened, converted to gray, inverted, cropped to 60 % of the side, shrunk to 70 % of it, "
    "shifted by 15 % or partly covered. Mostly not detected: smaller crops and larger shifts; "
    "copies that fill half of the side or less; the average of two images; several such changes at "
    "once; the same lesion or patient in another photograph; a single detail. An empty list is no "
    "proof that nothing was copied."
)
LISTED = (
    *("set", "file_name", "label", "nearest", "nearest_label"),
    *("identical", "score", "space", "ratios"),
)  # keys of copies.jsonl


@dataclass(frozen=True)
class Pairs:
    """Each image of a synthetic set with its nearest real image.

    Attributes:
        own: The synthetic set, N images.
        real: The images that may have been copied: the training images, else the real set.
        alone: Whether these set the threshold as well, each left out.
        nearest: The nearest in each of SPACES.
        verdict: Which are near-copies by these.
        found: Row of the real image to show beside each, (N,).
        identical: Whether that has the same bytes, which makes a copy in any case, (N,).
    """

    own: ImageSet
    real: ImageSet
    alone: bool
    nearest: list[copies.Nearest]
    verdict: copies.Verdict
    found: Indices
    identical: npt.NDArray[np.bool_]

    @cached_property
    def copied(self) -> npt.NDArray[np.bool_]:
        """Whether each is a copy, (N,)."""
        return np.asarray(self.verdict.flagged | self.identical)

    def worst(self, most: int) -> list[int]:
        """Return at most so many rows, those of the same bytes first, then by their score."""
        order = np.lexsort((-self.verdict.score, ~self.identical))
        return [int(row) for row in order[:most]]

    def describe(self, row: int) -> dict[str, Any]:
        """Put together what is known of one synthetic image."""
        record, real = self.own.record(row), self.real.record(int(self.found[row]))
        return {
            "set": self.own.name,
            "file_name": record.file_name,
            "label": record.label,
            "nearest": real.file_name,
            "nearest_label": real.label,
            "copy": bool(self.copied[row]),
            "identical": bool(self.identical[row]),
            "score": float(self.verdict.score[row]),
            "space": SPACES[self.verdict.space[row]],
            "ratios": {
                name: float(part.ratio[row])
                for name, part in zip(SPACES, self.nearest, strict=True)
            },
        }


def find_copies(
    config: EvaluateConfig, sets: list[ImageSet], networks: Networks, cache: Path
) -> list[Pairs]:
    """Find near-copies in each synthetic set; nothing where there are too few images."""
    synthetic, real = sets[1 : 1 + len(config.synthetic)], find_copied(config, sets)
    if not config.copies:
        return []
    if len(real) < copies.LEAST_TRAINING:
        log.warning("%s: too few images to detect near-copies", real.name)
        return []
    find_nearest = partial(_find_nearest, real, networks, cache, find_device(config.device))
    holdout = find_heldout(config, sets)
    alone = holdout is real
    heldout = find_nearest(holdout, real.groups if alone else real.find_groups(holdout))
    twins = int(copies.find_twins(heldout[-1]).sum())
    if twins:
        log.warning(
            "%s: %d images look like duplicates or retakes of a real image; if they are of one "
            "patient, give both a group_id",
            *(holdout.name, twins),
        )
    if twins == len(holdout):
        log.warning("%s: no image is left to set the near-copy threshold", holdout.name)
        return []
    found = []
    for item in synthetic:
        stop.check()
        nearest = find_nearest(item, np.full(len(item), -1))  # compared with all real images
        verdict = copies.judge_copies(
            nearest, heldout, holdout.groups, rate=config.copy_rate, trained=alone
        )
        found.append(_pair_up(item, real, nearest, verdict, alone=alone))
    return found


def _find_nearest(
    real: ImageSet,
    networks: Networks,
    cache: Path,
    device: torch.device,
    item: ImageSet,
    groups: Indices,
) -> list[copies.Nearest]:
    """Find the nearest real image of each image of a set, in the order of SPACES.

    The features of one space after the other are in memory.
    """
    *spaces, layout = networks.copies
    found = []
    for plain, mirrored in zip(spaces, networks.mirrored, strict=True):
        training = [read_features(real.keys, view, cache) for view in (plain, mirrored)]
        queries = read_features(item.keys, plain, cache)
        found.append(copies.find_nearest_features(queries, training, groups, real.groups))
    del training, queries  # room for the layouts
    own, theirs = (read_features(keys, layout, cache) for keys in (item.keys, real.keys))
    return [*found, copies.find_nearest_layouts(own, theirs, groups, real.groups, device)]


def _pair_up(
    item: ImageSet,
    real: ImageSet,
    nearest: list[copies.Nearest],
    verdict: copies.Verdict,
    *,
    alone: bool = True,
) -> Pairs:
    """Choose the real image that stands beside each synthetic one."""
    index = np.stack([part.index for part in nearest])  # (spaces, N)
    found = index[verdict.space, np.arange(len(item))]
    order = np.argsort(real.keys, kind="stable")
    place = np.searchsorted(real.keys, item.keys, side="right", sorter=order) - 1
    same = order[np.maximum(place, 0)]  # the last image of these bytes, if there is one
    identical = real.keys[same] == item.keys
    return Pairs(item, real, alone, nearest, verdict, np.where(identical, same, found), identical)


def sum_up(pairs: Pairs) -> dict[str, Any]:
    """Count the copies of one set, for metrics.json."""
    count, n = int(pairs.copied.sum()), len(pairs.own)
    low, high = copies.wilson_interval(count, n)
    chance = copies.find_chance(count, n, pairs.verdict)
    return {
        "set": pairs.own.name,
        "n": n,
        "copies": count,
        "identical_files": int(pairs.identical.sum()),
        "share": count / n,
        "interval": [low, high],
        "chance": chance,
        "excess": chance <= copies.EXCESS,
        "false_alarms": pairs.verdict.false_alarms,
        "heldout": pairs.verdict.images,
        "heldout_units": pairs.verdict.heldout,
        "calibration": "leave-one-out" if pairs.alone else "held-out set",
        "copied": count_copied(pairs),
        "real_twins": pairs.verdict.twins,
        "thresholds": dict(zip(SPACES, pairs.verdict.thresholds, strict=True)),
    }


def count_copied(pairs: Pairs) -> dict[str, Any]:
    """Count the images, and the patients, that the drawn images copy, for metrics.json.

    Each copy is one of the image that stands beside it. More images of one model copy more.
    """
    real = pairs.real
    hit = np.zeros(len(real))
    hit[pairs.found[pairs.copied]] = 1
    found = {"set": real.name, "copied": int(hit.sum()), "n": len(real), "patients": None}
    found |= share_by_patient(hit, real.clusters)
    if real.patients is not None:
        count = len(np.unique(real.patients[hit > 0]))
        known = len(np.unique(real.patients))
        interval = list(copies.wilson_interval(count, known))
        found["patients"] = {"copied": count, "n": known, "share": count / known} | {
            "interval": interval
        }
    return found


def tell_copied(item: dict[str, Any]) -> str:
    """Say how many images, and patients, were copied."""
    found, drawn = item["copied"], f"{item['n']} synthetic images"
    parts = [(f"images of {found['set']}", found)]
    parts += [("patients", found["patients"])] if found["patients"] else []
    told = []
    for name, part in parts:
        low, high = (100 * end for end in part["interval"])
        told.append(
            f"{part['copied']} of {part['n']} {name} ({100 * part['share']:.1f}%, 95% interval "
            f"{low:.1f} to {high:.1f}%)"
        )
    return f"copied by these {drawn}: {', '.join(told)}"


def tell_rate(item: dict[str, Any]) -> str:
    """Word the false-positive rate, or what to do where it is unknown."""
    behind = f"{item['heldout']} images"
    if item["heldout_units"] < item["heldout"]:
        behind += f" of {item['heldout_units']} patients"
    if item["false_alarms"] is None:
        return (
            f"the false-positive rate on unseen real images cannot be stated from {behind} "
            f"({copies.LEAST_HELDOUT} are needed): look at the pairs, which are closer than any "
            "two real images"
        )
    twins = f", and {item['real_twins']} that look like another" if item["real_twins"] else ""
    return (
        f"false-positive rate on unseen real images: at most {100 * item['false_alarms']:.1f}% "
        f"({behind}{twins}; {item['calibration']})"
    )


def list_copies(found: list[Pairs]) -> Iterator[dict[str, Any]]:
    """List the copies of all sets, for copies.jsonl."""
    for pairs in found:
        for row in np.flatnonzero(pairs.copied):
            facts = pairs.describe(int(row))
            yield {key: facts[key] for key in LISTED}
