"""The colors of each synthetic set beside the real one's: gaps, and how much the images vary."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli import stop
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import ImageSet, shared_labels
from medart_cli.metrics import color
from medart_cli.metrics.arrays import AnyArray, Array, Indices
from medart_cli.metrics.comparison import PAIRS_LIMIT, choose_rows, split_halves
from medart_cli.metrics.distances import centered_interval
from medart_cli.metrics.features import Extractor, read_features

Halves = list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]

LEAST_VARYING = 5  # images of each set; the deviation of fewer says nothing
VERDICT_FROM = 20  # images of each set; with fewer, one in ten sets of real images has collapsed
MOST_UNLIKE = 0.1  # difference of a label's shares from which all images cannot be compared
COLLAPSED = 0.7  # of the real variety, which the interval must stay below
ENERGY_LIMIT = 2_000  # images whose pairs are looked at


def compare_colors(
    config: EvaluateConfig,
    real: ImageSet,
    synthetic: list[ImageSet],
    extractor: Extractor,
    cache: Path,
    families: int = 1,
) -> list[dict[str, Any]]:
    """Compare the colors of each synthetic set with the real one's, beside the real set's own.

    Args:
        config: The options.
        real: The real set.
        synthetic: The synthetic sets.
        extractor: What takes the colors: of whole images, or of a part.
        cache: Where the features are.
        families: How many parts are compared, among which the error of the baseline is shared.
    """
    generator = np.random.default_rng(config.seed)
    first = read_features(real.keys, extractor, cache)
    # A random part of very large sets: colors of 10,000 images are those of all.
    rows = choose_rows(first, PAIRS_LIMIT, generator)
    first = first[rows]
    found = []
    for item in synthetic:
        second = read_features(item.keys, extractor, cache)
        columns = choose_rows(second, PAIRS_LIMIT, generator)
        second, groups = second[columns], (real.groups[rows], item.clusters[columns])
        measures = measure_gaps(first, second, groups, generator, config.bootstrap, families)
        beyond = [
            f"{channel} {name}"
            for name, channels in measures.items()
            for channel, measure in channels.items()
            if measure["beyond_floor"]
        ]
        varied = _compare_varieties(config, real, item, extractor, cache)
        found.append(
            {"set": item.name, "n": len(second), **measures, "beyond_floor": beyond, **varied}
        )
    return found


def measure_gaps(
    real: AnyArray,
    synthetic: AnyArray,
    groups: tuple[Indices, Indices],
    generator: np.random.Generator,
    repeats: int,
    families: int = 1,
) -> dict[str, dict[str, Any]]:
    """Measure the gap of each color measure, its interval, and its baseline (floor).

    Args:
        real: Color histograms, (N1, 1024).
        synthetic: The same, (N2, 1024).
        groups: Patient of each real and of each synthetic image, as codes.
        generator: Draws.
        repeats: Resamples of an interval; 0 for none.
        families: How many pairs of sets are compared; the error of the baseline is shared.

    Returns:
        For each measure and channel the keys value, interval, floor, beyond_floor. Floors and what
        lies beyond them are None where a set is of one patient.
    """
    gap, floor, draws = color.color_gap(real, synthetic), None, None
    if all(len(np.unique(codes)) > 1 for codes in groups):
        floor = color.color_floor(real, synthetic, groups, generator, families)
        if repeats:
            draws = color.bootstrap_color(
                real, synthetic, groups, generator=generator, repeats=repeats
            )
    found: dict[str, dict[str, Any]] = {}
    for name in color.GAP_MEASURES:
        found[name] = {}
        for index, channel in enumerate(color.CHANNELS):
            value = float(getattr(gap, name)[index])
            measure: dict[str, Any] = {"value": value, "interval": None, "floor": None}
            if draws is not None:
                low, high = centered_interval(value, getattr(draws, name)[:, index])
                measure["interval"] = [max(0.0, low) if name == "histogram" else low, high]
            if floor is not None:
                measure["floor"] = float(getattr(floor, name)[index])
            beyond = None if floor is None else bool(abs(value) > measure["floor"])
            measure["beyond_floor"] = beyond
            found[name][channel] = measure
    return found


def _compare_varieties(
    config: EvaluateConfig, real: ImageSet, item: ImageSet, extractor: Extractor, cache: Path
) -> dict[str, Any]:
    """Measure how much images vary in color, over all and for each label, and what collapsed."""
    measured = {}
    for label in [None, *(shared_labels(real, item) if config.per_label else [])]:
        stop.check()
        rows, columns = real.rows_of(label), item.rows_of(label)
        first = read_features(real.keys[rows], extractor, cache)
        second = read_features(item.keys[columns], extractor, cache)
        groups = real.groups[rows], item.clusters[columns]
        measured[label] = measure_variety(first, second, groups=groups, config=config)
    whole = measured.pop(None)
    if differ_in_labels(real, item):
        whole |= {"variety_collapsed": None, "variety_note": "the sets differ in their labels"}
    every = {"all images together": whole, **measured}
    return {
        **whole,
        "labels": measured,
        "collapsed": [name for name, found in every.items() if found["variety_collapsed"]],
    }


def differ_in_labels(real: ImageSet, item: ImageSet) -> bool:
    """Say whether the labels' shares are so unlike that the sets' variety must differ."""
    first, second = real.count_labels(), item.count_labels()
    if not first or not second:
        return False
    total = sum(first.values()), sum(second.values())
    names = first.keys() | second.keys()
    gaps = (first.get(it, 0) / total[0] - second.get(it, 0) / total[1] for it in names)
    return max(map(abs, gaps)) > MOST_UNLIKE


def measure_variety(
    real: AnyArray,
    synthetic: AnyArray,
    *,
    groups: tuple[Indices, Indices],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Measure how much the images of two sets vary in color.

    Args:
        real: Color histograms, (N1, 1024).
        synthetic: The same, (N2, 1024).
        groups: Patient of each real and of each synthetic image, as codes.
        config: Its seed, resamples and splits of the real set.

    Returns:
        `variety` by channel (value, interval, and lowest and highest of halves of the real set, at
        the n of the comparison; None where the real images do not vary), `energy` (value and halves
        of the energy distance of the images' means and deviations of red, green and blue),
        `variety_collapsed`, and where that is None for lack of images, `variety_note` says so.
    """
    n = min(len(real), len(synthetic))
    note: str | None = None
    if n < LEAST_VARYING:
        note = f"n = {n}: color variety needs {LEAST_VARYING} images"
        return dict.fromkeys(["variety", "energy", "variety_collapsed"]) | {"variety_note": note}
    generator = np.random.default_rng(config.seed)
    rows, columns = (choose_rows(item, PAIRS_LIMIT, generator) for item in (real, synthetic))
    first, second = color.channel_moments(real[rows]), color.channel_moments(synthetic[columns])
    kept = groups[0][rows], groups[1][columns]
    halves = _split(kept[0], len(second), generator, repeats=config.floor_repeats)
    means = first[..., 0], second[..., 0]
    draws = color.bootstrap_variety(*means, kept, generator=generator, repeats=config.bootstrap)
    variety = _measure_ratios(*means, halves, draws)
    told = [item[:, :3].reshape(len(item), -1) for item in (first, second)]  # (N, 6)
    few = [item[choose_rows(item, ENERGY_LIMIT, generator)] for item in told]
    floors = [
        color.energy_distance(told[0][left[:ENERGY_LIMIT]], told[0][right[:ENERGY_LIMIT]])
        for left, right in halves
    ]
    shown = [variety[channel] for channel in color.CHANNELS[:3] if variety[channel]]
    if n < VERDICT_FROM:
        note = f"n = {n}: a collapse of color variety is only tested from {VERDICT_FROM} images on"
    elif not (halves and shown and shown[0]["interval"]):
        note = "no interval or no halves of the real set to test for a collapse of color variety"
    return {
        "variety": variety,
        "energy": {"value": color.energy_distance(*few), "floor": _range(floors)},
        "variety_collapsed": None if note else any(_has_collapsed(found) for found in shown),
        "variety_note": note,
    }


