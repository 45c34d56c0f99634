"""Does a caption agree with what can be measured of its image: colors, number, size?

What disagrees is a flag for a reader and no fault: a word for a color is no measurement. A color
counts as absent where hardly any of the image has it, so that a caption may name any color that is
there, wherever; that a color is named of the wrong part is not seen.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from medart_cli.caption.rules import begins_with
from medart_cli.data.classes import spoken_label
from medart_cli.data.descriptors import NAMES, SIZE_WORDS, Claim, find_claims
from medart_cli.data.manifest import Record
from medart_cli.data.masks import read_mask
from medart_cli.errors import ImageError

Floats = npt.NDArray[np.float64]

SHRUNK = 128  # pixels; images are shrunk to it, so that noise is no color
SEEN = 0.001  # share of the image that must have a color that is named: 16 of 128 x 128 pixels
MARGIN = 0.1  # of each side: what is the background
ADAPTED = 0.5  # how far the eye takes the common color of an image for gray; for bluish and such
# What a word may mean in CIELCh (D65): lightness, chroma, hue in degrees (None: any); wide, and
# overlapping, as people use them of skin, mucosa and stains. Chosen on 60 dermoscopic images and 60
# of blood cells, and tested on as many others: docs/corrections.md has the rates.
Range = tuple[float, float]
RANGES: dict[str, tuple[Range, Range, Range | None]] = {
    "black": ((0, 33), (0, 26), None),
    "white": ((78, 101), (0, 14), None),
    "gray": ((25, 85), (0, 14), None),
    "brown": ((12, 68), (9, 70), (25, 85)),
    "tan": ((48, 88), (8, 50), (35, 90)),
    "red": ((15, 75), (22, 130), (0, 48)),
    "pink": ((45, 95), (7, 75), (-40, 52)),
    "orange": ((45, 90), (34, 130), (38, 75)),
    "yellow": ((55, 101), (28, 130), (70, 112)),
    "green": ((10, 95), (9, 130), (112, 195)),
    "blue": ((10, 95), (7, 130), (195, 310)),
    "purple": ((8, 85), (8, 130), (285, 350)),
}
NUMBER_WORDS = {word: number for number, word in enumerate(
    "one two three four five six seven eight nine ten eleven twelve".split(), start=1
)} | {"single": 1, "solitary": 1}  # fmt: skip
NOUNS = frozenset("lesion cell polyp nodule mass tumor".split())  # for what the label names
LEAST_LARGE, MOST_SMALL = 0.05, 0.3  # share of the image; beyond it a size is certainly wrong
SPECK = 0.001  # share of the image; what is smaller in a mask is no object


def flag_disagreements(text: str, simple: str, image: Image.Image, record: Record) -> list[str]:
    """Word what a caption says and its image, `count` or `mask` does not.

    Args:
        text: The caption.
        simple: The template caption that it begins with, whose words name the class alone.
        image: What it describes.
        record: The row.
    """
    rest = text[len(simple) :] if begins_with(text, simple) else text
    return [
        *(f"says {said}, but hardly any of the image is" for said in find_absent(rest, image)),
        *_check_objects(rest, record),
    ]


def find_absent(text: str, image: Image.Image) -> list[str]:
    """Return the colors that a text names and an image hardly has."""
    claims = [*find_claims(text)]
    if not claims:  # most of the work is in the pixels
        return []
    pixels = measure_colors(image)
    return [*dict.fromkeys(claim.said for claim in claims if not _is_seen(claim, pixels))]


def measure_colors(image: Image.Image) -> Floats:
    """Return the colors of an RGB image, shrunk to `SHRUNK`: CIELAB (h, w, 3), D65."""
    small = image.copy()
    small.thumbnail((SHRUNK, SHRUNK), Image.Resampling.BOX)
    values = np.asarray(small.convert("RGB"), dtype=np.float64) / 255
    # IEC 61966-2-1 to linear light and CIE XYZ, then CIE 15:2004 to L*a*b*.
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    xyz = linear @ to_xyz.T / [0.95047, 1.0, 1.08883]
    scaled = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(scaled, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _is_seen(claim: Claim, pixels: Floats) -> bool:
    shown = _margin(pixels) if claim.background else pixels.reshape(-1, 3)
    if _share(shown, claim.colors) >= SEEN:
        return True
    if not claim.hedged:
        return False
    common = np.median(pixels.reshape(-1, 3), axis=0)
    return _share(shown - ADAPTED * common * [0, 1, 1], claim.colors) >= SEEN


def _share(pixels: Floats, colors: Sequence[str]) -> float:
    """Return the share of pixels (N, 3) that any of some colors may be said of."""
    lightness, chroma = pixels[:, 0], np.hypot(pixels[:, 1], pixels[:, 2])
    hue = np.degrees(np.arctan2(pixels[:, 2], pixels[:, 1]))
    found = np.zeros(len(pixels), dtype=bool)
    for name in colors:
        (dark, light), (dull, vivid), hues = RANGES[name]
        fits = (lightness >= dark) & (lightness <= light) & (chroma >= dull) & (chroma <= vivid)
        if hues is not None:
            fits &= (hue - hues[0]) % 360 <= hues[1] - hues[0]
        found |= fits
    return float(found.mean())


def _margin(pixels: Floats) -> Floats:
    """Return the pixels near the edges of an image (h, w, 3), as (N, 3)."""
    height, width = pixels.shape[:2]
    inside = np.zeros((height, width), dtype=bool)
    y, x = (max(1, int(MARGIN * side)) for side in (height, width))
    inside[y : height - y, x : width - x] = True
    return pixels[~inside]


def _check_objects(text: str, record: Record) -> list[str]:
    """Check what a text says of number and size, where the row has a `count` or a `mask`."""
    count, mask = record.fields.get("count"), record.fields.get("mask")
    if mask is None and not _is_count(count):
        return []
    noun = spoken_label(record.label or "").lower().split()[-1:]
    found = []
    if mask is not None:
        measured = measure_mask(record.folder, str(mask))
        if measured is None:
            return ["its mask cannot be read"]
        share, objects = measured
        count = count if _is_count(count) else objects
        wrong = {"large"} if share < LEAST_LARGE else {"small"} if share > MOST_SMALL else set()
        sizes = _find_words(text, SIZE_WORDS, noun)
        found = [f"says {word}, and its mask is {share:.1%} of the image"
                 for word, size in sizes if size in wrong]  # fmt: skip
    numbers = _find_words(text, NUMBER_WORDS, noun)
    others = [word for word, number in numbers if number != count]
    return [*found, *(f"says {word}, and its count is {count}" for word in others)]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def measure_mask(folder: Path, name: str) -> tuple[float, int] | None:
    """Measure a mask: what share of the image it covers, and with how many objects.

    Args:
        folder: As for `read_mask`.
        name: As for `read_mask`.

    Returns:
        Share from 0 to 1, and number of connected parts; None where there is no such file.
    """
    try:
        marked = read_mask(folder, name)
    except ImageError:
        return None
    parts, _ = ndimage.label(marked, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    return float(marked.mean()), int(np.count_nonzero(sizes >= SPECK * marked.size))


def _find_words(
    text: str, words: dict[str, Any], nouns: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """Find words of a kind that are said of the object: at most two others before its noun."""
    for found in _pattern(tuple(words), tuple(nouns)).finditer(
        NAMES.sub("something", text.lower())
    ):
        yield found[1], words[found[1]]


@cache
def _pattern(words: tuple[str, ...], nouns: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(map(re.escape, words))
    named = "|".join(map(re.escape, [*nouns, *sorted(NOUNS)]))
    return re.compile(
        rf"\b({either})\s+(?:(?!of\b|in\b|with\b)[a-z-]+,?\s+){{0,2}}(?:{named})(?:e?s)?\b"
    )
