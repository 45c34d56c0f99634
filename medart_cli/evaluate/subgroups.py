"""The subgroups of the real images: which of them a synthetic set reaches, and how near it comes.

Recall needs the subgroups of the real images alone. Distances and colors compare the real images
of a subgroup with those that were drawn of it: a drawn row says itself of which subgroup it is, or
the row does from whose caption it was drawn, if that is among the real images of this report.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli import stop
from medart_cli.data.subgroups import NO_VALUE, Cut, find_cuts
from medart_cli.evaluate.colors import measure_gaps
from medart_cli.evaluate.networks import Networks
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import UNREAD, ImageSet
from medart_cli.metrics.arrays import Array, Indices, Mask
from medart_cli.metrics.comparison import PAIRS_LIMIT, Effort, choose_rows, compare_features
from medart_cli.metrics.distances import NEIGHBORS, find_reached
from medart_cli.metrics.features import read_features
from medart_cli.metrics.gaps import (
    Gap,
    Term,
    count_needed_groups,
    find_largest,
    is_small,
    measure_gap,
    measure_gap_by_error,
    measure_shares,
)
from medart_cli.metrics.reach import Reaches, jackknife_variance, measure_reaches

REACHED_LIMIT = 1_000  # images of each set whose halves are compared, forty times
BY_ROWS, BY_SOURCE = "their rows", "the rows that they were drawn from"


@dataclass(frozen=True)
class _Recalls:
    """Which real images a set reaches, for all keys alike.

    Attributes:
        rows: The real images that were looked at, (N,).
        reached: Whether each is reached by the whole set, (N,); None for a tiny set.
        few: Those whose halves were compared, (M,).
        reaches: How often each of them is reached, (M,); None where there are too few.
    """

    rows: Indices
    reached: Mask | None
    few: Indices
    reaches: Reaches | None


def compare_subgroups(
    config: EvaluateConfig, sets: Sequence[ImageSet], networks: Networks, cache: Path
) -> list[dict[str, Any]]:
    """Measure each synthetic set in the subgroups of the real images, for metrics.json.

    Args:
        config: The options, with the keys.
        sets: The real set, the synthetic ones, then held-out and training images, if there are any.
        networks: The first of its main ones measures.
        cache: Where the features are.
    """
    if not config.by:
        return []
    count = 1 + len(config.synthetic)
    real, synthetic, known = sets[0], sets[1:count], [sets[0], *sets[count:]]
    cuts = find_cuts(config.by, real, real.name)
    recalls = {item.name: _find_recalls(config, real, item, networks, cache) for item in synthetic}
    found = []
    for cut in cuts:
        codes = cut.find_codes(real, len(real))
        rows = {name: np.flatnonzero(codes == code) for code, name in enumerate(cut.names)}
        rows |= {NO_VALUE: np.flatnonzero(codes < 0)}
        rows = {name: part for name, part in rows.items() if len(part)}
        groups = {name: _describe_rows(real, part) for name, part in rows.items()}
        told: dict[str, Any] = {}
        for item in synthetic:
            drawn, how = find_drawn(cut, item, known)
            measures = _describe_recalls(real, recalls[item.name], rows, groups, len(cuts))
            for name, part in rows.items() if how else ():
                stop.check()
                if name in cut.names:
                    columns = np.flatnonzero(drawn == cut.names.index(name))
                    pair = Kin(real, item, part, columns)
                    measures["groups"][name] |= _compare_drawn(
                        config, pair, networks, cache, len(rows)
                    )
            told[item.name] = {"drawn_by": how, **measures}
        found.append({"key": cut.key, "bands": cut.ends, "groups": groups, "sets": told})
    return found


@dataclass(frozen=True)
class Kin:
    """The real and the drawn images of one subgroup: both sets, and the rows of each."""

    real: ImageSet
    item: ImageSet
    rows: Indices
    columns: Indices


def _describe_rows(real: ImageSet, rows: Indices) -> dict[str, Any]:
    units = len(np.unique(real.clusters[rows]))
    return {
        "images": len(rows),
        "patients": None if real.patients is None else units,
        "small": is_small(len(rows), units),
    }


def find_drawn(
    cut: Cut, item: ImageSet, known: Sequence[ImageSet]
) -> tuple[npt.NDArray[np.int32], str | None]:
    """Find the subgroup of each drawn image, (N,), -1 for none, and where that is from.

    Args:
        cut: The subgroups.
        item: The drawn images.
        known: Sets of real images, among which are perhaps those whose captions were drawn.
    """
    codes = cut.find_codes(item, len(item))
    if any(cut.key in record.fields for record in item):
        return codes, BY_ROWS
    sources = np.full(len(item), UNREAD, dtype="S32")
    for row, record in enumerate(item):
        digest = record.source.get("sha256")
        if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
            sources[row] = bytes.fromhex(digest)
    for real in known:
        order = np.argsort(real.keys, kind="stable")
        place = np.searchsorted(real.keys, sources, side="right", sorter=order) - 1
        found = order[np.maximum(place, 0)]
        same = (real.keys[found] == sources) & (sources != UNREAD)
        own = cut.find_codes(real, len(real))
        codes = np.where(same & (codes < 0), own[found], codes).astype(np.int32)
    return codes, BY_SOURCE if (codes >= 0).any() else None


def _find_recalls(
    config: EvaluateConfig, real: ImageSet, item: ImageSet, networks: Networks, cache: Path
) -> _Recalls:
    """Find which real images a set reaches: all that there are, and halves at the same n."""
    generator = np.random.default_rng(config.seed)
    first = read_features(real.keys, networks.main[0], cache)
    second = read_features(item.keys, networks.main[0], cache)

    def choose(count: int, most: int) -> Indices:
        return np.arange(count)[choose_rows(np.empty((count, 0)), most, generator)]

    rows, columns = choose(len(first), PAIRS_LIMIT), choose(len(second), PAIRS_LIMIT)
    reached = None
    if len(columns) > NEIGHBORS:
        reached = find_reached(first[rows], second[columns])
    few, others = choose(len(first), REACHED_LIMIT), choose(len(second), REACHED_LIMIT)
    stop.check()
    reaches = measure_reaches(
        first[few],
        second[others],
        (real.clusters[few], item.clusters[others]),
        generator,
        config.floor_repeats,
    )
    return _Recalls(rows, reached, few, reaches)


def _describe_recalls(
    real: ImageSet,
    recalls: _Recalls,
    rows: Mapping[str, Indices],
    groups: Mapping[str, Mapping[str, Any]],
    families: int,
) -> dict[str, Any]:
    """Describe what a set reaches of each subgroup, and the gap between two of them."""
    few = {name: np.isin(recalls.few, part) for name, part in rows.items()}
    found: dict[str, Any] = {}
    for name, part in rows.items():
        found[name] = dict.fromkeys(("recall", "halves", "drawn", "distance", "color"))
        looked = np.isin(recalls.rows, part)
        if recalls.reached is not None and looked.any():
            found[name]["recall"] = _measure_recall(
                recalls.reached[looked], real.clusters[recalls.rows[looked]]
            )
        if recalls.reaches and few[name].any():
            whole = recalls.reaches.whole
            found[name]["halves"] = {
                "n": whole.n,
                "images": int(few[name].sum()),
                "synthetic": float(whole.synthetic[few[name]].mean()),
                "real": float(whole.real[few[name]].mean()),
            }
    compared = [
        name
        for name in rows
        if name != NO_VALUE
        and not groups[name]["small"]
        and not is_small(
            int(few[name].sum()), len(np.unique(real.clusters[recalls.few[few[name]]]))
        )
    ]
    pairs = list(combinations(compared, 2)) if recalls.reaches else []
    gap = None
    if recalls.reaches and pairs:
        codes = np.unique(real.clusters[recalls.few], return_inverse=True)[1]
        family = (len(compared), families)
        gaps = [
            measure_shortfall(recalls.reaches, codes, (few[one], few[two]), family)
            for one, two in pairs
        ]
        place = find_largest(gaps)
        one, two = pairs[place]
        units = len(np.unique(codes[few[one] | few[two]]))
        gap = {"first": one, "second": two, **gaps[place].facts(), "units": units}
        gap["needed"] = count_needed_groups(gaps[place], units)
    return {"groups": found, "gap": gap}


def _measure_recall(reached: Mask, clusters: Indices) -> dict[str, Any]:
    codes = np.unique(clusters, return_inverse=True)[1]
    part = measure_shares(reached[:, None].astype(np.float64), codes, int(codes.max()) + 1)
    share = measure_gap([Term(part, np.ones(1))], 2)
    return {"value": share.value, "interval": [share.low, share.high]}


def measure_shortfall(
    reaches: Reaches, codes: Indices, members: tuple[Mask, Mask], family: tuple[int, int]
) -> Gap:
    """Measure by how much less a set reaches one subgroup than another, beyond what is due.

    That is how much more often images are reached by the set than by the other half of the real
    images, in the first subgroup less in the second. Its variance is that between the real images,
    by the jackknife and no less than by what is known of shares, and that of the drawn ones.

    Args:
        reaches: How often each of N real images is reached.
        codes: The code of each one's patient, (N,).
        members: Which are of either subgroup, each (N,).
        family: How many subgroups there are to choose the pair from, and how many such families.
    """

    def compare(excess: Array) -> float:
        with np.errstate(invalid="ignore"):
            return float(np.nanmean(excess[members[0]]) - np.nanmean(excess[members[1]]))

    whole = reaches.whole
    real, drawn = (
        float(jackknife_variance(np.array([compare(part.excess) for part in parts])))
        for parts in (reaches.without_real, reaches.without_synthetic)
    )
    shares = np.stack([whole.synthetic, whole.real], axis=1)
    weights, count = np.array([1.0, -1.0]), int(codes.max()) + 1
    one, two = (measure_shares(shares[rows], codes[rows], count) for rows in members)
    known = measure_gap([Term(one, weights), Term(two, -weights)], *family).error
    error = float(np.sqrt(max(real, known**2) + drawn))
    freedom = min(len(reaches.without_real), len(reaches.without_synthetic)) - 1
    return measure_gap_by_error(compare(whole.excess), error, freedom, family)


def _compare_drawn(
    config: EvaluateConfig, pair: Kin, networks: Networks, cache: Path, families: int
) -> dict[str, Any]:
    """Compare the real and the drawn images of a subgroup, where there are two of each."""
    found: dict[str, Any] = {"drawn": len(pair.columns)}
    if min(len(pair.rows), len(pair.columns)) < 2:
        return found
    keys = pair.real.keys[pair.rows], pair.item.keys[pair.columns]
    clusters = pair.real.clusters[pair.rows], pair.item.clusters[pair.columns]
    known = pair.real.patients is not None or pair.item.patients is not None
    first, second = (read_features(part, networks.main[0], cache) for part in keys)
    effort = Effort(config.seed, config.bootstrap, config.floor_repeats)
    found["distance"] = compare_features(
        first, second, clusters[0], effort, patients=clusters if known else None
    )
    generator = np.random.default_rng(config.seed)
    first, second = (read_features(part, networks.colors, cache) for part in keys)
    few = [np.arange(len(it))[choose_rows(it, PAIRS_LIMIT, generator)] for it in (first, second)]
    groups = clusters[0][few[0]], clusters[1][few[1]]
    measures = measure_gaps(
        first[few[0]], second[few[1]], groups, generator, config.bootstrap, families
    )
    found["color"] = {
        **measures,
        "beyond_floor": [
            f"{channel} {name}"
            for name, channels in measures.items()
            for channel, measure in channels.items()
            if measure["beyond_floor"]
        ],
    }
    return found
