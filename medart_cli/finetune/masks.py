"""The masks of the training rows: which there are, and by what a run is known to have used them.

How they weigh the losses is in region.py.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medart_cli.data.hashes import hash_once
from medart_cli.data.manifest import HashedRecord
from medart_cli.data.masks import find_mask
from medart_cli.errors import ConfigError, ImageError, ManifestError
from medart_cli.finetune.options import FinetuneConfig

Masks = Mapping[str, "RowMask"]  # by the place of their row


@dataclass(frozen=True)
class RowMask:
    """A mask of a row.

    Attributes:
        folder: What its name is relative to.
        name: As the row has it.
        sha256: Of the file's bytes.
    """

    folder: Path
    name: str
    sha256: str


def find_masks(
    config: FinetuneConfig, rows: Sequence[HashedRecord], cache: Path | None
) -> dict[str, RowMask]:
    """Find the masks of rows, by their place, where an option asks for masks; else none.

    Raises:
        ConfigError: A mask cannot be read, or no row has one.
        ManifestError: A row has something else under that key.
    """
    option = name_option(config)
    if option is None:
        return {}
    paths: dict[str, Path] = {}
    for row in rows:
        name = row.fields.get("mask")
        if name is not None and not isinstance(name, str):
            raise ManifestError(f"{row.place}: mask must be str, not {type(name).__name__}")
        if not name:
            continue
        try:
            paths[row.place] = find_mask(row.folder, name)
        except ImageError as error:
            raise ConfigError(f"{row.place}: {error}; see --root") from error
    if not paths:
        raise ConfigError(
            f"{option}: no training row of {config.data} has a mask; add the key mask with an "
            "image file, or leave the option out"
        )
    hashes, faults = hash_once(list(paths.values()), cache)
    named = {row.place: row for row in rows if row.place in paths}
    for place, path in paths.items():
        if path in faults:
            name = named[place].fields["mask"]
            raise ConfigError(f"{place}: mask {name}: {faults[path].strerror}; correct its path")
    return {
        place: RowMask(named[place].folder, named[place].fields["mask"], hashes[path])
        for place, path in paths.items()
    }


def name_option(config: FinetuneConfig) -> str | None:
    """Name the option that asks for masks; None where none does."""
    if config.mask_weight != 1:
        return f"--mask-weight {config.mask_weight:g}"
    return "--hldf-region mask" if config.hldf_region == "mask" else None


def describe_masks(rows: Sequence[HashedRecord], masks: Masks) -> dict[str, Any] | None:
    """Return what run.json says of the masks: how many, and a hash; None where none are used."""
    if not masks:
        return None
    pairs = [(row.sha256, masks[row.place].sha256) for row in rows if row.place in masks]
    digest = hashlib.sha256("\n".join(" ".join(pair) for pair in pairs).encode())
    return {"images": len(pairs), "hash": digest.hexdigest()}
