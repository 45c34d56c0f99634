"""Masks: image files that mark a part of an image, named by the key `mask` of a row; 0 is not."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from medart_cli.data.folders import FORMATS
from medart_cli.errors import ImageError

MARKED_JPEG = 128  # of 255, and more: lossy compression leaves small values beside every edge


def find_mask(folder: Path, name: str) -> Path:
    """Return the place of a mask.

    Args:
        folder: What `name` is relative to, and may not leave.
        name: As the row has it.

    Raises:
        ImageError: It leaves the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ImageError(f"mask {name}: is outside {folder}")
    return path


def read_mask(folder: Path, name: str) -> npt.NDArray[np.bool_]:
    """Read which pixels of an image a mask marks, upright as the image is.

    Args:
        folder: As for `find_mask`.
        name: The file: 0 is background, whatever else is not; a color is 0 where all of it is. Of
            a palette the index counts, of a JPEG what is nearer to white.

    Returns:
        (H, W).

    Raises:
        ImageError: There is no such file, it leaves the folder, or it is no image of one frame.
    """
    path = find_mask(folder, name)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise ImageError(f"mask {name}: has several frames; save the one to use")
            lossy = image.format == "JPEG"
            upright = ImageOps.exif_transpose(image)
            values, mode = np.asarray(upright), upright.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(f"mask {name}: cannot be read: {reason}") from error
    marked = np.atleast_3d(values >= MARKED_JPEG if lossy else values > 0)  # (H, W, channels)
    return np.asarray(marked[..., : 1 if mode == "LA" else 3].any(axis=-1))  # without alpha
