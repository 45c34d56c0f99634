"""The masks of the real images: which rows name one, and by what a report is known to use them.

Only those of REAL are read, with which all sets are compared; drawn images have none. What is made
of them is in region.py.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medart_cli import stop
from medart_cli.data.hashes import hash_files
from medart_cli.data.manifest import Record
from medart_cli.data.masks import find_mask
from medart_cli.errors import ImageError
from medart_cli.evaluate.sets import UNREAD, ImageSet


@dataclass(frozen=True)
class RealMask:
    """A mask that a row of the real set names.

    Attributes:
        row: Of the set.
        sha256: Of the file's bytes; empty where it cannot be read.
        fault: Why it cannot be read; else empty.
    """

    row: int
    sha256: str = ""
    fault: str = ""


def list_masks(real: ImageSet, cache: Path) -> list[RealMask]:
    """List the masks of all images that can be read, with their hashes.

    Args:
        real: The real set, with its keys.
        cache: Where hashes are kept.
    """
    paths: dict[int, Path] = {}
    faults: dict[int, str] = {}
    for row in np.flatnonzero(real.masked & (real.keys != UNREAD)).tolist():
        try:
            paths[row] = _place_mask(real.record(row))
        except ImageError as error:
            faults[row] = str(error)
    hashes, unread = hash_files([*paths.values()], cache=cache, poll=stop.check)
    found = [RealMask(row, fault=why) for row, why in faults.items()]
    for row, path in paths.items():
        name = real.record(row).fields["mask"]
        why = f"mask {name}: {unread[path].strerror}" if path in unread else ""
        found.append(RealMask(row, hashes.get(path, ""), why))
    return sorted(found, key=lambda it: it.row)


def _place_mask(record: Record) -> Path:
    name = record.fields["mask"]
    if not isinstance(name, str):
        raise ImageError(f"mask must be str, not {type(name).__name__}")
    return find_mask(record.folder, name)


def hash_masks(real: ImageSet, cache: Path) -> list[str]:
    """Return a hash over which image has which mask; none where no row names one.

    Arguments as `list_masks`.
    """
    masks = list_masks(real, cache)
    told = [(real.keys[it.row].hex(), it.sha256, it.fault) for it in masks]
    return [hashlib.sha256(json.dumps(told).encode()).hexdigest()] if masks else []
