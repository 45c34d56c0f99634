"""What is said of the shapes of the training images: their buckets, and what cropping costs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from medart_cli.data.buckets import (
    LONGEST_RATIO,
    find_bucket,
    find_largest_loss,
    find_loss,
    write_shape,
)
from medart_cli.data.images import read_size
from medart_cli.errors import ImageError
from medart_cli.finetune.work import Work
from medart_cli.log import log

SIZES_TAKEN = 200  # images whose sizes tell what is lost on average
WORTH_SAVING = 0.1  # of an image, on average: more is worth a warning
BUCKETS_NAMED = 6  # buckets that are named


def describe_buckets(work: Work) -> dict[str, Any] | None:
    """Return what run.json says of the buckets, and log it; None without --buckets.

    Returns:
        `unit`, what their sides are multiples of; `largest_loss`, which share of an image at most
        is cut or padded; `images`, how many training images each bucket has, the fullest first.
    """
    if not work.config.buckets:
        return None
    counts = Counter(write_shape(work.shapes[row.sha256]) for row in work.rows)
    told = ", ".join(f"{name} ({count})" for name, count in counts.most_common(BUCKETS_NAMED))
    more = len(counts) - BUCKETS_NAMED
    log.info(
        "buckets: %d, height x width (images): %s%s",
        len(counts), told, f" and {more} more" if more > 0 else "",
    )  # fmt: skip
    few = [count for count in counts.values() if count < work.config.batch_size]
    if few:
        log.info(
            "buckets: %d images are in buckets of fewer images than a batch has (%d): they are "
            "trained on every few epochs, then several times in one step",
            sum(few), work.config.batch_size,
        )  # fmt: skip
    return {
        "unit": work.unit, "largest_loss": round(find_largest_loss(work.buckets), 4),
        "images": dict(counts.most_common()),
    }  # fmt: skip


def say_loss(work: Work) -> None:
    """Say what is cut from the images, or padded, on average; warn where --buckets would save it.

    Only some images are looked at, evenly over the rows.
    """
    sizes = read_sizes(work)
    if not sizes:
        return
    side = work.facts["resolution"]
    square = np.mean([find_loss(size, (side, side)) for size in sizes])
    padded = work.config.crop == "pad"
    if not work.config.buckets:
        if square > WORTH_SAVING and padded:
            log.warning(
                "images are not square: %.0f %% of what is trained on is black padding; with "
                "--buckets they keep their shape", 100 * square,
            )  # fmt: skip
        elif square > WORTH_SAVING:
            log.warning(
                "images are not square: --crop %s cuts away %.0f %% of them on average; with "
                "--buckets they keep their shape", work.config.crop, 100 * square,
            )  # fmt: skip
        return
    losses = [find_loss(size, find_bucket(size, work.buckets)) for size in sizes]
    what = "what is trained on is padding" if padded else "an image is cut away"
    log.info(
        "buckets: %.1f %% of %s on average; with squares it would be %.0f %%",
        100 * np.mean(losses), what, 100 * square,
    )  # fmt: skip
    long = [size for size in sizes if max(size) > LONGEST_RATIO * min(size)]
    if long and not padded:
        log.warning(
            "buckets: %d of %d images are longer than %d to 1, the longest bucket, such as one of "
            "%d x %d pixels: more of them is cut away; --crop pad keeps all",
            len(long), len(sizes), LONGEST_RATIO, *long[0],
        )  # fmt: skip


def read_sizes(work: Work) -> Sequence[tuple[int, int]]:
    """Return width and height of some of the training images."""
    places = np.unique(np.linspace(0, len(work.rows) - 1, SIZES_TAKEN).round().astype(int))
    sizes = []
    for place in places:
        try:
            sizes.append(read_size(work.rows[place].path))
        except ImageError:  # its latents are known from before; what is lost is said in time
            continue
    return sizes
