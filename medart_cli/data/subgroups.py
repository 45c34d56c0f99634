"""Subgroups of images by a key of their rows, such as sex, skin type, age or site.

A key that holds few values makes a subgroup of each. Numbers of many values are cut at their
quartiles. A row without a value is of no subgroup that could be compared, and is counted.
"""

import math
import re
import unicodedata
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli.data.manifest import Record
from medart_cli.data.tables import MISSING
from medart_cli.errors import ConfigError

NO_VALUE = "unknown"  # the row of a table for images without a value
MOST_VALUES = 20  # texts; more are no subgroups
MOST_NUMBERS = 8  # numbers that are a subgroup each, such as skin types 1 to 6; more are cut
LEAST_NUMBERED = 30  # rows from which whole numbers that are all different are taken for names
MOST_KEYS = 20  # keys in a message
UNFIT = {
    "file_name": "names each image",
    "sha256": "names each image",
    "text": "is the caption",
    "label": "is what is measured by label anyway",
    "group_id": "names patients, by whom intervals are anyway",
}

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Cut:
    """How the values of a key are told apart.

    Attributes:
        key: The key of the rows.
        names: Of the subgroups, in order.
        values: The code of each value, by `_spell`; empty for bands.
        ends: The highest number of each band but the last; None where values are no bands.
    """

    key: str
    names: list[str]
    values: dict[str, int]
    ends: list[float] | None = None

    def find_code(self, record: Record) -> int:
        """Return the code of a row's subgroup; -1 for no value, or one of no subgroup."""
        value = record.fields.get(self.key)
        if self.ends is None:
            return self.values.get(_spell(value), -1)
        number = _read_number(value)
        return -1 if number is None else int(np.searchsorted(self.ends, number))

    def find_codes(self, records: Iterable[Record], count: int) -> Codes:
        """Return the code of each of so many rows, (N,)."""
        return np.fromiter(map(self.find_code, records), dtype=np.int32, count=count)


def find_cuts(keys: Iterable[str], records: Iterable[Record], name: str) -> list[Cut]:
    """Find the subgroups by each of several keys; arguments and errors as `find_cut`."""
    return [find_cut(records, key, name) for key in keys]


def find_cut(records: Iterable[Record], key: str, name: str) -> Cut:
    """Find out which subgroups the rows of a set have; a million rows cost 8 MB of memory.

    Args:
        records: The rows, which are gone through more than once.
        key: Of the rows.
        name: What the set is called in messages.

    Raises:
        ConfigError: No row has the key, or its values make no subgroups; says why.
    """
    place = f"--by {key}"
    if key in UNFIT:
        raise ConfigError(f"{place}: {UNFIT[key]}; name a key such as sex, site or age")
    spelled: dict[str, str] = {}  # values as they are first spelled; some more than can be used
    numbers, known = array("d"), 0  # of rows, until one has none
    for record in records:
        value = record.fields.get(key)
        if isinstance(value, dict | list):
            raise ConfigError(f"{place}: {record.place} holds several values under it, not one")
        if _is_missing(text := _spell(value)):
            continue
        known += 1
        if len(spelled) <= MOST_VALUES:
            spelled.setdefault(text, str(value).strip())
        number = _read_number(value)
        if number is not None and len(numbers) == known - 1:
            numbers.append(number)
    if not known:
        raise ConfigError(f"{place}: no row of {name} has a value there; {_name_keys(records)}")
    cut = _cut(key, spelled, np.array(numbers) if len(numbers) == known else None, known)
    if len(cut.names) < 2:
        raise ConfigError(f"{place}: all rows of {name} that have a value have the same one")
    _refuse_label(cut, records)
    return cut


def _cut(
    key: str, spelled: dict[str, str], numbers: npt.NDArray[np.float64] | None, known: int
) -> Cut:
    """Take each value for a subgroup, or cut numbers into bands."""
    if numbers is not None:
        different = np.unique(numbers)
        whole = bool((different == np.floor(different)).all())
        if whole and len(different) == known >= LEAST_NUMBERED:
            raise ConfigError(
                f"--by {key}: is another whole number in each row, as names of images are; give a "
                "key that several images share"
            )
        if len(different) > MOST_NUMBERS or 2 * len(different) > known > 2:
            return _cut_bands(key, numbers, different)
        return Cut(
            key, [_word(number) for number in different],
            {_spell(number): code for code, number in enumerate(different.tolist())},
        )  # fmt: skip
    if len(spelled) > MOST_VALUES or 2 * len(spelled) > known > 2:
        many = f"more than {MOST_VALUES}" if len(spelled) > MOST_VALUES else str(len(spelled))
        raise ConfigError(
            f"--by {key}: has {many} different values in {known} rows, too many for subgroups; "
            f"write wider groups (at most {MOST_VALUES}) or numbers under a key of their own"
        )
    order = sorted(spelled)
    return Cut(key, [spelled[text] for text in order], {text: i for i, text in enumerate(order)})


def _cut_bands(
    key: str, numbers: npt.NDArray[np.float64], different: npt.NDArray[np.float64]
) -> Cut:
    """Cut numbers at their quartiles, each of which is the highest of its band."""
    quartiles = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75], method="inverted_cdf"))
    ends = quartiles[quartiles < different[-1]]
    ends = ends if len(ends) else different[-2:-1]  # three quarters have the highest number
    bands = np.split(different, np.searchsorted(different, ends, side="right"))
    names = [" to ".join(dict.fromkeys([_word(band[0]), _word(band[-1])])) for band in bands]
    return Cut(key, names, {}, ends.tolist())


def _refuse_label(cut: Cut, records: Iterable[Record]) -> None:
    pairs: set[tuple[int, str]] = set()
    for record in records:
        code = cut.find_code(record)
        if code >= 0 and record.label is not None and len(pairs) <= len(cut.names):
            pairs.add((code, record.label))
    labels = {label for _, label in pairs}
    if len(labels) > 1 and len(pairs) == len(labels) == len(cut.names):
        raise ConfigError(
            f"--by {cut.key}: says the same as the label ({', '.join(cut.names)}), by which is "
            "measured anyway"
        )


def _name_keys(records: Iterable[Record]) -> str:
    """Name the keys that could be meant."""
    keys: dict[str, None] = {}
    for record in records:
        if len(keys) > MOST_KEYS:
            break
        for key, value in record.fields.items():
            if key not in UNFIT and not isinstance(value, dict | list):
                keys.setdefault(key)
    if not keys:
        return "its rows have no keys to choose from; write one into the manifest"
    names = sorted(keys)
    return f"there are {', '.join(names[:MOST_KEYS])}" + (
        ", and more" if len(names) > MOST_KEYS else ""
    )


def _spell(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return what all spellings of a value have in common; a number and its text are the same."""
    number = _read_number(value)
    if number is not None:
        return repr(number)
    text = "" if value is None else unicodedata.normalize("NFKC", str(value)).casefold()
    return " ".join(text.split())


def _is_missing(text: str) -> bool:
    return not text or text in MISSING


def _read_number(value: Any) -> float | None:  # noqa: ANN401
    """Return a number, also one that is written as text, as tables have it; None for others."""
    if isinstance(value, str):
        plain = re.fullmatch(r"\s*[-+]?\d{1,15}(\.\d{1,15})?\s*", value)
        return float(value) if plain else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _word(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:.4g}"
