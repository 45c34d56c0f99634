"""The sets of `medart evaluate`: read, and hashed."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medart_cli import __version__, stop
from medart_cli.data.account import Account
from medart_cli.data.checks import refuse_synthetic
from medart_cli.data.dataset import DataSet, open_data
from medart_cli.data.finished import hash_parts
from medart_cli.data.hashes import hash_model
from medart_cli.data.manifest import Record, hash_file
from medart_cli.data.names import name_sets
from medart_cli.data.subgroups import find_cuts
from medart_cli.errors import ConfigError
from medart_cli.evaluate.contents import describe_contents
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.log import progress
from medart_cli.metrics.arrays import Digests, Indices
from medart_cli.options import parse_levels
from medart_cli.versions import name_versions

REPORT_FORMAT = 2  # of metrics.json
HASHED = 64  # files between two updates of the progress bar
UNREAD = b""  # in place of the SHA-256 of a file that cannot be read
LONGEST_GROUP = 64  # bytes of UTF-8; a UID of DICOM has at most 64


@dataclass(frozen=True)
class Place:
    """Where a set is: what names it, what file names are relative to, and what folders mean."""

    source: str
    root: Path | None
    levels: tuple[str, ...] | None


@dataclass(frozen=True)
class ImageSet:
    """The images of one set: some 60 bytes of memory each, where a manifest names them.

    Attributes:
        name: Short and unique.
        records: All records of the set; those of a manifest stay on the disk.
        rows: Which of them the N images are, ascending, (N,).
        labels: Each label and its code.
        codes: Label code of each image, (N,); -1 for none.
        demonstration: Whether a demonstration model had a part in the image, (N,).
        masked: Whether the row names a mask, (N,).
        keys: SHA-256 of each image's bytes, (N,); UNREAD before `hash_sets`.
        account: What was found in the data set.
    """

    name: str
    records: Sequence[Record]
    rows: Indices
    labels: dict[str, int]
    codes: npt.NDArray[np.int32]
    demonstration: npt.NDArray[np.bool_]
    masked: npt.NDArray[np.bool_]
    keys: Digests
    account: Account

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Record]:
        return map(self.record, range(len(self)))

    def record(self, row: int | np.intp) -> Record:
        """Return the record of one image."""
        return self.records[int(self.rows[row])]

    def pick(self, kept: Indices) -> "ImageSet":
        """Return some of the images."""
        return replace(
            self,
            rows=self.rows[kept],
            codes=self.codes[kept],
            demonstration=self.demonstration[kept],
            masked=self.masked[kept],
            keys=self.keys[kept],
        )

    def rows_of(self, label: str | None) -> Indices:
        """Return the rows that have a label; all rows for None."""
        if label is None:
            return np.arange(len(self))
        return np.flatnonzero(self.codes == self.labels.get(label, -2))

    def count_labels(self) -> dict[str, int]:
        """Count the images of each label."""
        counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self.labels))
        return {name: int(counts[self.labels[name]]) for name in sorted(self.labels)
                if counts[self.labels[name]]}  # fmt: skip

    def name_groups(self) -> npt.NDArray[np.bytes_]:
        """Name the patient of each image, (N,); where none is known, images of the same bytes."""
        names = (
            _shorten(record.group or key.ljust(32, b"\0").hex())
            for record, key in zip(self, self.keys, strict=True)
        )
        return np.fromiter(names, dtype=f"S{LONGEST_GROUP}", count=len(self))

    @cached_property
    def patients(self) -> Indices | None:
        """The code of each image's group, (N,); None where no image names one."""
        known = any(record.group is not None for record in self)
        return self.groups if known else None

    def count_patients(self) -> int | None:
        """Count the patients; None where no image names one."""
        return None if self.patients is None else len(np.unique(self.patients))

    @property
    def clusters(self) -> Indices:
        """The code of what is resampled together, (N,): patients, or each image for itself."""
        return np.arange(len(self)) if self.patients is None else self.patients

    @cached_property
    def groups(self) -> Indices:
        """The code of each image's group, (N,): 0 for the first by name, and so on."""
        names = self.name_groups()
        order = np.argsort(names, kind="stable")
        new = np.zeros(len(names), dtype=np.intp)
        for start in range(1, len(names), 4096):  # np.unique would copy all names twice
            part = order[start - 1 : start + 4096]
            new[start : start + 4096] = names[part[1:]] != names[part[:-1]]
        codes = np.empty(len(names), dtype=np.intp)
        codes[order] = np.cumsum(new)
        return codes

    def find_groups(self, other: "ImageSet") -> Indices:
        """Return the group of this set that each image of another set belongs to, or -1, (M,)."""
        names = (_shorten(record.group or "") for record in other)
        theirs = np.fromiter(names, dtype=f"S{LONGEST_GROUP}", count=len(other))
        own, codes = self.name_groups(), np.sort(self.groups)
        own.sort()  # as the codes are
        place = np.searchsorted(own, theirs)
        known = np.searchsorted(own, theirs, side="right") > place
        return np.where(known, codes[np.minimum(place, len(codes) - 1)], -1)


