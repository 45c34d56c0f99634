"""The rows of `medart finetune`, for training and held out: read, hashed, counted."""

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
from medart_cli.data.splits import groups_of, split_groups
from medart_cli.errors import ConfigError
from medart_cli.finetune.masks import RowMask, find_masks
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.log import log
from medart_cli.models.bases import find_unhashed, hash_base
from medart_cli.options import parse_levels

SIDES = re.compile(r"\b(?:left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class TrainingData:
    """What is trained on, and what is held out.

    Attributes:
        rows: The training images; the text of each is its caption.
        held: The images that are not trained on, and whose loss is measured.
        masks: Of training images, by the place of their row, where an option asks for them.
        failures: How many files could not be opened.
        account: What was found in the data set.
        wording: How template captions are worded, for run.json: `sample` words them alike.
    """

    rows: list[HashedRecord]
    held: list[HashedRecord]
    masks: dict[str, RowMask]
    failures: int
    account: Account
    wording: dict[str, Any]


def read_training_rows(config: FinetuneConfig) -> TrainingData:
    """Read the rows to train on and to hold out.

    Those without text get the template caption, lost files count.
    """
    profile = read_profile(config.profile, config.classes)
    found = open_data(config.data, root=config.root, levels=parse_levels(config.folders))
    splits = (None, "train") if config.val_every == 0 else (None, "train", "val")
    records = [record for record in found if record.split in splits]
    refuse_synthetic(records, "the training images", allowed=config.allow_synthetic)
    rows, faults = hash_records(records, cache_folder(config))
    for record in records if faults else ():
        if record.path in faults:
            reason = faults[record.path].strerror
            log.warning("%s: %s: %s; skipped", record.place, record.path, reason)
    wanted = sum(record.split != "val" for record in records)
    if not wanted:
        raise ConfigError(f"{config.data}: no training image; rows need split train or no split")
    if all(row.split == "val" for row in rows):
        raise ConfigError(
            f"{config.data}: none of its {wanted} training images can be opened, see "
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
    failures = len(records) - len(rows)
    rows, held = hold_out_rows(config, rows)
    if config.flip:
        warn_of_flips(profile, rows)
    wording = profile.wording(row.label for row in rows)
    masks = find_masks(config, rows, cache_folder(config))
    return TrainingData(rows, held, masks, failures, found.account, wording)


def hold_out_rows(
    config: FinetuneConfig, rows: Sequence[HashedRecord]
) -> tuple[list[HashedRecord], list[HashedRecord]]:
    """Take the held-out rows out: those of split val, or a part that is drawn by patient.

    Raises:
        ConfigError: Nothing can be held out, or nothing is and an option needs it.
    """
    train = [row for row in rows if row.split != "val"]
    held = [row for row in rows if row.split == "val"]
    if config.val_fraction is not None:
        place = f"--val-fraction {config.val_fraction}"
        if held:
            raise ConfigError(f"{place}: has no effect where rows are marked val; leave it out")
        labels = [row.label or "(none)" for row in train]
        try:
            first, second = split_groups(labels, groups_of(train), config.val_fraction, config.seed)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
        train, held = [train[i] for i in first], [train[i] for i in second]
    held = drop_known(held, train)
    for name in () if held else ("keep_best", "val_every", "val_count"):
        if getattr(config, name):
            raise ConfigError(
                f"--{name.replace('_', '-')}: no image is held out; use --val-fraction 0.1, or "
                "mark rows with split val"
            )
    if held:
        log.info(
            "held out: %d images of %s patients; %d images are trained on",
            len(held), count_patients(held) or "unknown", len(train),
        )  # fmt: skip
    return train, held


def drop_known(held: Sequence[HashedRecord], train: Sequence[HashedRecord]) -> list[HashedRecord]:
    """Leave out, with a warning, held-out rows whose patient or file is trained on too.

    Raises:
        ConfigError: None is left.
    """
    groups, files = {row.group for row in train} - {None}, {row.sha256 for row in train}
    known = [row for row in held if row.group in groups or row.sha256 in files]
    if not known:
        return list(held)
    told = f"{len(known)} of {len(held)} held-out images are of a patient or a file"
    if len(known) == len(held):
        raise ConfigError(
            f"{known[0].place}: {told} that is trained on too; keep each patient in one split, or "
            "use --val-every 0"
        )
    log.warning("%s that is trained on too, such as %s; not measured", told, known[0].file_name)
    return [row for row in held if row.group not in groups and row.sha256 not in files]


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


def describe_data(rows: Sequence[HashedRecord]) -> dict[str, Any]:
    """Return what run.json says of the training rows: counts, a hash of images and captions."""
    lines = (f"{row.sha256} {row.label} {row.text}" for row in rows)
    digest = hashlib.sha256("\n".join(lines).encode())
    labels = Counter(row.label or "(none)" for row in rows)
    facts = {"images": len(rows), "labels": dict(labels), "hash": digest.hexdigest()}
    return {"data": facts, "patients": count_patients(rows)}


def public_settings(config: FinetuneConfig) -> dict[str, Any]:
    """Return the settings that may be published: those without places on this machine.

    Of the base there is the name, so that nobody who reads them back trains another one unawares.
    """
    private = config.name_run_only() | {"classes"}
    private |= {"profile"} if config.profile.endswith(".toml") else set()
    table = {name: value for name, value in config.settings().items() if name not in private}
    return table | {"base": name_base(config, Path(config.base))["base_name"]}


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
