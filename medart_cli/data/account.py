"""What was found in a data set and what was skipped: logged at the start of every command."""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from medart_cli.data.folders import Passed
from medart_cli.data.manifest import Record
from medart_cli.data.tables import MISSING
from medart_cli.log import log

MOST_NAMED = 12  # labels or endings that a line names
FEW_A_LABEL = 10  # images; data sets with fewer of each label may have patients for labels
PERSON = re.compile(r"(?:patient|pat|pt|subject|subj|sub|case|study|person|pid|mrn|id)?[\W_]*\d+")
# What is hardly a class: the same with a word before it, a DICOM UID, a date.
SURE_PERSON = re.compile(
    r"(?:patient|pat|pt|subject|subj|sub|person|pid|mrn|p)[\W_]*\d+|\d+(?:[.]\d+){3,}|"
    r"(?:19|20)\d\d[-_. ]?[01]\d[-_. ]?[0-3]\d"
)
# Folders of images and of their masks, as sets for segmentation have them.
NO_CLASSES = frozenset(
    "image images img imgs data dataset mask masks label labels segmentation segmentations "
    "annotation annotations gt groundtruth ground_truth".split()
)
TABLE_ENDINGS = frozenset(".csv .tsv .json .jsonl .ndjson .xlsx .xls .ods .parquet".split())


