"""The one image loader of all stages, and the way back to PNG.

Files are decoded by content, not by their ending. A wrong picture is worse than a refused one: what
cannot be turned into sRGB for certain is refused with its reason.
"""

import io
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from medart_cli.data.dicom import read_dicom
from medart_cli.data.files import draft_of
from medart_cli.data.folders import FORMATS
from medart_cli.errors import ImageError

Crop = Literal["center", "pad", "random"]
TWELVE_BITS, SIXTEEN_BITS = 4095.0, 65535.0  # cameras often store 12 bits in 16-bit files
SRGB_GAMMA = 0.45455  # as PNG's gAMA chunk has it
SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue


def load_image(path: Path) -> Image.Image:
    """Read an image file as upright sRGB pixels, without any of its metadata.

    Handles EXIF orientation, embedded color profiles, gray, palette, CMYK (without a profile by the
    plain formula), alpha (laid on white), 16-bit and float (scaled, not clipped) and DICOM
    (modality and VOI transforms).

    Raises:
        ImageError: The file is missing, broken, has several frames, or its colors are unclear.
    """
    if path.exists() and not path.is_file():
        raise ImageError(f"{path}: is no file")
    try:
        with path.open("rb") as file:
            head = file.read(132)
        if not head:
            raise ImageError("is empty")
        if head[128:] == b"DICM":
            return _from_dicom(path)
        with Image.open(path, formats=FORMATS) as image:
            return _to_srgb(_upright(image))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: is not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: too many pixels; scale the image down first") from error
    except ImageCms.PyCMSError as error:
        raise ImageError(f"{path}: its embedded color profile does not fit: {error}") from error
    except Exception as error:  # decoders raise anything on broken bytes
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(f"{path}: cannot be decoded: {reason!s:.200}") from error


def _from_dicom(path: Path) -> Image.Image:
    unit, profile = read_dicom(path)
    image = _from_unit(unit)
    return _bare(_apply_profile(image, profile)) if profile else image


def _upright(image: Image.Image) -> Image.Image:
    """Decode and turn an opened image; refuse those that Pillow would decode wrongly."""
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):  # Pillow only warns
        raise ImageError("too many pixels; scale the image down first")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # the other frames of an MPO are previews
        raise ImageError(f"holds {frames} frames; save the one that is meant as a file of its own")
    stored = str(getattr(image, "tile", ""))  # how the pixels lie in the file; gone once decoded
    deep = ";16" in stored
    if image.format == "TIFF":
        _check_strips(image)
    image.load()
    profile = image.info.get("icc_profile")
    if image.format == "TIFF":
        _check_tiff(image)
    if not profile:
        _check_color_hints(image)
    if deep and "transparency" in image.info:
        raise ImageError("has 16 bits and a transparent color, which is not read")
    if deep and image.mode in ("RGB", "RGBA"):  # Pillow keeps the upper 8 of the 16 bits
        most = max(high for _, high in image.convert("RGB").getextrema())  # type: ignore[misc]
        if 0 < most <= 15:
            raise ImageError("uses at most 12 of its 16 bits; scale its values up first")
    image = ImageOps.exif_transpose(image)
    if profile:
        image.info["icc_profile"] = profile
    return image


def _check_strips(image: Image.Image) -> None:
    """Refuse a TIFF that lacks strips or tiles: Pillow would leave what they cover black."""
    height = image.tag_v2.get(257, 0)  # type: ignore[attr-defined]  # as stored, not yet upright
    stored = image.tile  # type: ignore[attr-defined]
    if max((part[1][3] for part in stored), default=height) < height:
        raise ImageError("is torn: its strips end before the picture does")