def _measure_ratios(
    real: Array,
    synthetic: Array,
    halves: Halves,
    draws: Array,
) -> dict[str, Any]:
    """Put each channel's ratio of varieties beside its interval and the range of real halves."""
    values = color.color_variety(real, synthetic)
    floors = [color.color_variety(real[left], real[right]) for left, right in halves]
    found: dict[str, Any] = {}
    for index, channel in enumerate(color.CHANNELS):
        found[channel] = None
        if np.isnan(values[index]):
            continue
        known = draws[~np.isnan(draws[:, index]), index]
        ends = np.quantile(known, [0.025, 0.975]) if len(known) else None
        found[channel] = {
            "value": float(values[index]),
            "interval": None if ends is None else [float(end) for end in ends],
            "floor": _range([item[index] for item in floors]),
        }
    return found


def _has_collapsed(found: dict[str, Any]) -> bool:
    """Say whether a ratio is surely below what is right, and below all halves of the real set."""
    return bool(found["floor"] and found["interval"][1] < min(COLLAPSED, found["floor"][0]))


def _split(
    groups: npt.NDArray[np.intp], n: int, generator: np.random.Generator, *, repeats: int
) -> Halves:
    """Split the real rows into halves of at most `n` rows; none where a half has too few."""
    pairs = [split_halves(groups, generator) for _ in range(repeats)]
    if min((len(half) for pair in pairs for half in pair), default=0) < LEAST_VARYING:
        return []
    return [
        (generator.permutation(left)[:n], generator.permutation(right)[:n]) for left, right in pairs
    ]


def _range(values: list[float]) -> list[float] | None:
    """Return lowest and highest of the halves' values; None where there are no halves."""
    known = [float(value) for value in values if not np.isnan(value)]
    return [min(known), max(known)] if known else None


def tell_gaps(item: dict[str, Any]) -> str:
    """Say in a sentence which colors differ more than those of sets from the same source."""
    if item["mean"]["red"]["beyond_floor"] is None:
        return "whether colors differ by more than chance cannot be tested with one patient"
    if not item["beyond_floor"]:
        return "colors differ no more than those of two sets from the same source"
    return (
        "colors differ more than those of two sets from the same source in: "
        f"{', '.join(item['beyond_floor'])}"
    )


def tell_variety(item: dict[str, Any]) -> str:
    """Say in a sentence whether the images of a set differ in color as real ones do."""
    found = [item["variety"][name] for name in color.CHANNELS[:3]] if item["variety"] else []
    values = [f"{measure['value']:.2f}" for measure in found if measure]
    if not values:
        return item["variety_note"] or "the real images are of one color"
    between = " to ".join(dict.fromkeys([min(values), max(values)]))
    text = f"from image to image colors vary {between} times as much as in real images"
    if item["collapsed"]:
        return f"{text}; color variety has collapsed in: {', '.join(item['collapsed'])}"
    return f"{text} ({item['variety_note']})" if item["variety_note"] else text
