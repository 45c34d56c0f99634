"""The diversity of each synthetic set beside the real one's: overall and within each label."""

from pathlib import Path
from typing import Any

import numpy as np

from medart_cli import stop
from medart_cli.data.page import Table
from medart_cli.evaluate.colors import differ_in_labels
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import ImageSet, shared_labels
from medart_cli.metrics.diversity import compare_diversity
from medart_cli.metrics.features import Extractor, read_features


def measure_diversity(
    config: EvaluateConfig,
    real: ImageSet,
    synthetic: list[ImageSet],
    extractor: Extractor,
    cache: Path,
) -> list[dict[str, Any]]:
    """Compare the Vendi score of each synthetic set with the real one's, overall and by label."""
    found = []
    for item in synthetic:
        measured = {}
        for label in [None, *(shared_labels(real, item) if config.per_label else [])]:
            stop.check()
            rows, columns = real.rows_of(label), item.rows_of(label)
            measured[label] = compare_diversity(
                read_features(real.keys[rows], extractor, cache),
                read_features(item.keys[columns], extractor, cache),
                (real.clusters[rows], item.clusters[columns]),
                np.random.default_rng(config.seed),
            )
        whole = measured.pop(None)
        if differ_in_labels(real, item):
            note = "the sets differ in their labels"
            whole |= {"diversity_collapsed": None, "diversity_note": note}
        every = {"all images together": whole, **measured}
        names = [name for name, part in every.items() if part["diversity_collapsed"]]
        place = {"set": item.name, "features": extractor.name}
        found.append({**place, **whole, "labels": measured, "collapsed": names})
    return found


def find_collapsed(facts: dict[str, Any]) -> dict[str, list[str]]:
    """Name for each set what has collapsed in diversity."""
    return {item["set"]: item["collapsed"] for item in facts["diversity"]}


def tell_diversity(item: dict[str, Any]) -> str:
    """Say in a sentence whether the images of a set are as diverse as real ones."""
    vendi = item["vendi"]
    if vendi is None:
        return f"{item['diversity_note']}"
    text = f"diversity (Vendi score at n = {vendi['n']}) {vendi['ratio']:.2f} times that of real "
    text += "images"
    if vendi["interval"]:
        low, high = vendi["interval"]
        text += f" [{low:.2f}, {high:.2f}]"
    if item["collapsed"]:
        told = {"all images together": item, **item["labels"]}
        parts = [f"{name} ({told[name]['vendi']['ratio']:.2f})" for name in item["collapsed"]]
        return f"{text}; mode collapse, synthetic images are alike in: {', '.join(parts)}"
    return f"{text} ({item['diversity_note']})" if item["diversity_note"] else text


def show_diversity(item: dict[str, Any]) -> dict[str, Any]:
    """Write the diversity of a set as a table: all of it, then each label."""
    head = ["Diversity", "n", "Vendi score, real", "synthetic", "ratio [95%]"]
    rows = []
    for label, part in [("all", item), *item["labels"].items()]:
        vendi, mark = part["vendi"], " *" if part["diversity_collapsed"] else ""
        cells = ["-"] * 4
        if vendi is not None:
            ends = vendi["interval"]
            interval = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
            cells = [str(vendi["n"]), f"{vendi['real']:.1f}", f"{vendi['synthetic']:.1f}"]
            cells.append(f"{vendi['ratio']:.2f}{interval}")
        rows.append([label + mark, *cells])
    table: Table = (head, rows)
    return {"name": item["set"], "table": table}
