"""Splitting rows into two parts so that no patient stands in both."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medart_cli.data.manifest import HashedRecord
from medart_cli.errors import ConfigError

if TYPE_CHECKING:
    from sklearn.model_selection import StratifiedGroupKFold


def groups_of(rows: Sequence[HashedRecord]) -> list[str]:
    """Name what each row must stay together with: its group, or if it has none its bytes."""
    return [f"sha256:{it.sha256}" if it.group is None else f"group:{it.group}" for it in rows]


def split_groups(
    labels: Sequence[str], groups: Sequence[str], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Split rows into two parts that share no group and both hold every class.

    The parts come from scikit-learn's `StratifiedGroupKFold`; where groups are few, the first fold
    that holds every class is taken, from fewer folds if need be.

    Args:
        labels: Class of each row.
        groups: Group of each row.
        fraction: Share of rows wanted in the second part.
        seed: Same seed, same split.

    Returns:
        Indices of the two parts, each in order.

    Raises:
        ConfigError: No such split exists; names the class with the fewest groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second

    wanted = len(set(labels))
    for folds in range(max(2, round(1 / fraction)), 1, -1):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for first, second in _folds(splitter, labels, groups):
            if len({labels[i] for i in first}) == wanted == len({labels[i] for i in second}):
                return first, second
    members: dict[str, set[str]] = defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        members[label].add(group)
    rarest = min(sorted(members), key=lambda label: len(members[label]))
    raise ConfigError(
        f"class {rarest!r} has {len(members[rarest])} group(s) of images: too few for both "
        "sides of a split; add images, or leave the class out"
    )


def _folds(
    splitter: "StratifiedGroupKFold", labels: Sequence[str], groups: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    if splitter.n_splits > min(len(set(groups)), max(Counter(labels).values())):
        return []
    with warnings.catch_warnings():  # classes rarer than the number of folds: looked at above
        warnings.simplefilter("ignore", UserWarning)
        found = list(splitter.split(np.zeros(len(labels)), list(labels), list(groups)))
    return [(first.tolist(), second.tolist()) for first, second in found]
