"""The mark of a generated image in its own file, which counts wherever the file is."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medart_cli.data.manifest import HashedRecord, Record
from medart_cli.errors import ManifestError
from medart_cli.log import log

MARK = "medart"  # the text chunk that `sample` writes into each PNG
HEAD = b"\x89PNG"


def has_mark(path: Path) -> bool:
    """Say whether a file is a PNG that medart generated; of a file that cannot be read, not."""
    try:
        with path.open("rb") as file:
            if file.read(len(HEAD)) != HEAD:
                return False
        with Image.open(path, formats=("PNG",)) as image:  # reads up to the pixels, not them
            facts = json.loads(image.info.get(MARK, "{}"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, RecursionError):
        return False  # the loader says what is wrong with it
    return isinstance(facts, dict) and facts.get("synthetic") is True  # a phantom is none


def refuse_synthetic(records: Sequence[Record], name: str, *, allowed: bool = False) -> None:
    """Refuse generated images where real ones are expected; the mark in a file counts as well.

    Raises:
        ManifestError: Names the first such row.
    """
    for record in () if allowed else records:
        if record.synthetic or has_mark(record.path):
            where = "" if record.synthetic else " (its file says so)"
            raise ManifestError(
                f"{record.place}: a synthetic image in {name}{where}, where real ones are "
                "expected; remove it, or use --allow-synthetic"
            )


def warn_of_two_labels(rows: Sequence[HashedRecord]) -> int:
    """Warn of byte-identical files with two labels; return how many there are."""
    first: dict[str, HashedRecord] = {}
    pairs = []
    for row in rows:
        other = first.setdefault(row.sha256, row)
        if other.label != row.label:
            pairs.append((other, row))
    if pairs:
        one, two = pairs[0]
        log.warning(
            "%d files have two labels, such as %s (%s) and %s (%s): the same image; keep one",
            *(len(pairs), one.file_name, one.label, two.file_name, two.label),
        )
    return len(pairs)
