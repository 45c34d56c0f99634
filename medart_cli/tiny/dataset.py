"""Write phantoms as a data set: PNG images and a manifest, as a user's own images would lie."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medart_cli.data.images import save_png
from medart_cli.data.manifest import MANIFEST_NAME, write_manifest
from medart_cli.tiny.phantoms import (
    DOMAINS,
    Phantom,
    describe_phantom,
    draw_phantom,
    read_attributes,
)


def choose_phantoms(domain: str, *, per_label: int, seed: int) -> list[Phantom]:
    """Choose what to draw: as many of each class of a domain, the classes taking turns."""
    generator = np.random.default_rng([seed, 6])
    labels = [label for item in DOMAINS[domain].values() for label in item.labels]
    return [
        describe_phantom(generator, domain, labels[index % len(labels)])
        for index in range(per_label * len(labels))
    ]


def write_phantoms(
    folder: Path, phantoms: Sequence[Phantom], *, seed: int, captions: bool = False
) -> None:
    """Draw phantoms and write them with their manifest, which comes last.

    Args:
        folder: Folder to fill; made where it is not there.
        phantoms: What to draw.
        seed: Of place, form and tint.
        captions: Give each row its caption; else only its label, as images have that no one has
            described yet.
    """
    generator = np.random.default_rng([seed, 7])
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for index, phantom in enumerate(phantoms):
        name = f"{index:04d}.png"
        save_png(folder / name, draw_phantom(phantom, generator), {"phantom": True})
        row: dict[str, Any] = {"file_name": name, "label": phantom.label, "phantom": True}
        rows.append(row | ({"text": phantom.caption()} if captions else {}))
    write_manifest(folder / MANIFEST_NAME, rows)


def compare_captions(texts: Sequence[str], phantoms: Sequence[Phantom]) -> dict[str, float]:
    """Return the share of captions with each attribute right, and with all of them right."""
    right, whole = Counter[str](), 0
    for text, phantom in zip(texts, phantoms, strict=True):
        told, true = read_attributes(text), phantom.attributes()
        same = {name for name, value in true.items() if told.get(name) == value}
        right.update(same)
        whole += len(same) == len(true)
    names = phantoms[0].attributes()
    shares = {name: right[name] / len(phantoms) for name in names}
    return {**shares, "all": whole / len(phantoms)}
