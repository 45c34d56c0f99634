"""DICOM files: stored values to gray or color in [0, 1], by the transforms of the standard.

pydicom decodes the pixels. The lookup tables and windows are applied here, because its own wrap
around where a table has more entries than its values have bits, and ignore an empty window.
A window, a table or BitsStored decides what is black and what is white, never the smallest and
largest value of one image.
"""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from medart_cli.errors import ImageError
from medart_cli.log import log

Values = npt.NDArray[Any]
COLOR_KINDS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # decoded, all are RGB
GRAYS = ("MONOCHROME1", "MONOCHROME2")
SPACINGS = (  # height and width of a pixel, the most trusted first
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
)
_SAID: set[str] = set()  # what this process has logged and does not repeat


def read_dicom(path: Path) -> tuple[Values, bytes | None, float]:
    """Read the one image of a DICOM file, as it is meant to be seen.

    Of several windows the first that shows anything is used. Gray without a window keeps the whole
    range of BitsStored. Where a JPEG inside and PhotometricInterpretation disagree on the color
    space, the JPEG is right.

    Returns:
        (H, W) or (H, W, 3) float64 in [0, 1]; the ICC profile of a color image, if it has one; and
        how many times as high as wide a pixel is.

    Raises:
        ImageError: There is no image, there are several, or it is unclear how it should look.
        Exception: Whatever pydicom raises on a broken file.

    Source:
        DICOM PS3.3 C.7.6.3 (pixels), C.11.1 (modality), C.11.2 (VOI), 10.7 (spacing).
    """
    import pydicom  # half a second, and only needed for DICOM
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ImageError("is deflated and could decompress without limit; save it uncompressed")
    dataset = pydicom.dcmread(path)
    _check(dataset)
    values = _decode(dataset)
    kind, aspect = str(dataset.PhotometricInterpretation), _find_aspect(dataset)
    profile = dataset.get("ICCProfile")
    if kind == "PALETTE COLOR" and values.ndim == 2:
        return _apply_palette(values, dataset), profile, aspect
    if kind in COLOR_KINDS and values.ndim == 3 and values.shape[2] == 3 and values.min() >= 0:
        _check_depth(values, dataset)
        return values / float(2 ** int(dataset.BitsStored) - 1), profile, aspect
    if kind in GRAYS and values.ndim == 2:
        return _apply_gray(values, dataset), None, aspect
    raise ImageError(f"has pixels of kind {kind}, shape {values.shape}, which is not supported")


