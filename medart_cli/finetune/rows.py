"""The training rows of `medart finetune`: read, hashed, counted."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medart_cli.data.account import Account
from medart_cli.data.cache import make_cache
from medart_cli.data.checks import refuse_synthetic, warn_of_two_labels
from medart_cli.data.dataset import open_data
from medart_cli.data.hashes import hash_all, hash_records
from medart_cli.data.manifest import HashedRecord, count_patients
from medart_cli.data.profiles import Profile, read_profile
from medart_cli.errors import ConfigError
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.log import log
from medart_cli.models.bases import find_unhashed, hash_base
from medart_cli.options import parse_levels

SIDES = re.compile(r"\b(?:left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class TrainingData:
    """What is trained on.

    Attributes:
        rows: The training images; the text of each is its caption.
        failures: How many files could not be opened.
        account: What was found in the data set.
    """

    rows: list[HashedRecord]
    failures: int
    account: Account


def read_training_rows(config: FinetuneConfig) -> TrainingData:
    """Read the training rows: those without text get the template caption, lost files count."""
    profile = read_profile(config.profile, config.classes)
    found = open_data(config.data, root=config.root, levels=parse_levels(config.folders))
    records = [record for record in found if record.split in (None, "train")]
    refuse_synthetic(records, "the training images", allowed=config.allow_synthetic)
    rows, faults = hash_records(records, cache_folder(config))
    for record in records if faults else ():
        if record.path in faults:
            reason = faults[record.path].strerror
            log.warning("%s: %s: %s; skipped", record.place, record.path, reason)
    if not records:
        raise ConfigError(f"{config.data}: no training image; rows need split train or no split")
    if not rows:
        raise ConfigError(
            f"{config.data}: none of its {len(records)} training images can be opened, see "
            "above; check --root"
        )
    warn_of_two_labels(rows)
    plain = [place for place, row in enumerate(rows) if row.text is None]
    for place in plain:
        rows[place] = rows[place].with_fields(text=profile.simple_caption(rows[place].label))
    if plain:
        log.warning(
            '%d of %d images have no caption; they get the template caption, such as "%s"; '
            "--profile and --classes set it, medart caption writes better ones",
            len(plain), len(rows), rows[plain[0]].text,
        )  # fmt: skip
    if config.flip:
        warn_of_flips(profile, rows)
    return TrainingData(rows, len(records) - len(rows), found.account)


def warn_of_flips(profile: Profile, rows: Sequence[HashedRecord]) -> None:
    """Say where a mirrored image means something else, or is not what its caption says."""
    if not profile.flips:
        log.warning(
            "--flip: in profile %s a mirrored image does not mean the same; leave it out unless "
            "left and right say nothing in your images", profile.name,
        )  # fmt: skip
    sided = [row for row in rows if SIDES.search(row.text or "")]
    if sided:
        log.warning(
            "--flip: %d of %d captions say left or right, which is wrong of the mirrored image, "
            "such as that of %s", len(sided), len(rows), sided[0].file_name,
        )  # fmt: skip


def cache_folder(config: FinetuneConfig) -> Path | None:
    """Return where latents, embeddings and hashes are kept; None where nothing is."""
    return make_cache(config.cache) if config.use_cache else None


def describe_wording(config: FinetuneConfig, rows: Sequence[HashedRecord]) -> dict[str, Any]:
    """Return what run.json says of template captions, so that `sample` words them alike."""
    profile = read_profile(config.profile, config.classes)
    return {"wording": profile.wording(row.label for row in rows)}


def describe_data(rows: Sequence[HashedRecord]) -> dict[str, Any]:
    """Return what run.json says of the training rows: counts, a hash of images and captions."""
    lines = (f"{row.sha256} {row.label} {row.text}" for row in rows)
    digest = hashlib.sha256("\n".join(lines).encode())
    labels = Counter(row.label or "(none)" for row in rows)
    facts = {"images": len(rows), "labels": dict(labels), "hash": digest.hexdigest()}
    return {"data": facts, "patients": count_patients(rows)}


def public_settings(config: FinetuneConfig) -> dict[str, Any]:
    """Return the settings that may be published: those without places on this machine."""
    private = config.name_run_only() | {"base", "profile", "classes"}
    return {name: value for name, value in config.settings().items() if name not in private}


def plan_steps(config: FinetuneConfig, rows: int, processes: int) -> int:
    """Return the number of optimizer steps of the whole run."""
    if config.steps is not None:
        return config.steps
    return max(
        1, math.ceil(config.epochs * rows / (config.batch_size * config.accumulate * processes))
    )


def hash_base_once(config: FinetuneConfig, base: Path) -> dict[str, str]:
    """Return the hashes of the base; large files are read once, by one process."""
    return hash_base(base, hash_all(find_unhashed(base), cache_folder(config)))


def name_base(config: FinetuneConfig, base: Path) -> dict[str, str]:
    """Return how run.json names the base: where it lies or its hub id, and what it is called."""
    local = Path(config.base).is_dir()
    return {
        "base": str(base.resolve()) if local else config.base,
        "base_name": base.resolve().name if local else config.base,
    }