@dataclass
class Account:
    """Counts of one data set; they cost little memory however many rows there are.

    Attributes:
        source: The data set as the user named it.
        levels: What --folders says of the folders, if anything.
        images: Rows.
        labels: Images of each label.
        splits: Images of each split.
        texts: Images with a text.
        empty: Images whose text is empty.
        grouped: Images whose patient is known.
        passed: What a listing of folders skipped.
        tables: Manifests below the top that were read.
        unlisted: Images that stand on no line of such a manifest, by manifest.
    """

    source: str
    levels: tuple[str, ...] | None = None
    images: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    texts: int = 0
    empty: int = 0
    grouped: int = 0
    passed: Passed = field(default_factory=Passed)
    tables: list[str] = field(default_factory=list)
    unlisted: Counter[str] = field(default_factory=Counter)
    _groups: dict[bytes, str] = field(default_factory=dict)  # with their first spelling
    _spellings: list[str] = field(default_factory=list)  # of the first that have several
    _below: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, record: Record) -> None:
        """Count a record."""
        self.images += 1
        if record.label is not None:
            self.labels[record.label] += 1
            parts = record.file_name.split("/")
            if record.label in parts[:-2]:  # a folder with folders below it
                self._below[parts[parts.index(record.label) + 1]].add(record.label)
        if record.split is not None:
            self.splits[record.split] += 1
        if record.text is not None:
            self.texts += 1
            self.empty += not record.text.strip()
        if record.group is not None:
            self.grouped += 1
            self._add_group(record.group, str(record.group_name))

    def _add_group(self, group: str, name: str) -> None:
        key = hashlib.blake2b(group.encode(), digest_size=8).digest()
        first = self._groups.setdefault(key, name)
        pair = f"{first!r} and {name!r}"
        if first != name and pair not in self._spellings and len(self._spellings) <= MOST_NAMED:
            self._spellings.append(pair)

    def facts(self) -> dict[str, Any]:
        """Return the account as JSON data, for summaries and reports."""
        return {
            "source": self.source,
            "images": self.images,
            "labels": dict(sorted(self.labels.items())),
            "splits": dict(sorted(self.splits.items())),
            "patients": len(self._groups) or None,
            "without_patient": self.images - self.grouped,
            "texts": self.texts,
            "empty_texts": self.empty,
            "tables": list(self.tables),
            "passed_over": self._count_passed(),
        }

    def _count_passed(self) -> dict[str, int]:
        """Count what was not read, by what it is: formats, text files, outputs, litter."""
        found = {f"files {ending}": count for ending, count in self.passed.formats.items()}
        if self.passed.texts:
            found["text files beside images"] = self.passed.texts
        found |= {f"folders {name}": count for name, count in self.passed.litter.items()}
        if self.passed.copies:
            found["backups or unfinished files"] = self.passed.copies
        found |= {f"{name}, written by medart {by}": 1 for name, by in self.passed.outputs.items()}
        found |= {f"{name}, not to be read": 1 for name in self.passed.unreadable}
        found |= {f"images on no line of {name}": n for name, n in self.unlisted.items()}
        return dict(sorted(found.items()))

    def say(self) -> None:
        """Log what was found, and warn of what may not be intended."""
        log.info("%s: %s", self.source, self._tell_found())
        left = self._tell_left_out()
        if left:
            log.info("%s: skipped: %s", self.source, left)
        for warning in self._find_warnings():
            log.warning("%s: %s", self.source, warning)

    def _tell_found(self) -> str:
        parts = [f"{self.images} images"]
        parts.append(f"labels: {_name(self.labels)}" if self.labels else "no labels")
        if self.splits:
            parts.append(f"splits: {_name(self.splits)}")
        patients = f"{len(self._groups)} patients"
        if self._groups and self.grouped < self.images:
            patients += f" ({self.images - self.grouped} images without one)"
        parts.append(patients if self._groups else "patients unknown")
        parts.append(f"{self.texts} texts" if self.texts else "no texts")
        if self.tables:
            parts.append(f"from {_some(self.tables)}")
        return "; ".join(parts)

    def _tell_left_out(self) -> str:
        parts = [f"{name} (written by medart {by})" for name, by in self.passed.outputs.items()]
        parts += [f"{count} folders {name}" for name, count in sorted(self.passed.litter.items())]
        if self.passed.copies:
            parts.append(
                f"{self.passed.copies} backups or unfinished files, such as a.png~ or a.png.part"
            )
        return _some(parts)

    def _find_warnings(self) -> list[str]:
        found = self._find_unread()
        if self.empty:
            found.append(f"{self.empty} of {self.texts} texts are empty")
        alike = self._find_alike()
        if alike:
            found.append(
                f"labels that differ only in case, spaces or punctuation: {alike}; if they are one "
                "class, give them one name"
            )
        if self._spellings:
            found.append(
                "patient names that differ only in case, spaces or zeros count as one patient: "
                f"{_some(self._spellings)}; if they are two, rename them"
            )
        return found + self._doubt_names() + self._doubt_levels()

    def _find_unread(self) -> list[str]:
        """Say what is there and is not read."""
        found = []
        if self.passed.unreadable:
            name, why = next(iter(self.passed.unreadable.items()))
            found.append(
                f"{len(self.passed.unreadable)} folders cannot be read and are skipped, such as "
                f"{name} ({why}); to use images in them, make them readable"
            )
        tables = Counter({it: n for it, n in self.passed.formats.items() if it in TABLE_ENDINGS})
        formats = self.passed.formats - tables
        if formats:
            found.append(
                f"{sum(formats.values())} files are in unsupported formats and are skipped: "
                f"{_name(formats)}; convert images to PNG or TIFF"
            )
        if tables:
            found.append(
                f"{sum(tables.values())} files may be tables and are not read: {_name(tables)}; "
                "use one with medart caption --labels (as CSV), or name it metadata.csv"
            )
        if self.passed.texts:
            found.append(
                f"{self.passed.texts} images have a text file next to them; medart caption --texts "
                "sidecar uses those texts as captions"
            )
        for table, count in self.unlisted.items():
            found.append(f"{count} images are not listed in {table} and are skipped")
        return found

    def _doubt_names(self) -> list[str]:
        """Say which names of labels and patients are hardly meant as such."""
        found = []
        missing = [name for name in self.labels if name.casefold() in MISSING]
        missing += [f"patient {name}" for name in self._groups.values() if name.lower() in MISSING]
        if missing:
            found.append(
                f"{_some(missing)} is read as the name of a class or patient; if the value is "
                "unknown, leave it empty"
            )
        parts = sorted(name for name in self.labels if name.casefold() in NO_CLASSES)
        if parts:
            found.append(
                f"{_some(parts)} is read as a class; if it is not one, move masks elsewhere, or "
                "use the folder of the images itself"
            )
        return found

    def _find_alike(self) -> str:
        kinds: dict[str, list[str]] = defaultdict(list)
        for label in sorted(self.labels):
            kinds[re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", label).casefold())].append(
                label
            )
        return "; ".join(
            ", ".join(map(repr, names)) for kind, names in kinds.items() if kind and len(names) > 1
        )

    def _doubt_levels(self) -> list[str]:
        """Say where the folders of the labels may be patients, or lie above the classes."""
        if self.levels is not None:
            return []
        top = "split/" if self.splits else ""
        below, shared = list(self._below), self._find_shared()
        if self._seem_patients(shared):
            return [
                f"{self.images} images have {len(self.labels)} labels ({_name(self.labels)}), and "
                "the subfolders have the same names in each: if the labels are patients, "
                f"use --folders {top}group_id/label"
            ]
        if len(below) > 1 and _are_persons(below):
            return [
                f"the subfolders of the labels ({_some(sorted(below))}) may be patients: if so, "
                f"use --folders {top}label/group_id"
            ]
        if len(self.labels) > 1 and _are_persons(self.labels):
            return [
                f"the labels ({_name(self.labels)}) may be patients, studies or dates: if so, use "
                f"--folders {top}group_id, and give the classes in a table with medart caption "
                "--labels"
            ]
        everywhere = set[str]().union(*self._below.values()) == set(self.labels)
        if len(below) > 1 and everywhere and (len(shared) > 1 or len(self.labels) == 1):
            return [
                f"the labels ({_name(self.labels)}) have subfolders of the same names "
                f"({_some(sorted(shared or below))}): if those are the classes, use "
                f"--folders {top}-/label, or {top}group_id/label if patients are above them"
            ]
        return []

    def _find_shared(self) -> list[str]:
        """Find the names of folders that stand below several labels."""
        return [name for name, above in self._below.items() if len(above) > 1]

    def _seem_patients(self, shared: list[str]) -> bool:
        """Say whether labels may be patients: few images each, with like folders below them."""
        if len(self.labels) < 2 or not shared or _are_persons(shared):
            return False
        if all(PERSON.fullmatch(label.casefold()) for label in self.labels):
            return True
        few = self.images < FEW_A_LABEL * len(self.labels)
        return _are_persons(self.labels) or (few and len(self.labels) > 2 * len(shared))


def _are_persons(names: Iterable[str]) -> bool:
    return all(SURE_PERSON.fullmatch(name.casefold()) for name in names)


def _name(counts: Counter[str]) -> str:
    return _some([f"{name} {count}" for name, count in sorted(counts.items())])


def _some(items: list[str]) -> str:
    more = f", and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return ", ".join(items[:MOST_NAMED]) + more
