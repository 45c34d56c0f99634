"""The one image loader of all stages, and the way back to PNG.

Files are decoded by content, not by their ending. A wrong picture is worse than a refused one: what
cannot be turned into sRGB for certain is refused with its reason.

No image's own largest value decides which value is white, for two images of one set would come out
at different brightness. The file's tags decide, or all the bits that it has where most are in use.
"""

import io
import json
import math
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from medart_cli.data.dicom import read_dicom
from medart_cli.data.files import draft_of
from medart_cli.data.folders import FORMATS
from medart_cli.errors import ImageError
from medart_cli.log import log

Crop = Literal["center", "pad", "random"]
WHOLE = (0.0, 65535.0)  # black and white where all of 16 bits are in use
MASK_MOST = 7  # no value above it: a mask or a map of labels; as a picture it is black
STRIP = 10  # times as long as wide: a square cut out of it, or padded to it, shows nothing
ONE_RANGE = "convert the whole set to 8 bits with one range"
NAME_RANGE = {  # where a gray file can say how large its values may be
    "PNG": ", or name the bits in use in its sBIT chunk",
    "PPM": ", or write the true maxval",
    "TIFF": ", or name the range in its tags SMinSampleValue and SMaxSampleValue",
}
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
SRGB_GAMMA = 0.45455  # as PNG's gAMA chunk has it
SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue


class _Depth(NamedTuple):
    """What a file says of the values that it holds."""

    bits: int = 8  # of a stored value
    limits: tuple[float, float] | None = None  # what is black and white, where its tags name that
    tag: str = ""  # the one that does
    signed: bool = False


def load_image(path: Path) -> Image.Image:
    """Read an image file as upright sRGB pixels, without any of its metadata.

    Handles EXIF orientation, embedded color profiles, gray, palette, CMYK (without a profile by the
    plain formula), alpha (laid on white), 16-bit and float (scaled, not clipped) and DICOM
    (modality and VOI transforms, pixels that are not square). What is black and what is white in
    more than 8 bits is decided by the file's tags, never by its own largest value.

    Raises:
        ImageError: The file is missing, broken, has several frames, its colors or the range of its
            values are unclear, or it is a mask or a strip.

    Source:
        PNG sBIT: ISO 15948, 11.3.3.4; SMinSampleValue and SMaxSampleValue: TIFF 6.0, section 19.
    """
    if path.exists() and not path.is_file():
        raise ImageError(f"{path}: is not a file")
    try:
        with path.open("rb") as file:
            head = file.read(132)
        if not head:
            raise ImageError("is empty")
        if head[128:] == b"DICM":
            return _checked(_from_dicom(path))
        with Image.open(path, formats=FORMATS) as image:
            depth = _find_depth(image, path)
            advice = ONE_RANGE + NAME_RANGE.get(image.format or "", "")
            return _checked(_to_srgb(_upright(image, depth), depth, advice))
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
        line = " ".join(str(reason).split())
        raise ImageError(f"{path}: cannot be decoded: {line:.200}") from error


