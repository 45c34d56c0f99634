"""The images that a model was trained on: as `--training` names them, or as its run recorded them.

Near-copies are looked for among these, and images that the model has not seen say how near one
comes by chance. So the two may have no file in common, and what a run did not train on is left out.
"""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medart_cli.data import checkpoint as checkpoints
from medart_cli.data.cache import try_cache
from medart_cli.data.hashes import hash_all
from medart_cli.data.output import SETTINGS_NAME
from medart_cli.errors import ConfigError
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import (
    UNREAD,
    Hashed,
    ImageSet,
    Place,
    find_heldout,
    find_training,
    hash_sets,
)
from medart_cli.log import log
from medart_cli.metrics.arrays import Digests, Mask
from medart_cli.models import bases
from medart_cli.options import parse_levels
from medart_cli.ranks import ask_first


@dataclass(frozen=True)
class TrainedRun:
    """A run of finetune, or a checkpoint of one, that drew a synthetic set.

    Attributes:
        folder: Has the trained parts.
        facts: From run.json.
        base: Pipeline folder of its base.
        mark: SHA-256 over the trained weights, as `sample` writes it into each image.
        trained: SHA-256 of each image that it was trained on; None where it has no list.
    """

    folder: Path
    facts: dict[str, Any]
    base: Path
    mark: str
    trained: frozenset[str] | None

    @property
    def settings(self) -> Path:
        """The settings of the run that this is, or is a checkpoint of."""
        place = self.folder.resolve()
        run = place.parents[1] if place.parent.name == checkpoints.CHECKPOINTS else place
        return run / SETTINGS_NAME


def open_run(config: EvaluateConfig) -> TrainedRun | None:
    """Open `--run` and find its base; None where it is not given.

    Raises:
        ConfigError: It is no run, not finished, or its base is another.
        MissingModelError: Its base is not there.
    """
    if config.run is None:
        return None
    found = ask_first(partial(checkpoints.find_run, Path(config.run)))
    if found is None:
        raise ConfigError(
            f"--run {config.run}: is neither a run folder that medart finetune wrote nor one of "
            "its checkpoints"
        )
    folder, facts = found
    base = bases.find_base(config.base or facts["base"], offline=config.offline)
    bases.check_half(bases.find_kind(base), config.precision)
    hashes = bases.hash_base(base, hash_all(bases.find_unhashed(base), try_cache()))
    bases.check_same_base(base, hashes, facts["base_hashes"], folder)
    mark = facts.get("checkpoint")  # a checkpoint of a run has none
    mark = mark or ask_first(partial(checkpoints.hash_trained, folder))
    trained = checkpoints.read_hashes(folder, checkpoints.TRAINING_HASHES)
    return TrainedRun(folder, facts, base, mark, trained)