def _check_tiff(image: Image.Image) -> None:
    """Refuse the TIFF layouts that Pillow opens but decodes to other values than are stored."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, formats = max(tags.get(258, (1,))), tags.get(339, (1,))
    planes = tags.get(284) == 2 and tags.get(277, 1) > 1
    if bits > 8 and (tags.get(262) == 0 or planes):
        layout = "in separate planes" if planes else "with white as zero"
        raise ImageError(f"is a TIFF of {bits} bits {layout}, which is not read")
    if bits == 8 and 2 in formats:
        raise ImageError("is a TIFF of signed 8-bit values, which is not read")
    if image.mode == "I" and 1 in formats and image.getextrema()[0] < 0:  # type: ignore[operator]
        raise ImageError("is a TIFF of 32-bit values above 2147483647, which is not read")


def _check_color_hints(image: Image.Image) -> None:
    """Refuse files that say, without a profile, that their colors are not sRGB."""
    if "srgb" not in image.info:
        gamma, primaries = image.info.get("gamma"), image.info.get("chromaticity")
        if gamma and abs(gamma - SRGB_GAMMA) > 0.01:
            raise ImageError(f"has a gamma of {gamma:g} and no profile; convert it to sRGB")
        if primaries and not np.allclose(primaries, SRGB_PRIMARIES, atol=0.005):
            raise ImageError("has other primaries than sRGB and no profile; convert it to sRGB")
    if image.getexif().get_ifd(ExifTags.IFD.Interop).get(1) == "R03":  # DCF's name for Adobe RGB
        raise ImageError("says that it is Adobe RGB but has no color profile; convert it to sRGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        if profile:
            raise ImageError("has more than 8 bits and a color profile; convert it to 8-bit sRGB")
        return _scale_deep(np.asarray(image))
    if image.mode in ("P", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("L", "1", "La") else "RGBA")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    if alpha is not None and alpha.getextrema() == (0, 0):
        raise ImageError("is transparent everywhere; save it without an alpha channel")
    if image.mode != "LAB" and image.mode != "CMYK":
        image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    if profile or image.mode == "LAB":
        image = _apply_profile(image, profile)
    image = image.convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    return _bare(image)


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    source = io.BytesIO(profile) if profile is not None else ImageCms.createProfile("LAB")
    opened = ImageCms.ImageCmsProfile(source)
    if image.mode == "L" and opened.profile.xcolor_space.strip() == "RGB":
        image = image.convert("RGB")  # gray in a color space: equal channels
    converted = ImageCms.profileToProfile(
        image,
        opened,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,  # colors as they were measured
        outputMode="RGB",
        # The quick way with gray is off by up to 10 of 255 in the shadows.
        flags=ImageCms.Flags.NOOPTIMIZE if image.mode == "L" else ImageCms.Flags.NONE,
    )
    if converted is None:
        raise ImageError("its color profile could not be applied")
    return converted


def _bare(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.array(image, dtype=np.uint8))  # the pixels alone, no info


def _scale_deep(values: npt.NDArray[Any]) -> Image.Image:
    """Bring gray values of more than 8 bits to 8 bits, by a rule that clips nothing.

    Integers by the whole range of 16 bits, or of 12 bits where no value is above 4095; floats in
    [0, 1] by 255; anything else from its smallest to its largest value.
    """
    integer = np.issubdtype(values.dtype, np.integer)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError("holds values that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    if integer and low >= 0 and high <= SIXTEEN_BITS:
        low, high = 0.0, TWELVE_BITS if high <= TWELVE_BITS else SIXTEEN_BITS
    elif not integer and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return _from_unit((values - low) / ((high - low) or 1.0))


def _from_unit(values: npt.NDArray[Any]) -> Image.Image:
    pixels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def fit_image(
    image: Image.Image, size: int, crop: Crop = "center", place: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """Scale and crop (or pad with black) an image to a square.

    Args:
        image: RGB image.
        size: Side of the square, pixels.
        crop: `center` and `random` scale the short side to `size` and cut; `pad` scales the long
            side and adds black.
        place: Where a `random` crop lies, each in [0, 1]; (0.5, 0.5) is the center.
    """
    if crop == "pad":
        scale = size / max(image.size)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        square = Image.new("RGB", (size, size), "black")
        corner = ((size - inner[0]) // 2, (size - inner[1]) // 2)
        square.paste(image.resize(inner, Image.Resampling.LANCZOS), corner)
        return square
    centering = place if crop == "random" else (0.5, 0.5)
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS, centering=centering)


def image_to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB image into a (3, H, W) float32 tensor in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))  # (H, W, 3)
    return pixels.permute(2, 0, 1) / 127.5 - 1.0


def tensor_to_image(tensor: Tensor) -> Image.Image:
    """Turn a (3, H, W) tensor in [-1, 1] into an RGB image; values outside are clipped.

    Raises:
        ImageError: A value is not a finite number, so there is no picture.
    """
    if not torch.isfinite(tensor).all():
        raise ImageError("the decoded image holds values that are not finite; try --precision fp32")
    unit = (tensor.detach().float().cpu() / 2 + 0.5).clamp(0, 1)
    return Image.fromarray((unit.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def save_png(path: Path, image: Image.Image, facts: dict[str, Any] | None = None) -> None:
    """Write a PNG in one move; `facts` go into its text chunk `medart` as JSON.

    The pixels alone are written, none of what the image carries along. A failure leaves nothing
    behind.

    Raises:
        OSError: The disk is full or lost.
    """
    text = PngImagePlugin.PngInfo()
    if facts is not None:
        text.add_itxt("medart", json.dumps(facts, ensure_ascii=False, allow_nan=False))
    with draft_of(path) as draft:
        _bare(image).save(draft, format="PNG", pnginfo=text)


def tile_images(
    images: list[Image.Image], *, columns: int | None = None, gap: int = 2
) -> Image.Image:
    """Lay images of one size, at least one, on a sheet, row by row."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (width + gap), row * (height + gap)))
    return sheet
