"""The colors of each synthetic set beside the real one's: gaps, and how much the images vary."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli import stop
from medart_cli.config import EvaluateConfig
from medart_cli.metrics import color
from medart_cli.metrics.comparison import PAIRS_LIMIT, choose_rows, split_halves
from medart_cli.metrics.features import Extractor, read_features
from medart_cli.stages.evaluate_setup import ImageSet

Halves = list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]

LEAST_VARYING = 5  # images of each set; the deviation of fewer says nothing
COLLAPSED = 0.7  # of the real variety, which the interval must stay below
ENERGY_LIMIT = 2_000  # images whose pairs are looked at


def compare_colors(
    config: EvaluateConfig,
    real: ImageSet,
    synthetic: list[ImageSet],
    extractor: Extractor,
    cache: Path,
) -> list[dict[str, Any]]:
    """Compare the colors of each synthetic set with the real one's, beside the real set's own."""
    generator = np.random.default_rng(config.seed)
    first = read_features(real.keys, extractor, cache)
    # A random part of very large sets: colors of 10,000 images are those of all.
    rows = choose_rows(first, PAIRS_LIMIT, generator)
    first, groups = first[rows], real.groups[rows]
    halves = [split_halves(groups, generator) for _ in range(config.floor_repeats)]
    gaps = [color.color_gap(first[left], first[right]) for left, right in halves if len(right)]
    found = []
    for item in synthetic:
        second = read_features(item.keys, extractor, cache)
        second = second[choose_rows(second, PAIRS_LIMIT, generator)]
        gap = color.color_gap(first, second)
        draws = color.bootstrap_color(first, second, generator, config.bootstrap)
        measures = {
            name: {
                channel: _measure_color(name, index, gap, draws, gaps)
                for index, channel in enumerate(color.CHANNELS)
            }
            for name in ("mean", "spread", "histogram")
        }
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


def _measure_color(
    name: str,
    index: int,
    gap: color.ColorGap,
    draws: list[color.ColorGap],
    floor: list[color.ColorGap],
) -> dict[str, Any]:
    """Put one color measure beside its interval and the largest gap of the real set's halves."""
    value = float(getattr(gap, name)[index])
    highest = max((abs(float(getattr(item, name)[index])) for item in floor), default=None)
    found: dict[str, Any] = {"value": value, "interval": None, "floor": highest}
    low = high = value
    if draws:
        low, high = np.quantile([getattr(item, name)[index] for item in draws], [0.025, 0.975])
        found["interval"] = [float(low), float(high)]
    found["beyond_floor"] = highest is not None and bool(low > highest or high < -highest)
    return found


def _compare_varieties(
    config: EvaluateConfig, real: ImageSet, item: ImageSet, extractor: Extractor, cache: Path
) -> dict[str, Any]:
    """Measure how much images vary in color, over all and for each label, and what collapsed."""
    labels: list[str | None] = [None]
    if config.per_label:
        shared = item.count_labels()
        labels += [label for label in real.count_labels() if label in shared]
    measured = {}
    for label in labels:
        stop.check()
        rows = real.rows_of(label)
        first = read_features(real.keys[rows], extractor, cache)
        second = read_features(item.keys[item.rows_of(label)], extractor, cache)
        measured[label] = measure_variety(first, second, real.groups[rows], config)
    whole = measured.pop(None)
    return {
        **whole,
        "labels": {str(label): found for label, found in measured.items()},
        "collapsed": [
            label or "all labels together"
            for label, found in [(None, whole), *measured.items()]
            if found["variety_collapsed"]
        ],
    }


def measure_variety(
    real: color.AnyArray,
    synthetic: color.AnyArray,
    groups: npt.NDArray[np.intp],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Measure how much the images of two sets vary in color.

    Args:
        real: Color histograms, (N1, 1024).
        synthetic: The same, (N2, 1024).
        groups: Patient of each real image, (N1,).
        config: Its seed, resamples and splits of the real set.

    Returns:
        `variety` by channel (value, interval, and lowest and highest of halves of the real set, at
        the n of the comparison), `energy` (the same of the energy distance of the images' means and
        deviations of red, green and blue), `variety_collapsed`. None in place of what needs more
        images.
    """
    if min(len(real), len(synthetic)) < LEAST_VARYING:
        return {"variety": None, "energy": None, "variety_collapsed": False}
    generator = np.random.default_rng(config.seed)
    rows, columns = (choose_rows(item, PAIRS_LIMIT, generator) for item in (real, synthetic))
    first, second = color.color_moments(real[rows]), color.color_moments(synthetic[columns])
    halves = _split(groups[rows], len(second), generator, config.floor_repeats)
    means = first[..., 0], second[..., 0]
    values = color.color_variety(*means)
    floors = [color.color_variety(means[0][left], means[0][right]) for left, right in halves]
    draws = color.bootstrap_variety(*means, generator, config.bootstrap)
    variety = {
        channel: _measure_ratio(values[index], draws[:, index], [item[index] for item in floors])
        for index, channel in enumerate(color.CHANNELS)
    }
    told = [item[:, :3].reshape(len(item), -1) for item in (first, second)]
    told = [item[choose_rows(item, ENERGY_LIMIT, generator)] for item in told]
    energies = [color.energy_distance(told[0][left], told[0][right]) for left, right in halves]
    return {
        "variety": variety,
        "energy": {"value": color.energy_distance(*told), "floor": _range(energies)},
        "variety_collapsed": any(found["collapsed"] for found in variety.values() if found),
    }


def _measure_ratio(value: float, draws: color.Array, halves: list[float]) -> dict[str, Any] | None:
    """Put a ratio of varieties beside its interval and the range of the real set's halves."""
    if np.isnan(value):
        return None
    found: dict[str, Any] = {"value": float(value), "interval": None, "floor": _range(halves)}
    if len(draws):
        found["interval"] = [float(end) for end in np.nanquantile(draws, [0.025, 0.975])]
    lowest = found["floor"][0] if found["floor"] else COLLAPSED
    highest = found["interval"][1] if found["interval"] else np.inf
    found["collapsed"] = bool(highest < min(COLLAPSED, lowest))
    return found


def _split(
    groups: npt.NDArray[np.intp], n: int, generator: np.random.Generator, repeats: int
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


def tell_variety(item: dict[str, Any]) -> str:
    """Say in a sentence whether the images of a set differ in color as real ones do."""
    found = [item["variety"][name] for name in color.CHANNELS[:3]] if item["variety"] else []
    values = [measure["value"] for measure in found if measure]
    if not values:
        return "too few images, or of one color, to say how much colors vary from image to image"
    text = f"from image to image colors vary {min(values):.2f}"
    if f"{max(values):.2f}" != f"{min(values):.2f}":
        text += f" to {max(values):.2f}"
    text += " times as much as in real images"
    if item["collapsed"]:
        text += f"; the variety has collapsed in: {', '.join(item['collapsed'])}"
    return text
