"""Manifests: JSON Lines, one object an image, the `imagefolder` layout of Hugging Face datasets.

Reading streams, so a manifest of a million lines costs little memory. Writing appends whole lines,
so a crash costs at most the line in work.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self

from PIL import Image

from medart_cli.errors import ConfigError, ManifestError
from medart_cli.log import log

MANIFEST_NAME = "metadata.jsonl"
LONGEST_LINE = 1 << 20  # bytes; a longer line is no record but a mistake
TYPES: dict[str, tuple[type, ...]] = {
    "file_name": (str,),
    "text": (str,),
    "label": (str,),
    "group_id": (str, int),
    "split": (str,),
    "sha256": (str,),
    "caption": (dict,),
    "synthetic": (bool,),
}
SPLITS = ("train", "val", "test")
DICOM_ENDINGS = {".dcm", ".dicom", ".ima"}


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
        """Path of the image file."""
        return self.folder / self.file_name

    @property
    def text(self) -> str | None:
        """The caption; None where the row has none."""
        return self.fields.get("text")

    @property
    def label(self) -> str | None:
        """The class name; None where the row has none."""
        return self.fields.get("label")

    @property
    def split(self) -> str | None:
        """`train`, `val` or `test`; None where the row says nothing."""
        return self.fields.get("split")

    @property
    def synthetic(self) -> bool:
        """Whether the image was generated."""
        return bool(self.fields.get("synthetic", False))

    def with_fields(self, **new: Any) -> "Record":  # noqa: ANN401 - any JSON value
        """Return a copy with fields added or replaced; all others are kept."""
        return Record({**self.fields, **new}, self.folder, self.place)


def read_data(source: str | Path, *, root: Path | None = None) -> Iterator[Record]:
    """Read the records of any DATA argument, in order.

    Args:
        source: An image folder (its metadata.jsonl is read where there is one, else its images are
            listed and their first folder is the label), a manifest file, or `-`, standard input.
        root: Folder that file names are relative to. File names may then be absolute or hold `..`,
            as long as they stay inside it.

    Raises:
        ConfigError: There is no such folder or file, or it holds no image.
        ManifestError: A line is malformed; the message names file and line.
    """
    if str(source) == "-":
        yield from _read_lines(sys.stdin.buffer, "standard input", root or Path.cwd(), root)
        return
    path = Path(source)
    if path.is_dir():
        manifest = path / MANIFEST_NAME
        if manifest.is_file():
            yield from read_manifest(manifest, root=root)
        else:
            yield from _list_images(path)
    elif path.is_file():
        yield from read_manifest(path, root=root)
    else:
        raise ConfigError(f"{source}: no such folder or manifest")


def read_manifest(path: Path, *, root: Path | None = None) -> Iterator[Record]:
    """Read a manifest file, line by line.

    Raises:
        ManifestError: A line is malformed; the message names file and line.
    """
    with path.open("rb") as file:
        yield from _read_lines(file, str(path), root or path.parent, root)


def _read_lines(file: BinaryIO, name: str, folder: Path, root: Path | None) -> Iterator[Record]:
    number = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        place = f"{name}:{number}"
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as some editors write it
        if len(raw) > LONGEST_LINE:
            raise ManifestError(f"{place}: line longer than 1 MiB; is this a JSON Lines file?")
        if raw.strip():
            yield parse_line(raw, place, folder, root)
    if number == 0:
        raise ManifestError(f"{name}: is empty; it needs one JSON object a line")


def parse_line(raw: bytes, place: str, folder: Path, root: Path | None = None) -> Record:
    """Read and check one manifest line.

    Raises:
        ManifestError: It is not a JSON object, a known key has the wrong type, or `file_name` is
            missing or leaves the folder.
    """
    try:
        fields = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_twins)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{place}: is not UTF-8 text; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{place}: is not a JSON object: {error}") from error
    if not isinstance(fields, dict):
        raise ManifestError(f"{place}: is a JSON {type(fields).__name__}, not an object")
    for key, types in TYPES.items():
        value = fields.get(key)
        wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
        if value is not None and wrong:
            names = " or ".join(kind.__name__ for kind in types)
            raise ManifestError(f"{place}: {key} must be {names}, got {value!r:.80}")
    if fields.get("split") not in (None, *SPLITS):
        raise ManifestError(f"{place}: split must be train, val or test, got {fields['split']!r}")
    _check_file_name(fields.get("file_name"), place, folder, root)
    return Record(fields, folder, place)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in names if names.count(key) > 1)!r} stands twice")
    return found


def _check_file_name(name: str | None, place: str, folder: Path, root: Path | None) -> None:
    if not name:
        raise ManifestError(f"{place}: no file_name; every line needs the path of its image")
    if any(ord(letter) < 32 for letter in name):
        raise ManifestError(f"{place}: file_name holds a control character: {name!r:.80}")
    path = PurePosixPath(name)
    if not path.is_absolute() and ".." not in path.parts:
        return
    if root is None:
        raise ManifestError(
            f"{place}: file_name {name!r} leaves the manifest's folder; name the folder that holds "
            "all images with --root"
        )
    if not Path(os.path.normpath(folder / name)).is_relative_to(os.path.normpath(root)):
        raise ManifestError(f"{place}: file_name {name!r} leaves --root {root}")


def _list_images(folder: Path) -> Iterator[Record]:
    count = 0
    for path in sorted(_visible_files(folder), key=lambda item: item.as_posix()):
        if not _looks_like_image(path):
            continue
        count += 1
        name = path.relative_to(folder)
        fields = {"file_name": name.as_posix()}
        if len(name.parts) > 1:
            fields["label"] = name.parts[0]
        yield Record(fields, folder, str(path))
    if count == 0:
        raise ConfigError(f"{folder}: holds neither {MANIFEST_NAME} nor an image")


def _visible_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _looks_like_image(path: Path) -> bool:
    ending = path.suffix.lower()
    Image.init()
    if ending in Image.EXTENSION or ending in DICOM_ENDINGS:
        return True
    try:  # clinics' files often have no ending: go by the first bytes
        with path.open("rb") as file:
            head = file.read(132)
            if head[128:] == b"DICM":
                return True
        with Image.open(path):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


class ManifestWriter:
    """Appends whole lines to a manifest, each handed to the system before the next is begun."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending; a torn last line, as a crash leaves it, is cut off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        repair_manifest(path)
        self._file = path.open("ab", buffering=0)

    def append(self, fields: dict[str, Any]) -> None:
        """Write one record as one line."""
        line = json.dumps(fields, ensure_ascii=False).encode("utf-8") + b"\n"
        written = self._file.write(line)
        if written != len(line):  # a full disk took a part: leave no torn line behind
            self._file.truncate(self._file.tell() - (written or 0))
            raise OSError(28, "No space left on device", self._file.name)

    def close(self) -> None:
        """Bring what was written to the disk and close the file."""
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def repair_manifest(path: Path) -> None:
    """Cut off a last line without its line end, which only an interrupted write leaves."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        end = whole = file.seek(0, os.SEEK_END)
        while whole > 0:
            start = max(0, whole - 65536)
            file.seek(start)
            block = file.read(whole - start)
            found = block.rfind(b"\n")
            if found >= 0:
                whole = start + found + 1
                break
            whole = start
        if whole < end:
            log.warning("%s: its last line was torn by a crash and is cut off", path)
            file.truncate(whole)


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a whole manifest beside its place and move it there."""
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as file:
        for fields in rows:
            file.write(json.dumps(fields, ensure_ascii=False).encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
