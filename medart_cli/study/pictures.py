"""The pictures of a study: real images above those that each arm drew, caption by caption."""

import numpy as np
from PIL import Image

from medart_cli.data.images import fit_image, load_image, tile_images
from medart_cli.data.manifest import MANIFEST_NAME, Record, read_manifest
from medart_cli.data.page import TILE_SIDE, Strip, embed_tile
from medart_cli.errors import ImageError
from medart_cli.study.sets import StudySets, draw_captions
from medart_cli.study.units import Plan

SHOWN = 8  # captions
THUMB_SIDE = 96  # pixels of a picture in pictures.png


def show_arms(plan: Plan, sets: StudySets) -> tuple[list[Strip], Image.Image]:
    """Show what each arm drew from the same captions and noises, of the first seed.

    Returns:
        A row of real images, and one for each arm; and all on one sheet.
    """
    seed = plan.seeds[0]
    chosen = draw_captions(sets, seed)
    count = min(SHOWN, len(chosen))
    places = np.linspace(0, len(chosen) - 1, count).round().astype(int).tolist()
    real = [chosen[place] for place in places]
    rows = [("training images (real), whose captions are drawn below", real)]
    for arm in plan.arms:
        folder = plan.folder(arm, seed) / "images"
        drawn = {int(row.fields["row"]): row for row in read_manifest(folder / MANIFEST_NAME)}
        rows.append((f"{arm.title} (synthetic)", [drawn[place] for place in places]))
    strips, tiles = [], []
    for title, records in rows:
        images = [_load(record, lost=records is real) for record in records]
        names = [_name(record) for record in records]
        pictures = [
            embed_tile(image, name, instead=f"{title.split(',')[0]}: {name}")
            for image, name in zip(images, names, strict=True)
        ]
        strips.append(Strip(title, pictures))
        tiles += [fit_image(image, THUMB_SIDE) for image in images]
    return strips, tile_images(tiles, columns=count)


def _name(record: Record) -> str:
    """Name an image by its label and what it was drawn from, or is described by."""
    text = record.fields.get("prompt") if record.synthetic else record.text
    return ": ".join(it for it in (record.label, text) if it) or record.file_name


def _load(record: Record, *, lost: bool) -> Image.Image:
    """Load an image; a white one stands for a `lost` one, which --max-failures let pass."""
    try:
        return load_image(record.path)
    except (ImageError, OSError):
        if not lost:
            raise
        return Image.new("RGB", (TILE_SIDE, TILE_SIDE), "white")
