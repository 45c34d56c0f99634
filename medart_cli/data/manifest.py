"""Manifests: JSON Lines, one object an image, the `imagefolder` layout of Hugging Face datasets.

Reading streams, so a manifest of a million lines costs little memory. Writing appends whole lines,
so a crash costs at most the line in work.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Self

from medart_cli.data.files import draft_of, named_errors, remove_drafts
from medart_cli.data.kinds import describe_kind
from medart_cli.errors import ManifestError
from medart_cli.log import log

MANIFEST_NAME = "metadata.jsonl"
# Folder beside it with the lines of processes that share the work, I-of-N.jsonl.
PARTS_NAME = "parts"
LONGEST_LINE = 1 << 20  # bytes; a longer line is no record but a mistake
DEEPEST = 100  # levels of nesting; Python's JSON gives up near 1000, less the depth of its caller
FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "file_name": (str,),
    "text": (str,),
    "label": (str, int),
    "group_id": (str, int),
    "split": (str,),
    "sha256": (str,),
    "caption": (dict,),
    "synthetic": (bool,),
    "source": (dict,),
}
SPLITS = ("train", "val", "test")
FLAG_KEYS = ("synthetic", "phantom", "demonstration")  # keys that are true or false


@dataclass(frozen=True)
class Record:
    """One image of a manifest: its JSON object, and where that stands.

    Attributes:
        fields: The whole object; unknown keys and the order of keys are kept.
        folder: What `file_name` is relative to.
        place: `file:line` for messages.
    """

    fields: dict[str, Any]
    folder: Path
    place: str

    @property
    def file_name(self) -> str:
        """Path of the image, relative to `folder`, with forward slashes."""
        return str(self.fields["file_name"])

    @property
    def path(self) -> Path:
        """Path of the image file, with its letters composed as they are on the disk."""
        path = self.folder / self.file_name
        if not self.file_name.isascii() and not os.path.exists(path):
            for form in ("NFC", "NFD"):  # macOS and some shares decompose letters with marks
                other = self.folder / unicodedata.normalize(form, self.file_name)
                if os.path.exists(other):
                    return other
        return path

    @property
    def text(self) -> str | None:
        """The caption; None where the row has none."""
        return self.fields.get("text")

    @property
    def label(self) -> str | None:
        """The class name, of a number its text; None where the row has none."""
        label = self.fields.get("label")
        return None if label is None or label == "" else str(label)

    @property
    def group(self) -> str | None:
        """The patient, lesion or study, see `clean_group`; None where the row names none."""
        return clean_group(self.fields.get("group_id"))

    @property
    def group_name(self) -> str | None:
        """The group as the row spells it."""
        return None if self.group is None else str(self.fields["group_id"]).strip()

    @property
    def split(self) -> str | None:
        """`train`, `val` or `test`; None where the row says nothing."""
        return self.fields.get("split")

    @property
    def synthetic(self) -> bool:
        """Whether the image was generated."""
        return bool(self.fields.get("synthetic", False))

    @property
    def source(self) -> dict[str, Any]:
        """Of the row whose caption a drawn image is from: image, sha256, split, group_id, if known.

        Its file is called `image`, since `datasets` takes any `file_name` for a file to load.
        """
        return dict(self.fields.get("source") or {})

    @property
    def phantom(self) -> bool:
        """Whether the image is a drawn phantom, which the demonstration models know."""
        return self.fields.get("phantom") is True

    @property
    def demonstration(self) -> bool:
        """Whether a demonstration model made the image or its caption."""
        made = self.fields.get("caption")
        told = isinstance(made, dict) and made.get("demonstration") is True
        return told or self.fields.get("demonstration") is True

    def with_fields(self, **new: Any) -> Self:  # noqa: ANN401 - any JSON value
        """Return a copy with fields added or replaced; all others are kept."""
        return replace(self, fields={**self.fields, **new})


@dataclass(frozen=True)
class HashedRecord(Record):
    """A record whose image file was read.

    Attributes:
        sha256: Of the file's bytes; what the row itself says of them is in `fields`.
    """

    sha256: str


def count_patients(records: Iterable[Record]) -> int | None:
    """Count the patients, see `clean_group`; None where no row names one."""
    return len({record.group for record in records} - {None}) or None


def clean_group(group: object) -> str | None:
    """Return what is the same for all spellings of a patient, lesion or study; None for none.

    `P001`, `p001` and `P 001 ` are one patient, and so are a number and its text: taking two for
    one keeps images together that could stand apart, the other way round a test would be too good.
    `007` and `7.0` are 7, as spreadsheets write them.
    """
    text = "" if group is None else unicodedata.normalize("NFKC", str(group)).casefold()
    text = "".join(text.split())
    number = re.fullmatch(r"0*(\d+)(\.0+)?", text)
    return (number[1] if number else text) or None


def warn_of_demonstration(model: str, records: Iterable[Record]) -> None:
    """Warn where a demonstration model is used on anything but the phantoms that it knows."""
    other = sum(not record.phantom for record in records)
    if other:
        log.warning(
            "%s: is a demonstration model and knows drawn phantoms only; %d images are not "
            "phantoms, and its results for them are meaningless", model, other,
        )  # fmt: skip


def read_manifest(path: Path, *, root: Path | None = None) -> Iterator[Record]:
    """Read a manifest file, line by line.

    Raises:
        ManifestError: A line is malformed; the message names file and line.
    """
    with path.open("rb") as file:
        yield from read_records(file, str(path), root or path.parent, root)


def read_records(file: BinaryIO, name: str, folder: Path, root: Path | None) -> Iterator[Record]:
    """Read the records of an open manifest; `name` is what messages call it.

    Raises:
        ManifestError: As `read_manifest`.
    """
    forget_paths()
    number = records = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        place = f"{name}:{number}"
        if number == 1:
            _refuse_kind(name, raw)
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as some editors write it
        if len(raw) > LONGEST_LINE:
            raise ManifestError(f"{place}: line longer than 1 MiB; is this a JSON Lines file?")
        if raw.strip():
            records += 1
            yield parse_line(raw, place, folder, root)
    if records == 0:
        raise ManifestError(f"{name}: is empty; it needs one JSON object per line")


def _refuse_kind(name: str, head: bytes) -> None:
    known = describe_kind(head)
    if known is not None:
        raise ManifestError(f"{name}: is {known[0]}, not a manifest; {known[1]}")


def parse_line(raw: bytes, place: str, folder: Path, root: Path | None = None) -> Record:
    """Read and check one manifest line.

    Raises:
        ManifestError: It is not a JSON object, a known key has the wrong type, or `file_name` is
            missing or leaves the folder, also by a link.
    """
    try:
        fields = _decode(raw.decode("utf-8"))
        encode_line(fields)  # refuses what could not be written again: NaN, 1e999, half a pair
    except UnicodeDecodeError as error:
        raise ManifestError(f"{place}: is not UTF-8 text; save the file as UTF-8") from error
    except UnicodeEncodeError as error:
        raise ManifestError(f"{place}: has half a surrogate pair, which is not text") from error
    except RecursionError as error:
        raise ManifestError(f"{place}: is nested deeper than {DEEPEST} levels") from error
    except ValueError as error:
        reason = str(error)
        if raw.lstrip().startswith(b"["):
            reason = "an array begins here; write one object per line, without [ and commas"
        raise ManifestError(f"{place}: is not a JSON object: {reason:.200}") from error
    if not isinstance(fields, dict):
        raise ManifestError(f"{place}: is a JSON {type(fields).__name__}, not an object")
    if raw.count(b"[") + raw.count(b"{") > DEEPEST and _deeper(fields, DEEPEST):
        raise ManifestError(f"{place}: is nested deeper than {DEEPEST} levels")
    _check_types(fields, place)
    _check_file_name(fields.get("file_name"), place, folder, root)
    return Record(fields, folder, place)


def encode_line(fields: dict[str, Any]) -> bytes:
    """Turn one record into its manifest line, with the line end.

    Raises:
        ValueError: A value is no JSON: NaN, infinity, half a surrogate pair.
    """
    return _encode(fields).encode("utf-8") + b"\n"


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in names if names.count(key) > 1)!r} is repeated")
    return found


# Built once: json.loads and json.dumps would build them anew for each line.
_decode = json.JSONDecoder(object_pairs_hook=_no_twins).decode
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _deeper(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _deeper(item, levels - 1) for item in inner)


def _check_types(fields: dict[str, Any], place: str) -> None:
    for key, types in FIELD_TYPES.items():
        value = fields.get(key)
        wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
        if value is not None and wrong:  # the value itself is not shown: it may be a patient's
            names = " or ".join(kind.__name__ for kind in types)
            hint = "; a text belongs under the key text" if key == "caption" else ""
            raise ManifestError(f"{place}: {key} must be {names}, not {type(value).__name__}{hint}")
    if fields.get("split") not in (None, *SPLITS):
        raise ManifestError(f"{place}: split must be train, val or test")


def _check_file_name(name: str | None, place: str, folder: Path, root: Path | None) -> None:
    if not name:
        raise ManifestError(f"{place}: no file_name; every line needs the path of its image")
    if not name.isprintable() and any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ManifestError(f"{place}: file_name contains a control character: {name!r:.80}")
    if "\\" in name:
        raise ManifestError(f"{place}: file_name {name!r:.80} has a backslash; write / instead")
    if not name.startswith("/") and ".." not in name.split("/"):
        if root is None and _leads_out(str(folder), name):
            raise ManifestError(
                f"{place}: file_name {name!r} is a link that leads out of {folder}; if you trust "
                f"the links there, use --root {folder}"
            )
        return
    if root is None:
        raise ManifestError(
            f"{place}: file_name {name!r} is outside the manifest's folder; give the folder that "
            "contains all images with --root"
        )
    # Resolved, not only spelled out: `link/..` is not where it seems to be.
    if not (folder / name).resolve().is_relative_to(root.resolve()):
        raise ManifestError(f"{place}: file_name {name!r} is outside --root {root}")


def forget_paths() -> None:
    """Forget where links led; for the beginning of a reading."""
    _real_path.cache_clear()


@lru_cache(maxsize=1024)  # of folders; cleared when a reading begins
def _real_path(folder: str) -> str:
    return os.path.realpath(folder)


def _leads_out(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    real = os.path.realpath(path) if os.path.islink(path) else _real_path(os.path.dirname(path))
    return not f"{real}/".startswith(f"{_real_path(folder).rstrip('/')}/")


class ManifestWriter:
    """Appends whole lines to a manifest, each handed to the system before the next is begun."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending; a last line that a crash has truncated is removed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        repair_manifest(path)
        self._file = path.open("ab", buffering=0)

    def append(self, fields: dict[str, Any]) -> tuple[int, int]:
        """Write one record as one line; a full disk leaves no partial line behind.

        Returns:
            Where the line begins, and its length, in bytes.

        Raises:
            OSError: The disk is full or lost.
        """
        line = rest = encode_line(fields)
        end = self._file.seek(0, os.SEEK_END)
        with named_errors(Path(self._file.name)):
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(end)
                raise
        return end, len(line)

    def close(self) -> None:
        """Bring what was written to the disk and close the file."""
        with named_errors(Path(self._file.name)):
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def repair_manifest(path: Path) -> None:
    """Repair a last line without its line end: end it if it is whole, else remove it.

    Raises:
        ManifestError: The last line is not the beginning of a record, so the file is not ours.
    """
    if not path.is_file():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        whole = _last_line_end(file, end)
        if whole == end:
            return
        file.seek(whole)
        line = file.read(LONGEST_LINE).removeprefix(b"\xef\xbb\xbf")
        try:
            json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            ours = line.startswith(b"{") and end - whole <= LONGEST_LINE
            if not ours and line.strip(b"\0"):  # NUL bytes: a power cut, on some disks
                raise ManifestError(f"{path}: its last line is not a record; fix it") from error
            log.warning("%s: its last line was truncated by a crash and is removed", path)
            file.truncate(whole)
        else:  # editors leave out the last line end; the line is someone's work
            file.seek(end)
            file.write(b"\n")


def _last_line_end(file: BinaryIO, end: int) -> int:
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def write_manifest(path: Path, rows: Iterable[dict[str, Any]], *, shared: bool = False) -> None:
    """Write a whole manifest beside its place and move it there; a failure leaves nothing behind.

    Args:
        path: The manifest.
        rows: Its records.
        shared: Several processes may write it at once; else what killed ones left of it goes.

    Raises:
        OSError: The disk is full or lost.
    """
    if not shared:
        remove_drafts(path)
    with draft_of(path, shared=shared) as draft, draft.open("wb") as file:
        file.writelines(encode_line(fields) for fields in rows)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
