"""The images of a study, pinned: what is trained on, what is tested on, which captions are drawn.

All units read the same manifests, in the study's own folder, so that no arm has other images.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

import numpy as np

from medart_cli import stop
from medart_cli.data.checks import refuse_synthetic
from medart_cli.data.dataset import DataSet, open_data
from medart_cli.data.manifest import Record, hash_file, write_manifest
from medart_cli.errors import ConfigError
from medart_cli.log import log, progress
from medart_cli.options import parse_levels
from medart_cli.study.arms import Captions
from medart_cli.study.options import StudyConfig

FOLDER = "data"  # of the manifests, in the study's folder
TRAIN_NAME, SIMPLE_NAME, TEST_NAME = "train.jsonl", "simple.jsonl", "test.jsonl"
LEAST = 2  # images of each set; with fewer nothing can be compared


@dataclass(frozen=True)
class StudySets:
    """The rows of a study.

    Attributes:
        train: Rows to fine-tune on, with those of split val, whose loss finetune looks at.
        test: Rows to test on.
        hashes: SHA-256 of each file of both, in order; empty where it cannot be read.
        inputs: What was found in the data sets.
    """

    train: list[Record]
    test: list[Record]
    hashes: tuple[list[str], list[str]]
    inputs: list[dict[str, Any]]

    @property
    def drawn_from(self) -> list[Record]:
        """The rows whose captions are drawn: those that are trained on."""
        return [row for row in self.train if row.split != "val"]

    @cached_property
    def labels(self) -> dict[str, int]:
        """How many test images each label has, of those that are trained on as well."""
        known = {row.label for row in self.drawn_from}
        counts = Counter(row.label for row in self.test if row.label in known)
        return {str(label): count for label, count in counts.items() if label is not None}

    @property
    def captioned(self) -> int:
        """How many of the rows that are trained on have a caption of their own."""
        return sum(row.text is not None for row in self.drawn_from)

    def hash_all(self) -> str:
        """Return a hash over all images, their labels, groups and captions."""
        digest = hashlib.sha256()
        for rows, hashes in zip((self.train, self.test), self.hashes, strict=True):
            for row, sha256 in zip(rows, hashes, strict=True):
                facts = (sha256, row.label, row.group, row.split, row.text)
                digest.update(json.dumps(facts).encode() + b"\n")
        return digest.hexdigest()


def read_sets(config: StudyConfig) -> StudySets:
    """Read what a study trains on and tests on.

    A training image whose bytes stand in the test set is left out, and so is a test image that
    nothing can be drawn for, since no training image has its label; both with a warning.

    Raises:
        ConfigError: There are no test images, or too few of either, or a patient is in both.
        ManifestError: A row is malformed, or an image was generated.
    """
    levels = parse_levels(config.folders)
    found = [open_data(config.data, root=config.root, levels=levels)]
    if config.test is not None:
        found.append(open_data(config.test, root=config.test_root, levels=levels))
    train, test = _choose_rows(config, found)
    for rows, data in ((train, found[0]), (test, found[-1])):
        refuse_synthetic(rows, data.account.source, allowed=config.allow_synthetic)
    hashes = _hash_rows(train, test)
    train, hashes = _leave_out_twins(train, test, hashes)
    test, hashes = _leave_out_undrawn(train, test, hashes)
    _refuse_few(config, train, test)
    _refuse_shared_groups(train, test)
    return StudySets(train, test, hashes, [item.account.facts() for item in found])


def _choose_rows(
    config: StudyConfig, found: Sequence[DataSet]
) -> tuple[list[Record], list[Record]]:
    """Choose the rows to train on and to test on by their split, as classify does."""
    train = [row for row in found[0] if row.split != "test"]
    marked = [row for row in found[-1] if row.split == "test"]
    if config.test is None and not marked:
        raise ConfigError(
            f"{config.data}: has no rows with split test; give images to test on with --test"
        )
    if config.test is not None and len(train) < len(found[0]):
        log.info(
            "%s: %d rows of split test are neither trained on nor tested on",
            *(config.data, len(found[0]) - len(train)),
        )
    test = marked or list(found[-1])
    if config.test is not None and len(test) < len(found[1]):
        log.info("%s: of %d rows the %d of split test are tested on",
                 *(config.test, len(found[1]), len(test)))  # fmt: skip
    return train, test


def _hash_rows(train: Sequence[Record], test: Sequence[Record]) -> tuple[list[str], list[str]]:
    found: tuple[list[str], list[str]] = ([], [])
    with progress("hash", len(train) + len(test)) as bar:
        for rows, hashes in zip((train, test), found, strict=True):
            for row in rows:
                stop.check()
                try:
                    hashes.append(hash_file(row.path))
                except OSError:  # the commands that read it name it, and count it
                    hashes.append("")
                bar.advance()
    return found


def _leave_out_twins(
    train: list[Record], test: list[Record], hashes: tuple[list[str], list[str]]
) -> tuple[list[Record], tuple[list[str], list[str]]]:
    tested = set(hashes[1]) - {""}
    kept = [place for place, sha256 in enumerate(hashes[0]) if sha256 not in tested]
    if len(kept) < len(train):
        example = next(
            row.file_name for row, it in zip(train, hashes[0], strict=True) if it in tested
        )
        log.warning(
            "%d training images are byte-identical to test images, such as %s; they are not "
            "trained on", len(train) - len(kept), example,
        )  # fmt: skip
    return [train[place] for place in kept], ([hashes[0][it] for it in kept], hashes[1])


def _leave_out_undrawn(
    train: list[Record], test: list[Record], hashes: tuple[list[str], list[str]]
) -> tuple[list[Record], tuple[list[str], list[str]]]:
    """Leave out test images of labels that no training image has: arms cannot draw any of them."""
    labels = {row.label for row in train if row.split != "val"}
    if labels == {None} or all(row.label is None for row in test):  # the captions are one pool
        return test, hashes
    kept = [place for place, row in enumerate(test) if row.label in labels]
    if len(kept) < len(test):
        missing = {row.label for row in test} - labels
        log.warning(
            "%d test images are left out, since no training image has their label: %s",
            len(test) - len(kept), ", ".join(sorted(it or "no label" for it in missing)),
        )  # fmt: skip
    return [test[place] for place in kept], (hashes[0], [hashes[1][it] for it in kept])


def _refuse_few(config: StudyConfig, train: list[Record], test: list[Record]) -> None:
    for rows, name in ((train, config.data), (test, config.test or config.data)):
        if len(rows) < LEAST:
            what = "test on" if rows is test else "train on"
            raise ConfigError(
                f"{name}: {len(rows)} images to {what}; a study needs {LEAST} or more"
            )


def _refuse_shared_groups(train: list[Record], test: list[Record]) -> None:
    shared = {row.group for row in train} & {row.group for row in test} - {None}
    if shared:
        row = next(row for row in train if row.group in shared)
        raise ConfigError(
            f"{row.place}: its patient (group_id) has images to train on and to test on, as do "
            f"{len(shared) - 1} others; keep each patient on one side"
        )


def draw_captions(sets: StudySets, seed: int) -> list[Record]:
    """Choose training captions to draw, as many as there are test images of each label.

    Each label's captions come in random order, and again from the beginning once all were drawn.

    Args:
        sets: The rows.
        seed: Of the unit; all arms of a seed draw the same captions.

    Returns:
        A training row of its label for each test image, in the order of the test set; where a side
        has no labels, all rows are one pool.
    """
    rows = sets.drawn_from
    order = np.random.default_rng([seed, 20]).permutation(len(rows)).tolist()
    pools: dict[str | None, list[Record]] = defaultdict(list)
    for place in order:
        pools[rows[place].label if sets.labels else None].append(rows[place])
    endless: dict[str | None, Iterator[Record]] = {key: cycle(it) for key, it in pools.items()}
    return [next(endless[row.label if sets.labels else None]) for row in sets.test]


def name_training(captions: Captions) -> str:
    """Name the manifest that arms with such captions train on."""
    return TRAIN_NAME if captions == "own" else SIMPLE_NAME


def name_drawn(captions: Captions, seed: int) -> str:
    """Name the manifest of the captions that are drawn with a seed."""
    return f"captions-{captions}-{seed}.jsonl"


def write_sets(folder: Path, sets: StudySets, seeds: Sequence[int], *, shared: bool) -> None:
    """Write the manifests that the commands of all units read; the same rows, the same bytes.

    Args:
        folder: Of the manifests.
        sets: The rows.
        seeds: Of the units.
        shared: Shards begin at once, and write the same.
    """
    folder.mkdir(exist_ok=True)
    write_manifest(folder / TEST_NAME, (row.fields for row in sets.test), shared=shared)
    kinds: tuple[Captions, ...] = get_args(Captions)
    for kind in kinds:
        rows = (_word(row, kind) for row in sets.train)
        write_manifest(folder / name_training(kind), rows, shared=shared)
        for seed in seeds:
            drawn = (_word(row, kind) for row in draw_captions(sets, seed))
            write_manifest(folder / name_drawn(kind, seed), drawn, shared=shared)


def _word(row: Record, captions: Captions) -> dict[str, Any]:
    """Return a row's fields, without its caption where the template is to be its caption."""
    if captions == "own":
        return row.fields
    return {key: value for key, value in row.fields.items() if key not in ("text", "caption")}