Hashed = tuple[list[ImageSet], dict[str, str]]  # with keys; by path why files cannot be read


def _shorten(name: str) -> bytes:
    """Cut a group's name to a fixed width; names stay different, and in order unless alike."""
    raw = name.encode()
    return raw if len(raw) <= LONGEST_GROUP else raw[:32] + hashlib.sha256(raw).digest()


def read_sets(config: EvaluateConfig, training: Place | None = None) -> list[ImageSet]:
    """Read REAL, the synthetic sets, the held-out set and the training images, in this order.

    Args:
        config: The options.
        training: Where the training images are, if that is known.

    Raises:
        ConfigError: A set has one image.
        ManifestError: REAL or the held-out set holds a synthetic image.
    """
    sources = [config.real, *config.synthetic, *([config.holdout] if config.holdout else [])]
    roots = [config.root, *config.synthetic_roots, config.holdout_root]
    levels = parse_levels(config.folders)
    places = [Place(*pair, levels) for pair in zip(sources, roots, strict=False)]
    places += [training] if training else []
    sets = []
    for index, name in enumerate(name_sets([place.source for place in places])):
        place, real = places[index], index == 0 or index > len(config.synthetic)
        records = open_data(place.source, root=place.root, levels=place.levels)
        if real:
            refuse_synthetic(records, "the real images", allowed=config.allow_synthetic)
        item = _read_set(name, records)
        if place is training:
            item = item.pick(_rows_to_train(item))
        if len(item) < 2:
            raise ConfigError(f"{place.source}: contains {len(item)} image; metrics need 2 or more")
        sets.append(item)
    find_cuts(config.by or (), sets[0], sets[0].name)  # says at once what makes no subgroups
    return sets


def _rows_to_train(item: ImageSet) -> Indices:
    """Return the rows that finetune would train on."""
    own = [record.split in (None, "train") for record in item]
    return np.flatnonzero(own)


def _read_set(name: str, records: DataSet) -> ImageSet:
    labels: dict[str, int] = {}
    codes = np.full(len(records), -1, dtype=np.int32)
    demonstration, masked = (np.zeros(len(records), dtype=np.bool_) for _ in range(2))
    for row, record in enumerate(records):
        if record.label is not None:
            codes[row] = labels.setdefault(record.label, len(labels))
        demonstration[row] = record.demonstration
        masked[row] = record.fields.get("mask") not in (None, "")
    rows, keys = np.arange(len(records)), np.full(len(records), UNREAD, dtype="S32")
    facts = (labels, codes, demonstration, masked, keys)
    return ImageSet(name, records, rows, *facts, records.account)


def find_training(config: EvaluateConfig, sets: list[ImageSet]) -> ImageSet | None:
    """Return the training images, which are the last of the sets; None where nobody names them."""
    return None if config.training is None and config.run is None else sets[-1]


def find_copied(config: EvaluateConfig, sets: list[ImageSet]) -> ImageSet:
    """Return the images that may have been copied: the training images, else the real set."""
    training = find_training(config, sets)
    return sets[0] if training is None else training


def find_heldout(config: EvaluateConfig, sets: list[ImageSet]) -> ImageSet:
    """Return the images that the model has not seen: --holdout, else the real set."""
    return sets[1 + len(config.synthetic)] if config.holdout is not None else sets[0]