def read_size(path: Path) -> tuple[int, int]:
    """Return width and height that `load_image` would give; only DICOM is decoded for them.

    Raises:
        ImageError: As `load_image`, of a file that cannot be opened.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            # For a PNG, Pillow decodes all pixels to look for what may stand behind them.
            plain = image.format == "PNG" and not any(
                name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt") for name, _ in _list_chunks(path)
            )
            turned = not plain and image.getexif().get(ExifTags.Base.Orientation) in TURNED
            size = image.size
            if image.format == "TIFF":  # Pillow may have turned its size already
                tags = image.tag_v2  # type: ignore[attr-defined]
                size = (tags[256], tags[257])
            return size[::-1] if turned else size
    except Exception:  # noqa: BLE001 - DICOM, or broken; what is wrong is said there
        return load_image(path).size


def _from_dicom(path: Path) -> Image.Image:
    unit, profile, aspect = read_dicom(path)
    image = _from_unit(unit)
    image = _bare(_apply_profile(image, profile)) if profile else image
    if abs(aspect - 1) < 0.01:  # nobody sees it
        return image
    width, height = image.size
    size = (width, round(height * aspect)) if aspect > 1 else (round(width / aspect), height)
    _check_shape(size)
    return image.resize(size, Image.Resampling.BICUBIC)


def _checked(image: Image.Image) -> Image.Image:
    """Refuse what is a picture to no one."""
    _check_shape(image.size)
    low, high = np.min(image.getextrema()), np.max(image.getextrema())
    if 0 < high <= MASK_MOST or low == 254 < high:
        raise ImageError(
            f"has only the values {low} to {high} of 255, like a mask; leave it out, or scale "
            "its values up"
        )
    return image


def _check_shape(size: tuple[int, int]) -> None:
    if max(size) > STRIP * min(size):
        raise ImageError(
            f"is a strip of {size[0]} x {size[1]} pixels, of which no square shows enough; "
            "leave it out, or crop it"
        )
    if size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ImageError("too many pixels; scale the image down first")


def _find_depth(image: Image.Image, path: Path) -> _Depth:
    """Learn from a file that is opened but not yet decoded how its values are to be taken."""
    if image.format == "TIFF":
        return _find_tiff_depth(image.tag_v2)  # type: ignore[attr-defined]
    if image.format == "PNG" and ";16" in str(image.tile):  # type: ignore[attr-defined]
        bits = _read_significant_bits(path)
        return _Depth(16, (0.0, 2.0**bits - 1), "sBIT") if bits else _Depth(16)
    if image.format == "PPM":
        codec, _, _, how = image.tile[0]  # type: ignore[attr-defined]
        most = how[1] if codec != "raw" and not isinstance(how, str) else 0
        if 255 < most < WHOLE[1]:  # Pillow scales these up to 16 bits
            return _Depth(16, WHOLE, "maxval")
        return _Depth(16 if most == WHOLE[1] or how == "I;16B" else 8)
    if image.format == "JPEG2000":
        data = path.read_bytes()
        start = data.index(b"\xff\x4f\xff\x51")  # SOC and SIZ: ISO 15444-1, A.5.1
        bits = (data[start + 42] & 127) + 1
        return _Depth(16, WHOLE, "precision") if 8 < bits < 16 else _Depth(min(bits, 16))
    return _Depth()


def _find_tiff_depth(tags: Any) -> _Depth:  # noqa: ANN401 - a mapping of Pillow's own
    bits, kinds = max(tags.get(258, (1,))), set(tags.get(339, (1,)))
    if bits > 8 and 341 in tags and (340 in tags or kinds == {1}):
        low, high = float(np.min(tags.get(340, 0))), float(np.max(tags[341]))
        if not -math.inf < low < high < math.inf:
            raise ImageError(f"has {low:g} to {high:g} as the range of its values; correct that")
        return _Depth(bits, (low, high), "SMaxSampleValue")
    if kinds == {1} and 8 < bits < 16:
        return _Depth(bits, (0.0, 2.0**bits - 1), "BitsPerSample")
    return _Depth(bits, signed=2 in kinds)


def _read_significant_bits(path: Path) -> int | None:
    """Read the sBIT chunk of a PNG, which Pillow passes over: the bits in use, without alpha's."""
    for name, content in _list_chunks(path):
        if name == b"IDAT":
            return None
        if name == b"sBIT":
            bits = max(content[:3] if len(content) > 2 else content[:1])
            return bits if 0 < bits <= 16 else None
    return None


