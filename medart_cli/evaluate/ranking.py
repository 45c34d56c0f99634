"""The ranking of several synthetic sets: which is nearest, by paired differences, and in color."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from medart_cli import stop
from medart_cli.evaluate.networks import Networks
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import ImageSet, code_labels, find_heldout
from medart_cli.metrics import color
from medart_cli.metrics.arrays import Indices
from medart_cli.metrics.comparison import choose_rows
from medart_cli.metrics.features import Extractor, read_features
from medart_cli.metrics.kernel import energy_jackknife, subtract
from medart_cli.metrics.ranking import Sample, count_groups, describe_roots, rank_sets
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL

LEAST_HELD_OUT = 20  # images or patients; fewer tell no sets apart, all real ones might
RANKED = 2_000  # images of a set, at most, whose pairs are looked at
COLORED = 2_000  # images whose colors are


def rank(
    config: EvaluateConfig,
    sets: list[ImageSet],
    networks: Networks,
    cache: Path,
    suspected: dict[str, str],
) -> dict[str, Any] | None:
    """Rank several sets by their distance to held-out images, or else to the real ones.

    Args:
        config: Its seed, resamples and held-out set.
        sets: From `read_sets`.
        networks: The first of its main ones ranks.
        cache: Where the features are.
        suspected: Sets that are suspected of copies, and why; they cannot win.

    Returns:
        Content of `ranking` in metrics.json; None for a single synthetic set.
    """
    synthetic = sets[1 : 1 + len(config.synthetic)]
    if len(synthetic) < 2:
        return None
    reference = _choose_reference(config, sets)
    extractor = networks.main[0]
    found: dict[str, Any] = {
        "features": extractor.name,
        "reference": reference.name,
        "n_reference": len(reference),
        "n": min(len(item) for item in synthetic),
    }
    few = [item.name for item in (reference, *synthetic) if not count_groups(item.clusters)]
    if few:
        names = sorted(item.name for item in synthetic)
        reason = f"fewer than three images or patients in {', '.join(few)}"
        return found | {"order": names, "winner": None, "reason": reason, "left_out": suspected}
    generator = np.random.default_rng(config.seed)
    names, codes = code_labels([reference, *synthetic])
    samples = [
        _read_sample(item, labels, extractor, cache, generator)
        for item, labels in zip((reference, *synthetic), codes, strict=True)
    ]
    by_name = {item.name: sample for item, sample in zip(synthetic, samples[1:], strict=True)}
    ranking = rank_sets(samples[0], by_name, names, suspected)
    colors = _Colors(config, [reference, *synthetic], networks.colors, cache)
    for pair in ranking["pairs"]:
        stop.check()
        pair["color"] = colors.compare(pair["first"], pair["second"])
    return found | ranking


def _choose_reference(config: EvaluateConfig, sets: list[ImageSet]) -> ImageSet:
    """Take the held-out images, which no set can have copied, where there are enough of them."""
    held = find_heldout(config, sets)
    return held if len(np.unique(held.clusters)) >= LEAST_HELD_OUT else sets[0]


def _read_sample(
    item: ImageSet,
    labels: Indices,
    extractor: Extractor,
    cache: Path,
    generator: np.random.Generator,
) -> Sample:
    features = read_features(item.keys, extractor, cache)
    rows = choose_rows(features, RANKED, generator)
    return Sample(features[rows], item.clusters[rows], labels[rows])


class _Colors:
    """The colors of the reference and the sets, resampled once for all pairs."""

    def __init__(
        self, config: EvaluateConfig, sets: list[ImageSet], extractor: Extractor, cache: Path
    ) -> None:
        generator = np.random.default_rng(config.seed)
        means, moments, groups = [], [], []
        for item in sets:
            colors = read_features(item.keys, extractor, cache)
            rows = choose_rows(colors, COLORED, generator)
            colors, codes = colors[rows], item.clusters[rows]
            means.append(color.draw_means(colors, codes, generator, config.bootstrap))
            told = color.channel_moments(colors)[:, :3]  # means and deviations of red, green, blue
            moments.append(told.reshape(len(colors), -1))
            groups.append(codes)
        names = [item.name for item in sets[1:]]
        # Resampled in all sets' gaps alike, the real images are no part of their difference.
        self._gaps = {
            name: color.average_gaps(means[0], own)
            for name, own in zip(names, means[1:], strict=True)
        }
        self._energy = {
            name: energy_jackknife(moments[0], own, (groups[0], codes))
            for name, own, codes in zip(names, moments[1:], groups[1:], strict=True)
        }

    def compare(self, first: str, second: str) -> dict[str, Any]:
        """Take the first set's gaps less the second's; below zero the first is nearer."""
        energy = subtract(self._energy[first], self._energy[second])
        own = list(energy.find_interval(CONFIDENCE_LEVEL))
        found = {
            "energy": {"value": energy.value, "interval": own},
            "root": describe_roots(self._energy[first], self._energy[second]),
        }
        reach = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, energy.degrees))
        for name in color.GAP_MEASURES:
            apart = self._gaps[first][name] - self._gaps[second][name]  # (1 + resamples,)
            value, draws = float(apart[0]), apart[1:]
            error = reach * float(draws.std(ddof=1)) if len(draws) else None
            interval = None if error is None else [value - error, value + error]
            found[name] = {"value": value, "interval": interval}
        return found
