"""Image folders without a manifest: which files are images, and what their folders say of them."""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medart_cli.errors import ConfigError
from medart_cli.log import log

# The formats that are read, all with a signature of their own: Pillow knows many more, but starts
# other programs for some (EPS) and guesses at others.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ENDINGS = frozenset(
    ".apng .avif .avifs .bmp .dcm .dib .dicom .gif .ima .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf "
    ".jpg .jpx .mpo .pbm .pfm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def find_images(folder: Path) -> Iterator[dict[str, str]]:
    """Find the images of a folder in order, hidden files left out, as fields of records.

    The first folder below it is the label; a folder train, val or test above that is the split.
    Files with an ending that is not known, or with none, are judged by their content.

    Raises:
        ConfigError: A folder may not be read.
    """
    for path in _visible_files(folder):
        if not _looks_like_image(path):
            continue
        name = path.relative_to(folder)
        fields = {"file_name": name.as_posix()}
        parents = list(name.parts[:-1])
        if parents and parents[0] in SPLIT_FOLDERS:
            fields["split"] = SPLIT_FOLDERS[parents.pop(0)]
        if parents:
            fields["label"] = parents[0]
        yield fields


def _visible_files(folder: Path) -> Iterator[Path]:
    """List files in order; links to folders are followed, each folder is entered once."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a loop of links
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise ConfigError(f"{error.filename}: {error.strerror}") from error


def _looks_like_image(path: Path) -> bool:
    if path.exists() and not path.is_file():  # a pipe or a socket would be waited for
        return False
    if path.suffix.lower() in ENDINGS:
        return True
    try:  # clinics' files often have no ending: go by the first bytes
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                return True
        with Image.open(path, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:
        return True  # an image all the same: the loader says what is wrong with it
    except (OSError, SyntaxError, ValueError) as error:
        log.warning("%s: is left out: %s", path, error)
        return False