def place_training(config: EvaluateConfig, run: TrainedRun | None) -> Place | None:
    """Say where the training images are; None where nobody says what they are.

    Raises:
        ConfigError: The run's own data are not where they were.
    """
    if config.training is not None:
        return Place(config.training, config.training_root, parse_levels(config.folders))
    if run is None:
        return None
    ask = "name the images that it was trained on with --training"
    try:
        settings = tomllib.loads(run.settings.read_text(encoding="utf-8"))
        data = str(settings["data"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"--run {config.run}: has no readable {SETTINGS_NAME}; {ask}") from error
    root = Path(settings["root"]) if "root" in settings else None
    if data == "-" or not all(Path(it).exists() for it in (data, root) if it is not None):
        gone = "came by standard input" if data == "-" else "are no longer there, seen from here"
        raise ConfigError(f"--run {config.run}: its data ({data}) {gone}; {ask}")
    if run.trained is None and "val_fraction" in settings:
        raise ConfigError(
            f"--run {config.run}: has no {checkpoints.TRAINING_HASHES}, and it held a part of its "
            f"data out; {ask}"
        )
    return Place(data, root, parse_levels(settings.get("folders")))


def check_drawn(config: EvaluateConfig, sets: list[ImageSet], run: TrainedRun | None) -> None:
    """Check that `--run` drew one of the synthetic sets, as far as these say what drew them.

    Raises:
        ConfigError: All say that it was another.
    """
    if run is None:
        return
    synthetic = sets[1 : 1 + len(config.synthetic)]
    marks = [{record.fields.get("run") for record in item} for item in synthetic]
    if any(run.mark in own for own in marks):
        return
    lists = [
        checkpoints.read_hashes(folder, checkpoints.TRAINING_HASHES)
        for item in synthetic
        for folder in {item.record(0).folder}
    ]
    if run.trained and run.trained in lists:
        log.warning(
            "--run %s: no synthetic set was drawn with these weights, but with others that were "
            "trained on the same images; membership is that of these weights", config.run,
        )  # fmt: skip
    elif all(None not in own for own in marks):
        raise ConfigError(
            f"--run {config.run}: drew none of the synthetic sets, as their manifests say; give "
            "the run or the checkpoint that did"
        )
    else:
        log.warning("--run %s: whether it drew the synthetic images is not known", config.run)


def hash_and_settle(config: EvaluateConfig, sets: list[ImageSet], run: TrainedRun | None) -> Hashed:
    """Hash all sets, leave out of the training images what was not trained on, and check them.

    Raises:
        ConfigError: The run trained on none of them, or one is held out as well.
    """
    hashed, failures = hash_sets(sets)
    held, training = find_heldout(config, hashed), find_training(config, hashed)
    if training is None:
        return hashed, failures
    if run is not None:
        training = keep_trained(config, training, run)
        hashed[-1] = training
    refuse_shared(held, training)
    known = held.patients is not None and training.patients is not None
    shared = find_known_patients(held, training).sum() if known else 0
    if shared:
        log.warning(
            "%s: %d of %d images are of patients of the training images: these are not compared "
            "with their own patient, and are left out of membership",
            held.name, shared, len(held),
        )  # fmt: skip
    return hashed, failures


def keep_trained(config: EvaluateConfig, training: ImageSet, run: TrainedRun) -> ImageSet:
    """Keep the images that a run says it was trained on.

    Raises:
        ConfigError: There is none.
    """
    if run.trained is None:
        log.warning(
            "--run %s: has no %s: all images of %s are taken for trained on",
            config.run, checkpoints.TRAINING_HASHES, training.name,
        )  # fmt: skip
        return training
    listed = np.array([bytes.fromhex(digest) for digest in sorted(run.trained)], dtype="S32")
    kept = np.flatnonzero(np.isin(training.keys, listed))
    if len(kept) < 2:
        raise ConfigError(
            f"{training.name}: holds {len(kept)} of the {len(listed)} images that {config.run} "
            "was trained on; name them with --training"
        )
    lost = len(listed) - len(np.intersect1d(training.keys, listed))
    if lost:
        log.warning(
            "%s: %d of the %d images that %s was trained on are not there, or have changed; copies "
            "of them cannot be found", training.name, lost, len(listed), config.run,
        )  # fmt: skip
    if len(kept) < len(training):
        log.info(
            "%s: %d of its %d images were not trained on and are left out",
            training.name, len(training) - len(kept), len(training),
        )  # fmt: skip
    return training.pick(kept)


def refuse_shared(held: ImageSet, training: ImageSet) -> None:
    """Refuse held-out images that are training images.

    Raises:
        ConfigError: Counts them and names one.
    """
    shared = np.flatnonzero(_is_among(held.keys, training.keys))
    if len(shared):
        raise ConfigError(
            f"{held.name}: {len(shared)} of its {len(held)} images were trained on, such as "
            f"{held.record(shared[0]).file_name}; give images that the model has not seen, as "
            "REAL or with --holdout"
        )


def _is_among(keys: Digests, others: Digests) -> Mask:
    among: Mask = np.isin(keys, others) & (keys != UNREAD)
    return among


def find_known_patients(held: ImageSet, training: ImageSet) -> Mask:
    """Say for each held-out image whether its patient is among those of the training images."""
    known: Mask = training.find_groups(held) >= 0
    return known


def describe_run(config: EvaluateConfig, sets: list[ImageSet], run: TrainedRun | None) -> list[str]:
    """Return what the report depends on besides images: weights, lists and captions."""
    if run is None:
        return []
    digest = hashlib.sha256()
    for item in (find_training(config, sets), find_heldout(config, sets)):
        for record in item or ():
            facts = (record.text, record.fields.get("caption"))
            digest.update(json.dumps(facts, sort_keys=True).encode())
    bases_of = json.dumps(run.facts["base_hashes"], sort_keys=True)
    return [run.mark, bases_of, json.dumps(run.facts.get("wording")), digest.hexdigest()]