def shared_labels(real: ImageSet, item: ImageSet) -> list[str]:
    """Labels with two images or more in both sets; one label alone is the overall measure."""
    first, second = real.count_labels(), item.count_labels()
    shared = [label for label in first if min(first[label], second.get(label, 0)) > 1]
    alone = len(shared) == 1 and first[shared[0]] == len(real)
    return [] if alone and second[shared[0]] == len(item) else shared


def code_labels(sets: Sequence[ImageSet]) -> tuple[list[str], list[Indices]]:
    """Give each label a code that is the same in all sets.

    Returns:
        The labels by their codes, and the code of each image of each set, -1 for none.
    """
    names = list(dict.fromkeys(name for item in sets for name in item.labels))
    place = {name: code for code, name in enumerate(names)}
    tables = [np.array([*(place[it] for it in item.labels), -1], dtype=np.intp) for item in sets]
    return names, [codes[item.codes] for codes, item in zip(tables, sets, strict=True)]


def hash_sets(sets: Sequence[ImageSet]) -> Hashed:
    """Read all images for their hashes.

    Returns:
        The sets with their keys, and by path why files could not be read.
    """
    failures: dict[str, str] = {}
    hashed = []
    with progress("hash", sum(len(item) for item in sets)) as bar:
        for item in sets:
            keys = np.empty(len(item), dtype="S32")
            for place, record in enumerate(item):
                keys[place] = _hash(record, failures)
                stop.check()
                if place % HASHED == 0:  # a million updates of the bar would take their time
                    bar.advance(count=min(HASHED, len(item) - place))
            hashed.append(replace(item, keys=keys))
    return hashed, failures


def _hash(record: Record, failures: dict[str, str]) -> bytes:
    try:
        return bytes.fromhex(hash_file(record.path))
    except OSError as error:
        failures[str(record.path)] = f"{record.path}: {error.strerror}"
        return UNREAD


def describe_set(item: ImageSet, keys: Sequence[str] = (), *, texts: bool = False) -> str:
    """Return a hash over all of a set that what is measured depends on, and over its names.

    Args:
        item: The set.
        keys: Those of its rows by which subgroups are measured.
        texts: Whether that is also captions, and what images were drawn from.
    """
    digest = hashlib.sha256(item.name.encode())
    for record, key in zip(item, item.keys, strict=True):
        facts = [record.file_name, record.label, record.group, record.demonstration, key.hex()]
        if texts:
            told = (record.text, record.source, record.fields.get("prompt"), record.synthetic)
            facts += [*told, record.fields.get("caption")]
        if keys:
            facts += [[record.fields.get(name) for name in keys], record.source]
        digest.update(json.dumps(facts, default=str).encode())
    return digest.hexdigest()


def describe_work(
    config: EvaluateConfig, hashed: Hashed, cache: Path, more: Sequence[str] = ()
) -> str | None:
    """Return a hash over all that the report depends on: settings, images, networks, versions.

    None where files could not be read, or where that cannot be told without loading a network, as
    one from the hub's cache.

    Args:
        config: The options.
        hashed: The sets, and why files could not be read.
        cache: Where hashes are kept.
        more: What else counts, of a run and of masks, as `describe_run` and `hash_masks` say.
    """
    sets, failures = hashed
    if failures:
        return None
    own = [config.inception] if config.inception else []
    names = [*(config.features or ()), *map(str, own)]
    models = [hash_model(Path(name), cache, poll=stop.check) for name in names]
    fixed = ("inception", "efficientnet-lite0")  # their weights are known by the versions
    if any(model is None and name not in fixed for name, model in zip(names, models, strict=True)):
        return None
    contents = describe_contents(config, cache)
    if None in contents:
        return None
    there = sorted(path.name for path in cache.glob("inception*"))  # which network is the default
    settings = {
        name: value for name, value in config.settings().items() if name != "fail_on_copies"
    }
    versions = (name_versions(), __version__, REPORT_FORMAT, metadata.version("scipy"))
    accounts = [item.account.facts() for item in sets]
    texts = config.captioner is not None
    described = [describe_set(item, config.by or (), texts=texts) for item in sets]
    return hash_parts(
        (settings, accounts, described, models, contents, there, versions, list(more))
    )
