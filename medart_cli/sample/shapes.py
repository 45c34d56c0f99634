"""At which shape each image is drawn: the bucket of the image whose caption it is.

Captions without an image, as those of a prompts file, get the buckets of the training images, each
in its share. Which row gets which depends on the row alone, so that rows can be added later.
"""

import math
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

from medart_cli.data.buckets import Shape, find_bucket, parse_shape
from medart_cli.data.images import read_size
from medart_cli.errors import ConfigError, ImageError
from medart_cli.log import log
from medart_cli.models.bases import read_buckets
from medart_cli.sample.options import SampleConfig
from medart_cli.sample.prompts import Prompts
from medart_cli.sample.source import Source

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, less their whole parts, fill [0, 1) most evenly


def find_trained(source: Source) -> dict[Shape, int]:
    """Return the buckets that a run was trained at and the images of each; else nothing."""
    found = source.facts.get("buckets") if source.facts else read_buckets(source.base)
    images = found["images"] if found else {}
    return {parse_shape(name, "buckets"): count for name, count in images.items()}


def wants_buckets(config: SampleConfig, trained: Mapping[Shape, int]) -> bool:
    """Say whether images are drawn at buckets, as the options say, or else the run."""
    if config.size is not None:
        return False
    return bool(trained) if config.buckets is None else config.buckets


def check_buckets(config: SampleConfig, source: Source, rows: Prompts) -> None:
    """Refuse --buckets where nothing says which.

    Raises:
        ConfigError: There are neither images nor a run that was trained with buckets.
    """
    if config.buckets and rows.account is None and not find_trained(source):
        raise ConfigError(
            f"--buckets: {config.run} was not trained with buckets, and prompts have no shape; use "
            "--from, or --size"
        )


def choose_shapes(rows: Prompts, counts: Mapping[Shape, int]) -> list[Shape]:
    """Choose the shape of each row.

    Args:
        rows: What is drawn.
        counts: The buckets, and how many images each has.
    """
    if len(counts) == 1:
        return list(counts) * len(rows)
    known: dict[Path, Shape] = {}
    found, lost = [], 0
    for row in range(len(rows)):
        path = rows.find_path(row)
        if path is not None and path not in known:
            try:
                known[path] = find_bucket(read_size(path), counts)
            except ImageError as error:
                log.warning("%s; its caption is drawn at the shape of another image", error)
                known[path] = choose_by_row(row, counts)
        lost += path is None
        found.append(choose_by_row(row, counts) if path is None else known[path])
    if lost and rows.account is not None:
        log.warning(
            "of %d of %d captions the image is not there: they are drawn at the shapes of the "
            "training images", lost, len(rows),
        )  # fmt: skip
    return found


def choose_by_row(row: int, counts: Mapping[Shape, int]) -> Shape:
    """Return the shape of a row without an image: of many rows, each shape has its share."""
    place = (row + 0.5) * GOLDEN % 1 * sum(counts.values())
    ends = accumulate(counts.values())
    return next(shape for shape, end in zip(counts, ends, strict=True) if place < end)
