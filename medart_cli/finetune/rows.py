"""The training rows of `medart finetune`: read, hashed, counted."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medart_cli import stop
from medart_cli.data.account import Account
from medart_cli.data.cache import make_cache
from medart_cli.data.checks import refuse_synthetic, warn_of_two_labels
from medart_cli.data.dataset import open_data
from medart_cli.data.hashes import hash_files
from medart_cli.data.manifest import Record
from medart_cli.data.profiles import read_profile
from medart_cli.errors import ConfigError
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.log import log
from medart_cli.models import bases
from medart_cli.options import parse_levels
from medart_cli.ranks import ask_first


@dataclass
class Row:
    """One training image: its record, the hash of its bytes, and its caption."""

    record: Record
    sha256: str
    caption: str


@dataclass(frozen=True)
class Data:
    """What is trained on.

    Attributes:
        rows: The training images.
        failures: How many files could not be opened.
        account: What was found in the data set.
    """

    rows: list[Row]
    failures: int
    account: Account


def read_rows(config: FinetuneConfig) -> Data:
    """Read the training rows: those without text get the template caption, lost files count."""
    profile = read_profile(config.profile)
    rows, failures, plain = [], 0, 0
    found = open_data(config.data, root=config.root, levels=parse_levels(config.folders))
    records = [record for record in found if record.split in (None, "train")]
    refuse_synthetic(records, "the training images", allowed=config.allow_synthetic)
    hashes, faults = hash_once(config, sorted({record.path for record in records}))
    for record in records:
        caption = record.text
        if caption is None:
            caption, plain = profile.simple_caption(record.label), plain + 1
        if record.path in hashes:
            rows.append(Row(record, hashes[record.path], caption))
        else:
            reason = faults[record.path].strerror
            log.warning("%s: %s: %s; skipped", record.place, record.path, reason)
            failures += 1
    if not records:
        raise ConfigError(f"{config.data}: no training image; rows need split train or no split")
    if not rows:
        raise ConfigError(
            f"{config.data}: none of its {len(records)} training images can be opened, see "
            "above; check --root"
        )
    warn_of_two_labels([row.record for row in rows], [row.sha256 for row in rows])
    if plain:
        example = next(row.caption for row in rows if row.record.text is None)
        log.warning(
            '%d of %d images have no caption; they get the template caption, such as "%s"; '
            "--profile sets it, medart caption writes better ones", plain, len(rows), example,
        )  # fmt: skip
    return Data(rows, failures, found.account)


def hash_once(
    config: FinetuneConfig, paths: Sequence[Path]
) -> tuple[dict[Path, str], dict[Path, OSError]]:
    """Hash files in one of the processes, with the cache of `hash_files`."""
    return ask_first(partial(hash_files, paths, cache=cache_folder(config), poll=stop.check))


def cache_folder(config: FinetuneConfig) -> Path | None:
    """Return where latents, embeddings and hashes are kept; None where nothing is."""
    return make_cache(config.cache) if config.use_cache else None


def hash_base(config: FinetuneConfig, base: Path) -> dict[str, str]:
    """Return the hashes of the base; large files are read once."""
    hashes, faults = hash_once(config, bases.find_unhashed(base))
    for error in faults.values():
        raise error
    return bases.hash_base(base, hashes)


def describe_data(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what run.json says of the training rows: counts, a hash of images and captions."""
    lines = (f"{row.sha256} {row.record.label} {row.caption}" for row in rows)
    digest = hashlib.sha256("\n".join(lines).encode())
    labels = Counter(row.record.label or "(none)" for row in rows)
    groups = {row.record.group for row in rows} - {None}
    facts = {"images": len(rows), "labels": dict(labels), "hash": digest.hexdigest()}
    return {"data": facts, "patients": len(groups) or None}


def public_settings(config: FinetuneConfig) -> dict[str, Any]:
    """Return the settings that may be published: those without places on this machine."""
    private = config.name_run_only() | {"base", "profile"}
    return {name: value for name, value in config.settings().items() if name not in private}


def count_steps(config: FinetuneConfig, rows: int, processes: int) -> int:
    """Return the number of optimizer steps of the whole run."""
    if config.steps is not None:
        return config.steps
    return max(
        1, math.ceil(config.epochs * rows / (config.batch_size * config.accumulate * processes))
    )