def _check(dataset: Any) -> None:  # noqa: ANN401 - pydicom has no types
    if "PixelData" not in dataset:
        raise ImageError("is a DICOM file without an image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageError(f"has {frames} frames; save the one to use as a separate file")
    if int(dataset.Rows) * int(dataset.Columns) > (Image.MAX_IMAGE_PIXELS or 2**32):
        raise ImageError("too many pixels; scale the image down first")
    kind, bits = str(dataset.PhotometricInterpretation), int(dataset.BitsStored)
    if int(dataset.get("HighBit") or bits - 1) != bits - 1:
        raise ImageError(f"has {bits} bits but HighBit {dataset.HighBit}, which is not supported")
    if kind.startswith("YBR") and bits != 8:
        raise ImageError(f"is {kind} with {bits} bits; only 8 are supported")
    if kind in COLOR_KINDS and not dataset.get("ICCProfile"):
        space = str(dataset.get("ColorSpace") or "SRGB")
        if space != "SRGB":
            raise ImageError(f"has colors in {space} but no color profile")
    shape = dataset.get("PresentationLUTShape")
    if shape == "INVERSE" and kind == "MONOCHROME2" or "PresentationLUTSequence" in dataset:
        raise ImageError("has a presentation LUT, which is not supported; save it as it is shown")


def _decode(dataset: Any) -> Values:  # noqa: ANN401
    """Decode the pixels; color of any kind becomes RGB."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGBaseline8Bit, JPEGExtended12Bit

    syntax, kind = dataset.file_meta.TransferSyntaxUID, str(dataset.PhotometricInterpretation)
    if syntax in JPEG2000TransferSyntaxes:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        _check_boxes(frame)
        if kind not in COLOR_KINDS:
            return np.asarray(pixel_array(dataset))
        values, space = _decode_jpeg2000(dataset, frame, kind)
    elif kind in COLOR_KINDS and syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        values, space = _decode_jpeg(dataset, kind)
    else:
        return np.asarray(pixel_array(dataset))
    if (space == "RGB") != (kind in ("RGB", "YBR_ICT", "YBR_RCT")):
        text = "%s: is %s by its tags but %s by its pixel data, which is used (logged once)"
        _say_once("color", logging.WARNING, text, dataset.filename, kind, space)
    return values


def _decode_jpeg(dataset: Any, kind: str) -> tuple[Values, str]:  # noqa: ANN401
    """Decode a JPEG by its own color space, which pydicom would take from the tags."""
    from pydicom.encaps import generate_frames

    frames, bits = list(generate_frames(dataset.PixelData, number_of_frames=1)), dataset.BitsStored
    if len(frames) != 1 or bits != 8:
        raise ImageError(f"has {len(frames)} JPEG of {bits} bits; only one of 8 bits is supported")
    try:
        image = Image.open(io.BytesIO(frames[0]), formats=["JPEG"])
    except UnidentifiedImageError as error:
        raise ImageError("contains a JPEG that is corrupt or of more than 8 bits") from error
    parts = image.layer  # type: ignore[attr-defined]  # number, sampling down and across, table
    if image.size != (dataset.Columns, dataset.Rows) or len(parts) != 3:
        raise ImageError(f"contains a JPEG of {image.size}, {len(parts)} colors, unlike its tags")
    numbers, adobe = bytes(part[0] for part in parts), image.info.get("adobe_transform")
    coarse = len({part[1:3] for part in parts}) > 1
    space = _find_jpeg_space(kind, numbers, jfif="jfif" in image.info, adobe=adobe, coarse=coarse)
    if space == "RGB" and adobe is None and numbers != b"RGB":  # libjpeg would convert it
        image.draft("YCbCr", image.size)
    return np.asarray(image), space


def _find_jpeg_space(
    kind: str, numbers: bytes, *, jfif: bool, adobe: int | None, coarse: bool
) -> str:
    """Find the color space of a JPEG by its marks, and the numbers and subsampling of its parts.

    libjpeg takes one without a mark for YCbCr; slide scanners write such ones in RGB.
    """
    letters = numbers in (b"RGB", b"rgb")
    if jfif and (adobe == 0 or letters):
        raise ImageError("contains a JPEG that says both RGB and YCbCr; save it uncompressed")
    if adobe is not None or jfif or letters:
        return "RGB" if adobe == 0 or (letters and adobe is None) else "YBR_FULL"
    counted = numbers == b"\1\2\3"
    if kind == "RGB" and counted != coarse:
        raise ImageError("is RGB by its tags, but perhaps YCbCr by its JPEG; save it uncompressed")
    return "RGB" if kind == "RGB" and not coarse else "YBR_FULL"


def _check_boxes(frame: bytes) -> None:
    """Refuse a JP2 header with a box of no length, at which pydicom would wait for ever."""
    at = 12 if frame[4:6] == b"jP" else len(frame)
    while at < len(frame) and frame[at + 4 : at + 8] != b"jp2c":
        length = int.from_bytes(frame[at : at + 4], "big")
        if length < 8:
            raise ImageError("contains a corrupt JPEG 2000")
        at += length


def _decode_jpeg2000(dataset: Any, frame: bytes, kind: str) -> tuple[Values, str]:  # noqa: ANN401
    """Decode a JPEG 2000, whose decoders undo the color transform that it names.

    Source:
        ISO 15444-1, A.6.1 (COD): the fifth byte after the length tells of the transform.
    """
    from pydicom.pixels import convert_color_space, pixel_array

    at = frame.find(b"\xff\x4f\xff\x51") + 2
    while 1 < at < len(frame) and frame[at : at + 2] != b"\xff\x52":
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    if not 1 < at < len(frame) - 8:
        raise ImageError("contains a corrupt JPEG 2000")
    transformed = frame[at + 8]
    if kind in ("YBR_ICT", "YBR_RCT") and not transformed:
        raise ImageError(f"is {kind} by its tags, but not by its JPEG 2000; save it uncompressed")
    space = "RGB" if transformed or kind == "RGB" else "YBR_FULL"
    # Raw, or pydicom converts by the tag what is converted already.
    values = np.asarray(pixel_array(dataset, raw=True, photometric_interpretation=space))
    if space == "RGB":
        return values, space
    return np.asarray(convert_color_space(values, space, "RGB")), space


def _find_aspect(dataset: Any) -> float:  # noqa: ANN401
    for name in SPACINGS:
        try:
            sides = np.atleast_1d(dataset.get(name) or 0).astype(np.float64)
        except (TypeError, ValueError):  # no numbers: as good as not there
            continue
        if sides.size == 2 and np.isfinite(sides).all() and sides.min() > 0:
            return float(sides[0] / sides[1])
    return 1.0


def _say_once(kind: str, level: int, text: str, *parts: object) -> None:
    if kind not in _SAID:
        _SAID.add(kind)
        log.log(level, text, *parts)


def _check_depth(values: Values, dataset: Any) -> None:  # noqa: ANN401
    """Refuse values that need few of their bits where the tags do not say how many are meant."""
    bits, least, most = int(dataset.BitsStored), int(values.min()), int(values.max())
    if bits <= 8 or bits < int(dataset.BitsAllocated):
        return
    narrow = 0 < most - least < 2**bits / 32  # signed values with an offset: almost one gray
    if narrow or most - (least if dataset.PixelRepresentation else 0) < 2**bits / 4:
        window = "" if values.ndim == 3 else ", or WindowCenter and WindowWidth"
        raise ImageError(
            f"has {bits} bits but only values from {least} to {most}, so fewer bits may be meant; "
            f"set BitsStored to those in use{window}"
        )


def _apply_palette(values: Values, dataset: Any) -> Values:  # noqa: ANN401
    from pydicom.pixels import apply_color_lut

    entries, first, _ = (int(item) for item in dataset.RedPaletteColorLookupTableDescriptor)
    last = first + (entries or 65536) - 1
    table = apply_color_lut(np.arange(first, last + 1), dataset)[:, :3]  # (N, 3)
    # Many devices fill 16-bit tables with 8-bit values; taken at their word all would be black.
    most, full = int(table.max()), 255 if table.max() <= 255 else 65535
    if most < full / 4 and full > 255:
        raise ImageError(f"has a palette of 16 bits with no color above {most}; scale it up")
    return np.asarray(table[values.astype(np.int64).clip(first, last) - first] / float(full))


def _apply_gray(values: Values, dataset: Any) -> Values:  # noqa: ANN401
    """Apply modality and VOI transforms; padding becomes black."""
    padding = _find_padding(values, dataset)
    seen = padding if padding.all() else ~padding
    windowed = dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None
    tables = dataset.get("VOILUTSequence")
    if not (windowed or tables or dataset.get("ModalityLUTSequence")):
        _check_depth(values[seen], dataset)
        if abs(float(dataset.get("RescaleSlope") or 1)) != 1:  # PET has one for each slice
            raise ImageError(
                f"has a rescale slope of {dataset.RescaleSlope}, so its bits have no range in "
                "common with other images; set WindowCenter and WindowWidth"
            )
    values, low, high = _apply_modality(values, dataset)
    if tables:
        unit = _apply_table(values, tables[0])
        if _shows_nothing(unit[seen], values[seen]):
            raise ImageError("has a VOI LUT that maps all values to one gray; correct it")
    elif windowed:
        unit = _apply_windows(values, seen, dataset)
    else:
        if int(dataset.BitsStored) > 8:
            text = "DICOM without a window: BitsStored decides what is black and white"
            _say_once("bits", logging.INFO, text)
        unit = (values - low) / (high - low)
    unit = unit.clip(0, 1)
    unit = 1 - unit if str(dataset.PhotometricInterpretation) == "MONOCHROME1" else unit
    return np.where(padding, 0.0, unit)


def _apply_modality(values: Values, dataset: Any) -> tuple[Values, float, float]:  # noqa: ANN401
    """Bring stored values to those that they stand for; with them, the least and most there are."""
    if dataset.get("ModalityLUTSequence"):
        values, bits = _look_up(values, dataset.ModalityLUTSequence[0])
        return values, 0.0, 2.0**bits - 1
    bits = int(dataset.BitsStored)
    low = -(2.0 ** (bits - 1)) if dataset.PixelRepresentation else 0.0
    high = low + 2.0**bits - 1
    if dataset.get("RescaleSlope") is None and dataset.get("RescaleIntercept") is None:
        return values, low, high
    slope = float(1 if dataset.get("RescaleSlope") is None else dataset.RescaleSlope)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    if not slope:
        raise ImageError("has a rescale slope of 0")
    low, high = sorted((low * slope + intercept, high * slope + intercept))
    return values * slope + intercept, low, high


def _apply_table(values: Values, item: Any) -> Values:  # noqa: ANN401
    values, bits = _look_up(values, item)
    if bits > 8 and 0 < values.max() < 2**bits / 4:
        raise ImageError(
            f"has a lookup table of {bits} bits but no value above {values.max()}; scale it up"
        )
    return np.asarray(values / float(2**bits - 1))


def _apply_windows(values: Values, seen: Values, dataset: Any) -> Values:  # noqa: ANN401
    """Apply the first window that shows anything."""
    values = values.astype(np.float64)
    centers = np.atleast_1d(dataset.WindowCenter).astype(np.float64)
    widths = np.atleast_1d(dataset.WindowWidth).astype(np.float64)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    for index, (center, width) in enumerate(zip(centers, widths, strict=False)):
        unit = _apply_window(values, float(center), float(width), function)
        if not _shows_nothing(unit[seen], values[seen]):
            if index:
                text = "%s: its first window shows nothing; a later one is used (logged once)"
                _say_once("window", logging.WARNING, text, dataset.filename)
            return unit
    low, high = centers[0] - widths[0] / 2, centers[0] + widths[0] / 2
    raise ImageError(
        f"has a window of {low:g} to {high:g} that shows nothing of its values from "
        f"{values[seen].min():g} to {values[seen].max():g}; correct WindowCenter and WindowWidth"
    )


def _shows_nothing(unit: Values, values: Values) -> bool:
    """Tell whether one gray is left of values that vary; one pixel of a thousand does not count."""
    grays = np.bincount(np.rint(unit.clip(0, 1) * 255).astype(np.uint8).ravel())
    if grays.max() < 0.999 * unit.size:
        return False
    low, high = np.percentile(values, (0.1, 99.9))
    return bool(low < high)


def _find_padding(values: Values, dataset: Any) -> npt.NDArray[np.bool_]:  # noqa: ANN401
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, bool)
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    return np.asarray((values >= low) & (values <= high))


def _look_up(values: Values, item: Any) -> tuple[Values, int]:  # noqa: ANN401
    """Send values through a lookup table; those beyond its ends take its first or last entry."""
    entries, first, bits = (int(part) for part in item.LUTDescriptor)
    entries = entries or 65536
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, "u1" if len(data) <= entries + 1 else "<u2")
    table = np.asarray(data, dtype=np.int64)[:entries]
    if len(table) < entries or table.max() >= 2**bits:
        raise ImageError("has a lookup table that does not fit its description")
    if first > 32767 and values.min() < 0:  # a negative number, written as an unsigned one
        first -= 65536
    index = np.rint(values).astype(np.int64) - first
    return table[index.clip(0, entries - 1)], bits


def _apply_window(values: Values, center: float, width: float, function: str) -> Values:
    """Bring the window's ends to 0 and 1 (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise ImageError(f"has a window of width {width:g}")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp((-4 * (values - center) / width).clip(-700, 700))))
    if function == "LINEAR":  # its window reaches from center - width/2 to center + width/2 - 1
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise ImageError(f"has a window with VOILUTFunction {function}, which is not supported")
    if width == 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5