def _list_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and first bytes of each chunk of a PNG, up to its end."""
    with path.open("rb") as file:
        file.seek(8)
        while True:
            length, name = struct.unpack(">I4s", file.read(8))
            yield name, file.read(min(length, 4))
            if name == b"IEND":
                return
            file.seek(length + 4 - min(length, 4), 1)  # with its checksum


def _upright(image: Image.Image, depth: _Depth) -> Image.Image:
    """Decode and turn an opened image; refuse those that Pillow would decode wrongly."""
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):  # Pillow only warns
        raise ImageError("too many pixels; scale the image down first")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # the other frames of an MPO are previews
        raise ImageError(f"has {frames} frames; save the one to use as a separate file")
    if image.format == "TIFF":
        _check_strips(image)
    image.load()
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        raise ImageError("is a CMYK JPEG that does not say whether it is inverted; save it in RGB")
    profile = image.info.get("icc_profile")
    if image.format == "TIFF":
        _check_tiff(image)
    if not profile:
        _check_color_hints(image)
    if depth.bits > 8 and "transparency" in image.info:
        raise ImageError(f"has {depth.bits} bits and a transparent color, which is not supported")
    if depth.bits > 8 and not _is_deep(image):
        _check_deep_color(image, depth)
    image = ImageOps.exif_transpose(image)
    if profile:
        image.info["icc_profile"] = profile
    return image


def _check_strips(image: Image.Image) -> None:
    """Refuse a TIFF that lacks strips or tiles: Pillow would leave what they cover black."""
    height = image.tag_v2.get(257, 0)  # type: ignore[attr-defined]  # as stored, not yet upright
    stored = image.tile  # type: ignore[attr-defined]
    if max((part[1][3] for part in stored), default=height) < height:
        raise ImageError("is truncated: its strips end before the image does")


def _check_tiff(image: Image.Image) -> None:
    """Refuse the TIFF layouts that Pillow opens but decodes to other values than are stored."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, formats = max(tags.get(258, (1,))), tags.get(339, (1,))
    planes = tags.get(284) == 2 and tags.get(277, 1) > 1
    if bits > 8 and (tags.get(262) == 0 or planes):
        layout = "in separate planes" if planes else "with white as zero"
        raise ImageError(f"is a TIFF of {bits} bits {layout}, which is not supported")
    if bits == 8 and 2 in formats:
        raise ImageError("is a TIFF of signed 8-bit values, which is not supported")
    if image.mode == "I" and 1 in formats and image.getextrema()[0] < 0:  # type: ignore[operator]
        raise ImageError("is a TIFF with 32-bit values above 2147483647; scale them down")


