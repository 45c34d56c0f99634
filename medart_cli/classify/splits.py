"""Who may learn from what: labels, groups, duplicates and leaks between training and test.

Pure functions on the manifest's records. A test set that shares a patient, a file or a generator's
training image with the training side measures memory, so each of these is looked for by name.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from medart_cli.data.manifest import HashedRecord, Record
from medart_cli.errors import ConfigError, ManifestError


def check_labels(records: Sequence[Record], name: str) -> list[str]:
    """Return the classes of labeled records, sorted.

    Args:
        records: Rows of one set.
        name: What the set is called in messages.

    Raises:
        ManifestError: A row has no label.
        ConfigError: There are fewer than two classes.
    """
    for record in records:
        if not record.label:
            raise ManifestError(
                f"{record.place}: no label; give every row of {name} one, or put the images in "
                "one folder per class"
            )
    classes = sorted({str(record.label) for record in records})
    if len(classes) < 2:
        raise ConfigError(
            f"{name}: only one class, {classes[0]!r}; a classifier needs two or more"
            if classes
            else f"{name}: no rows; a classifier needs images of two or more classes"
        )
    return classes


def check_same_classes(
    classes: Sequence[str], others: Sequence[str], name: str, *, all_needed: bool
) -> None:
    """Refuse a set with a class that training lacks, or (`all_needed`) without one it has.

    Raises:
        ConfigError: Names the class.
    """
    strange = sorted(set(others) - set(classes))
    if strange:
        raise ConfigError(
            f"{name}: class {strange[0]!r} is not among the classes of the training images "
            f"({', '.join(classes)}); the class names must be the same"
        )
    absent = sorted(set(classes) - set(others))
    if absent and all_needed:
        raise ConfigError(
            f"{name}: no image of class {absent[0]!r}, which the training images have; add some, "
            "or leave the class out of training"
        )


def refuse_shared_groups(train: Sequence[Record], test: Sequence[Record], name: str) -> None:
    """Refuse a group (patient, lesion, study) that stands on both sides.

    Raises:
        ManifestError: Names the first such group and a row of each side.
    """
    where = {record.group: record for record in train if record.group is not None}
    for record in test:
        other = where.get(record.group or "")
        if other is not None:
            same = other.group_name == record.group_name
            spelled = "" if same else f", spelled {other.group_name!r},"
            raise ManifestError(
                f"{record.place}: group {record.group_name!r} is in the test set and{spelled} "
                f"in {name} ({other.place}); keep each patient in one set"
            )


def labels_of(rows: Sequence[Record]) -> list[str]:
    """Return the class name of each row."""
    return [str(row.label) for row in rows]


def drop_duplicates(
    rows: Sequence[HashedRecord], taken: Collection[str]
) -> tuple[list[HashedRecord], list[HashedRecord]]:
    """Find the rows whose bytes also stand on the other side.

    Args:
        rows: Those of one side.
        taken: SHA-256 of the other side's files.

    Returns:
        The rows to keep, and those that are duplicates.
    """
    kept = [row for row in rows if row.sha256 not in taken]
    return kept, [row for row in rows if row.sha256 in taken]


def find_leaks(rows: Sequence[HashedRecord], seen: Collection[str]) -> list[HashedRecord]:
    """Find the images that the generator of synthetic images was trained on."""
    return [row for row in rows if row.sha256 in seen]


def draw_per_class(labels: Sequence[str], count: int | Mapping[str, int], seed: int) -> list[int]:
    """Draw `count` rows of each class (all of a smaller one), in order of rows.

    `count` is a number, or one for each class; a class that it does not name gives no rows.

    A larger count of the same seed holds the smaller one's rows.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    taken: Counter[str] = Counter()
    chosen = []
    for index in order.tolist():
        label = labels[index]
        if taken[label] < (count if isinstance(count, int) else count.get(label, 0)):
            taken[label] += 1
            chosen.append(index)
    return sorted(chosen)
