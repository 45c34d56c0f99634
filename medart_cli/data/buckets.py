"""Aspect buckets: the few shapes at which images that are not square are trained on and drawn.

A bucket is a height and a width. All have nearly the area of the square of a run's resolution, and
none has more, so that a bucket takes no more memory than the square. An image belongs to the bucket
whose shape is nearest its own: of all, the one of which it fills, or loses, the least.

PixArt and SANA come with tables of such shapes (ASPECT_RATIO_512_BIN and others of diffusers). The
rule here is of the same kind but needs no table, so that it serves every resolution and base; and
its steps are finer, so that less is cut away: at 512 pixels and sides of 16 pixels at most 3.8 % of
an image, where the table has up to 13.4 %.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from medart_cli.errors import ConfigError

Shape = tuple[int, int]  # height and width, pixels
Batched = TypeVar("Batched")

LONGEST_RATIO = 4  # times as long as wide; PixArt and SANA have seen no longer images
STEPS = 32  # from one bucket to the next a side changes by the square's over this


def list_buckets(resolution: int, unit: int) -> list[Shape]:
    """List the buckets of a resolution, from the highest to the widest.

    Args:
        resolution: Side of the square, pixels; a multiple of `unit`.
        unit: What the sides of the base's images are multiples of.
    """
    step = unit * max(1, round(resolution / STEPS / unit))
    longs = range(resolution, LONGEST_RATIO * resolution + 1, step)
    high = [(long, resolution**2 // long // unit * unit) for long in longs]
    high = [(long, short) for long, short in high if short and long <= LONGEST_RATIO * short]
    return [*reversed(high), *((short, long) for long, short in high[1:])]


def find_bucket(size: tuple[int, int], buckets: Iterable[Shape]) -> Shape:
    """Return the bucket for an image; of equals the first.

    Args:
        size: Width and height of the image, as Pillow says them.
        buckets: To choose from, at least one.
    """
    return min(buckets, key=lambda bucket: find_loss(size, bucket))


def find_loss(size: tuple[int, int], bucket: Shape) -> float:
    """Return which share of an image is cut away where it covers a bucket.

    As large is the share of the bucket that is black where the image is padded to it.
    """
    ratio = (size[1] * bucket[1]) / (size[0] * bucket[0])
    return 1 - min(ratio, 1 / ratio)


def find_largest_loss(buckets: Sequence[Shape]) -> float:
    """Return the largest share that any image of a shape between two of the buckets loses."""
    ratios = sorted(height / width for height, width in buckets)
    pairs = zip(ratios, ratios[1:], strict=False)
    return max((1 - math.sqrt(low / high) for low, high in pairs), default=0.0)


def write_shape(shape: Shape) -> str:
    """Write a shape as options and run.json have it: height x width."""
    return f"{shape[0]}x{shape[1]}"


def parse_shape(text: str, option: str) -> Shape:
    """Read what `write_shape` writes.

    Args:
        text: Height, x, width.
        option: Where it is from, for the message.

    Raises:
        ConfigError: It is not of this form, or a side is 0.
    """
    height, _, width = text.lower().partition("x")
    sides = [int(part) if part.isascii() and part.isdigit() else 0 for part in (height, width)]
    if not all(sides):
        raise ConfigError(f"{option} {text}: must be HEIGHTxWIDTH in pixels, such as 448x576")
    return sides[0], sides[1]


def batch_alike(
    items: Iterable[Batched], find_shape: Callable[[Batched], Shape | None], size: int
) -> list[list[Batched]]:
    """Put items into batches of one shape each, ordered by their first items.

    Args:
        items: Those of one shape keep their order, and where all are of one nothing else changes.
        find_shape: Batched -> its shape.
        size: Items in a batch; the last of a shape may have fewer.
    """
    open_ones: dict[Shape | None, list[Batched]] = {}
    batches = []
    for item in items:
        shape = find_shape(item)
        if len(open_ones.get(shape, ())) in (0, size):
            open_ones[shape] = []
            batches.append(open_ones[shape])
        open_ones[shape].append(item)
    return batches
