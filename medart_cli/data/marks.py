"""The mark of a generated image in its own file, which counts wherever the file is."""

import json
from pathlib import Path

from PIL import Image, UnidentifiedImageError

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
