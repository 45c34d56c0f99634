"""The pictures of an evaluation's page: real and drawn images of each label, and nearest pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from medart_cli.data.images import fit_image, load_image, tile_images
from medart_cli.data.manifest import Record
from medart_cli.data.page import TILE_SIDE, Picture, Strip, embed_image, embed_tile
from medart_cli.data.words import spaced
from medart_cli.evaluate.captions import Recaptioned, caption_of, find_sources
from medart_cli.evaluate.copies import Pairs
from medart_cli.evaluate.sets import ImageSet

THUMB = 112  # pixels of a picture in pictures.png
STRIP_COLUMNS = 8
LEAST_COLUMNS = 3
MOST_LABELS = 12
MOST_PICTURES = 300  # in all, or the page grows too large to be sent: some 15 kB each
MOST_PAIRS = 12


@dataclass(frozen=True)
class Row:
    """Images of one set side by side.

    Attributes:
        title: What they are.
        item: The set.
        rows: Which of its images.
    """

    title: str
    item: ImageSet
    rows: list[int]


def name_roles(sets: Sequence[ImageSet]) -> dict[str, str]:
    """Name the sets with what they are: the first is real, all others are synthetic."""
    kinds = ["real", *["synthetic"] * (len(sets) - 1)]
    return {it.name: f"{it.name} ({kind})" for it, kind in zip(sets, kinds, strict=True)}


def show_labels(
    sets: Sequence[ImageSet], trained: ImageSet | None
) -> tuple[list[tuple[str, list[Strip]]], int, Image.Image | None]:
    """Show some images of each label: real ones above those that each set has drawn.

    Where it is known of which real image's caption a drawn one is, that image stands above it.

    Args:
        sets: The real set and the synthetic ones.
        trained: The training images, where they are given.

    Returns:
        Each label that is shown with its pictures, how many labels are not, and all on one sheet.
    """
    labels: list[str | None] = list(dict.fromkeys(key for it in sets for key in it.count_labels()))
    shown = labels[:MOST_LABELS] or [None]
    each = MOST_PICTURES // (len(shown) * (len(sets) + 1))
    columns = min(STRIP_COLUMNS, max(LEAST_COLUMNS, each))
    owners = [sets[0]] if trained is None else [trained, sets[0]]
    found = [(label, _choose_rows(sets, owners, label, columns)) for label in shown]
    tiles: list[Image.Image] = []
    strips = []
    for label, chosen in found:
        part = []
        for row in chosen:
            images = [load_image(row.item.record(it).path) for it in row.rows]
            names = [_name_image(row.item.record(it), label) for it in row.rows]
            kind = row.title.split(",")[0]
            part.append(
                Strip(
                    row.title,
                    [
                        embed_tile(image, name, instead=f"{kind}: {name}")
                        for image, name in zip(images, names, strict=True)
                    ],
                )
            )
            blank = [Image.new("RGB", (THUMB, THUMB), "white")] * (columns - len(images))
            tiles += [*(fit_image(image, THUMB, "pad") for image in images), *blank]
        strips.append((label or "all", part))
    sheet = tile_images(tiles, columns=columns) if tiles else None
    return strips, max(0, len(labels) - MOST_LABELS), sheet


def _choose_rows(
    sets: Sequence[ImageSet], owners: Sequence[ImageSet], label: str | None, columns: int
) -> list[Row]:
    """Choose what is shown of a label; the same real images stand once above several sets."""
    real, chosen, above = sets[0], [], None
    names = name_roles(sets)
    for item in sets[1:]:
        rows = _spread(item, label, columns)
        if not rows:
            continue
        pair = _find_pairs(item, rows, owners)
        if pair is None:
            title = f"{names[real.name]}, {len(real.rows_of(label))} images"
            pair = Row(title, real, _spread(real, label, columns))
        if pair.rows and above != (pair.item.name, pair.rows):
            above = (pair.item.name, pair.rows)
            chosen.append(pair)
        title = f"{names[item.name]}, {len(item.rows_of(label))} images"
        chosen.append(Row(title, item, rows))
    if not chosen:
        title = f"{names[real.name]}, {len(real.rows_of(label))} images; no synthetic ones"
        chosen.append(Row(title, real, _spread(real, label, columns)))
    return chosen


def _spread(item: ImageSet, label: str | None, columns: int) -> list[int]:
    """Choose images of a label from its beginning to its end."""
    rows = item.rows_of(label)
    places = np.linspace(0, len(rows) - 1, min(len(rows), columns)).round().astype(int)
    return [int(rows[place]) for place in places]


def _find_pairs(item: ImageSet, rows: list[int], owners: Sequence[ImageSet]) -> Row | None:
    """Find the real images whose captions were drawn; None where one of them is not known."""
    blank = [""] * len(rows)
    for owner in owners:
        known = [it for it in find_sources(Recaptioned(item, rows, blank, blank), owner)
                 if it is not None]  # fmt: skip
        if len(known) == len(rows):
            return Row(f"{owner.name} (real), whose captions were drawn below", owner, known)
    return None


def _name_image(record: Record, label: str | None) -> str:
    """Name an image by its label, unless its caption does so, its caption, and its file."""
    name, text = record.label or label or "", caption_of(record) or ""
    told = [it for it in ("" if spaced(name) in spaced(text) else name, text) if it]
    return f"{': '.join(told)} ({record.file_name})" if told else record.file_name


def show_pairs(pairs: Pairs) -> list[Picture]:
    """Show the pairs of a set that are most alike, the drawn image left; copies have a frame."""
    return [_show_pair(pairs, row) for row in pairs.worst(MOST_PAIRS)]


def _show_pair(pairs: Pairs, row: int) -> Picture:
    pair = pairs.describe(row)
    records = (pairs.own.record(row), pairs.real.record(int(pairs.found[row])))
    sides = [fit_image(load_image(record.path), TILE_SIDE, "pad") for record in records]
    score = f"{pair['score']:.2f}" if pair["score"] < 100 else "over 100"
    head = "same file" if pair["identical"] else f"{score} by {pair['space']}"
    named = " | ".join(f"{it.label or ''} {it.file_name}".strip() for it in records)
    return replace(
        embed_image(
            tile_images(sides, columns=2, gap=6),
            f"{'near-copy, ' if pair['copy'] else ''}{head}: {named}",
            instead=f"Synthetic image {pair['file_name']} beside the real image {pair['nearest']}",
            lossy=True,
        ),
        warned=pair["copy"],
    )