def _check_color_hints(image: Image.Image) -> None:
    """Refuse files that say, without a profile, that their colors are not sRGB."""
    if "srgb" not in image.info:
        gamma, primaries = image.info.get("gamma"), image.info.get("chromaticity")
        if gamma and abs(gamma - SRGB_GAMMA) > 0.01:
            raise ImageError(f"has a gamma of {gamma:g} and no profile; convert it to sRGB")
        if primaries and not np.allclose(primaries, SRGB_PRIMARIES, atol=0.005):
            raise ImageError("has other primaries than sRGB and no profile; convert it to sRGB")
    exif = image.getexif()
    inside = ExifTags.IFD.Interop in exif.get_ifd(ExifTags.IFD.Exif)  # Pillow 12 asks for that
    if inside and exif.get_ifd(ExifTags.IFD.Interop).get(1) == "R03":  # DCF's name for Adobe RGB
        raise ImageError("says that it is Adobe RGB but has no color profile; convert it to sRGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _check_deep_color(image: Image.Image, depth: _Depth) -> None:
    """Refuse color of 16 bits that does not fill them, for Pillow keeps the upper 8 alone."""
    bands = [image.getchannel(name) for name in image.getbands() if name.upper() != "A"]
    upper = max(int(np.max(band.getextrema())) for band in bands)
    if depth.limits not in (None, WHOLE) and depth.tag != "sBIT":
        raise ImageError(
            f"has 16 bits per color and a {depth.tag} other than 65535, which is not supported; "
            f"{ONE_RANGE}"
        )
    if depth.limits != WHOLE and upper <= 64:  # of 255; a PPM with 14 bits is rounded up to 64
        raise ImageError(
            f"has 16 bits per color but no value above {upper * 256 + 255}, so fewer bits may be "
            f"meant; {ONE_RANGE}"
        )
    _say_range(*WHOLE, depth.tag or "all their 16 bits")


def _to_srgb(image: Image.Image, depth: _Depth, advice: str) -> Image.Image:
    profile = image.info.get("icc_profile")
    if _is_deep(image):
        if profile:
            raise ImageError("has more than 8 bits and a color profile; convert it to 8-bit sRGB")
        return _scale_deep(np.asarray(image), depth, advice)
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


def _scale_deep(values: npt.NDArray[Any], depth: _Depth, advice: str) -> Image.Image:
    """Bring gray values of more than 8 bits to 8 bits, by a range that is surely the file's."""
    exact = np.issubdtype(values.dtype, np.integer)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError("has values that are not finite numbers")
    least, most = float(values.min()), float(values.max())
    if depth.limits:
        low, high, tag = _fit_limits(values, depth)
    elif not exact and 0 <= least and most <= 1:
        low, high, tag = 0.0, 1.0, "floats in [0, 1]"
    elif not exact or depth.signed:
        raise ImageError(
            f"has values from {least:g} to {most:g}, and no tag says which are black and white; "
            f"{advice}"
        )
    else:
        low, high, tag = 0.0, 2.0**depth.bits - 1, f"all their {depth.bits} bits"
        if 0 < most < high / 4:
            raise ImageError(
                f"has {depth.bits} bits but no value above {most:g}, so fewer bits may be meant; "
                f"{advice}"
            )
        if 0 < most - least < high / 32:  # signed values with an offset, as CT has them
            raise ImageError(
                f"has {depth.bits} bits but only values from {least:g} to {most:g}, which would be "
                f"almost one gray; {advice}"
            )
    _say_range(low, high, tag)
    return _from_unit((values - low) / (high - low))


def _fit_limits(values: npt.NDArray[Any], depth: _Depth) -> tuple[float, float, str]:
    """Take the range that tags name, if the values agree."""
    low, high = depth.limits or WHOLE
    least, most = float(values.min()), float(values.max())
    if depth.tag == "sBIT":
        # By the standard all 16 bits are filled, by shifting or scaling up; not all writers do.
        shift = 65536 / (high + 1)
        top = values // shift
        filled = (values == top * shift) | (values == np.rint(top * WHOLE[1] / high))
        low, high = WHOLE if most > high or filled.all() else (low, high)
    elif least < low or most > high:
        raise ImageError(
            f"has values from {least:g} to {most:g}, beyond those of {low:g} to {high:g} that "
            f"its {depth.tag} allows; correct that"
        )
    elif depth.tag == "SMaxSampleValue" and most == high and not math.log2(high + 1).is_integer():
        raise ImageError(
            f"has a SMaxSampleValue of {high:g}, just its own largest value, which says nothing of "
            f"the other images; {ONE_RANGE}, or name there what the camera can reach"
        )
    return low, high, depth.tag


@cache  # once in a process
def _say_range(low: float, high: float, tag: str) -> None:
    log.info("values of more than 8 bits: %g is black and %g white, by %s", low, high, tag)


def _from_unit(values: npt.NDArray[Any]) -> Image.Image:
    pixels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def fit_image(
    image: Image.Image,
    size: int | tuple[int, int],
    crop: Crop = "center",
    place: tuple[float, float] = (0.5, 0.5),
) -> Image.Image:
    """Scale and crop (or pad with black) an image to a square or another shape.

    Args:
        image: RGB image.
        size: Side of the square, or height and width; pixels.
        crop: `center` and `random` scale the image to cover the shape and cut what is beyond; `pad`
            scales it to fit into it and adds black.
        place: Where a `random` crop lies, each in [0, 1]; (0.5, 0.5) is the center.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if crop == "pad":
        scale = min(width / image.width, height / image.height)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        padded = Image.new("RGB", (width, height), "black")
        corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        padded.paste(image.resize(inner, Image.Resampling.LANCZOS), corner)
        return padded
    centering = place if crop == "random" else (0.5, 0.5)
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS, centering=centering)


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
    """Lay images, at least one, on a sheet, row by row; each in the middle of its cell."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    width, height = (max(sides) for sides in zip(*(image.size for image in images), strict=True))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, top = (width - image.width) // 2, (height - image.height) // 2
        sheet.paste(image, (column * (width + gap) + left, row * (height + gap) + top))
    return sheet


def split_sheet(sheet: Image.Image, count: int, gap: int = 2) -> list[Image.Image]:
    """Cut a sheet of `tile_images`, in as many columns as it chooses, into its cells again."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    width = (sheet.width + gap) // columns - gap
    height = (sheet.height + gap) // rows - gap
    corners = [divmod(index, columns) for index in range(count)]
    return [
        sheet.crop((left, top, left + width, top + height))
        for row, column in corners
        for left, top in [(column * (width + gap), row * (height + gap))]
    ]
