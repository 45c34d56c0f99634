"""The colors where masks of the real images lie on average, and those around: each set of both.

`medart finetune --hldf-region mask` trains the colors in the region alone. What it brings shows
there and nowhere else, and what it costs shows around it, so both are measured, as the colors of
whole images are (colors.py). The weights of pixels are those of metrics/region.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medart_cli.ahead import map_ahead
from medart_cli.data.images import read_size, save_png
from medart_cli.data.masks import read_mask
from medart_cli.data.tensors import TensorCache, open_cache
from medart_cli.errors import ImageError
from medart_cli.evaluate.colors import compare_colors, tell_gaps, tell_variety
from medart_cli.evaluate.masks import RealMask, list_masks
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import ImageSet
from medart_cli.log import log, progress
from medart_cli.metrics.arrays import Array
from medart_cli.metrics.color import COLOR_WIDTH
from medart_cli.metrics.features import Extractor, build_plain
from medart_cli.metrics.region import (
    CELLS,
    PART_FACTS,
    cover_cells,
    describe_part,
    hash_part,
    share_marked,
)

PARTS = {"region": "in the masked region", "surround": "around the masked region"}
PART_ROWS = {"region": "inside", "surround": "around it"}  # in tables of the masked region
REGION_NAME = "region.png"
MASKS_AHEAD = 32  # masks that are read ahead
SHOWN_SIDE = 256  # pixels of the picture of the mean mask


@dataclass(frozen=True)
class MaskedRegion:
    """Where the masks of the real images lie.

    Attributes:
        mean: In what share of the masks each cell of the middle square is marked, (64, 64).
        masks: How many there are.
        unused: How many more cannot be used.
    """

    mean: Array
    masks: int
    unused: int

    @cached_property
    def weights(self) -> dict[str, Array]:
        """The weights of each part that there is: no surround where masks cover everything."""
        both = zip(PARTS, (self.mean, 1 - self.mean), strict=True)
        return {name: weights for name, weights in both if weights.any()}

    @cached_property
    def extractors(self) -> dict[str, Extractor]:
        """What takes the colors of each part."""
        return {
            name: build_plain(
                f"colors {PARTS[name]}",
                hash_part(weights),
                COLOR_WIDTH,
                partial(describe_part, weights=weights),
            )
            for name, weights in self.weights.items()
        }

    def picture(self) -> Image.Image:
        """Draw the mean mask: white is marked in all masks, black in none."""
        levels = Image.fromarray(np.rint(self.mean * 255).astype(np.uint8)).convert("RGB")
        return levels.resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.NEAREST)


def find_region(config: EvaluateConfig, real: ImageSet, cache: Path) -> MaskedRegion | None:
    """Average the masks of the real images; None where no row names one that can be used.

    Args:
        config: How many threads read masks.
        real: The real set, with its keys.
        cache: Where hashes, and what was read of masks, are kept.
    """
    masks = list_masks(real, cache)
    if not masks:
        return None
    kept, total = open_cache(cache, "masks", PART_FACTS), np.zeros((CELLS, CELLS))
    faults, outside = [], 0
    read = map_ahead(
        partial(_read_covered, real, kept), masks, threads=config.workers, ahead=MASKS_AHEAD
    )
    with progress("masks", len(masks)) as bar:
        for mask, (covered, known) in zip(masks, read, strict=True):
            if isinstance(covered, str):
                faults.append(f"{real.record(mask.row).place}: {covered}")
            else:
                if not known:
                    kept.keep({"covered": covered}, *_name_entry(real, mask))
                total += covered.double().numpy()
                outside += not covered.any()
            bar.advance()
    used = len(masks) - len(faults)
    _warn(real, faults, outside, used)
    if used == outside:
        return None
    log.info(
        "%s: %d of %d images have a mask, which covers %.0f %% of the middle square on average",
        *(real.name, used, len(real), 100 * total.mean() / used),
    )
    return MaskedRegion(total / used, used, len(faults))


def _name_entry(real: ImageSet, mask: RealMask) -> tuple[str, str]:
    """Name what a mask covers in the cache: whether it fits depends on the image too."""
    return real.keys[mask.row].hex(), mask.sha256


def _read_covered(real: ImageSet, kept: TensorCache, mask: RealMask) -> tuple[Tensor | str, bool]:
    """Return what a mask covers, (64, 64), or what is wrong with it; and whether it was cached."""
    if mask.fault:
        return mask.fault, False
    found = kept.find(*_name_entry(real, mask))
    if found is not None:
        return found["covered"], True
    record = real.record(mask.row)
    name = record.fields["mask"]
    try:
        marked = read_mask(record.folder, name)
        width, height = read_size(record.path)
    except ImageError as error:
        return str(error), False
    if marked.shape != (height, width):
        return (
            f"mask {name}: has {marked.shape[1]} x {marked.shape[0]} pixels and its image "
            f"{width} x {height}; save both at one size"
        ), False
    if not marked.any():
        return f"mask {name}: marks nothing; leave it out", False
    return torch.from_numpy(cover_cells(marked)).float(), False


def _warn(real: ImageSet, faults: Sequence[str], outside: int, used: int) -> None:
    """Say which masks cannot be used, and what that means, in a line each."""
    rest = "the region is the mean of the others"
    if used == outside:
        rest = "colors in the masked region are not measured"
    if faults:
        log.warning(
            "%s: %d of %d masks cannot be used, such as %s; %s",
            *(real.name, len(faults), used + len(faults), faults[0], rest),
        )
    if outside:
        log.warning(
            "%s: %d of %d masks lie outside the middle square of their images, where colors are "
            "compared%s", real.name, outside, used, "" if used > outside else f": {rest}",
        )  # fmt: skip


def compare_parts(
    config: EvaluateConfig,
    real: ImageSet,
    synthetic: list[ImageSet],
    region: MaskedRegion | None,
    cache: Path,
) -> dict[str, Any]:
    """Compare the colors of each synthetic set with the real one's, in the region and around it.

    The picture of the mean mask is written beside the report, or that of an earlier one removed.

    Returns:
        What metrics.json has besides, under `region`; nothing where there is no region.
    """
    if region is None:
        (config.out / REGION_NAME).unlink(missing_ok=True)
        return {}
    parts = {
        name: {
            "marked": share_marked(region.mean, region.weights[name]),
            "color": compare_colors(
                config, real, synthetic, extractor, cache, families=len(region.extractors)
            ),
        }
        for name, extractor in region.extractors.items()
    }
    save_png(config.out / REGION_NAME, region.picture())
    facts = {"masks": region.masks, "unused": region.unused, "covered": float(region.mean.mean())}
    return {"region": {**facts, "parts": parts}}


def list_parts(facts: Mapping[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    """List what was found of a set in the region and around it; nothing without masks.

    Args:
        facts: The content of metrics.json.
        name: The set.

    Returns:
        The part, of `PARTS`, and the colors there, as an item of `color`.
    """
    parts = facts["region"]["parts"] if "region" in facts else {}
    return [
        (part, item)
        for part, found in parts.items()
        for item in found["color"]
        if item["set"] == name
    ]


def tell_parts(facts: Mapping[str, Any], name: str) -> list[str]:
    """Say of a set in two sentences for each part whether its colors there are right, and vary."""
    return [
        f"{name}, {PARTS[part]}: {told}"
        for part, item in list_parts(facts, name)
        for told in (tell_gaps(item), tell_variety(item))
    ]
