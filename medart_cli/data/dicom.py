"""DICOM files: stored values to gray or color in [0, 1], by the transforms of the standard.

pydicom decodes the pixels. The lookup tables and windows are applied here, because its own wrap
around where a table has more entries than its values have bits, and pass an empty window over.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medart_cli.errors import ImageError

Values = npt.NDArray[Any]
COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # decoded, all are RGB
GRAYS = ("MONOCHROME1", "MONOCHROME2")


def read_dicom(path: Path) -> tuple[Values, bytes | None]:
    """Read the one image of a DICOM file, as it is meant to be seen.

    Of several windows the first is used. Gray of at most 8 bits without a window keeps its whole
    range; deeper gray without one is shown from its smallest to its largest value.

    Returns:
        (H, W) or (H, W, 3) float64 in [0, 1], and the ICC profile of a color image, if it has one.

    Raises:
        ImageError: There is no image, there are several, or it is unclear how it should look.
        Exception: Whatever pydicom raises on a broken file.

    Source:
        DICOM PS3.3 C.7.6.3 (pixels), C.11.1 (modality), C.11.2 (VOI).
    """
    import pydicom  # half a second, and only needed for DICOM
    from pydicom.filereader import read_file_meta_info
    from pydicom.pixels import pixel_array
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ImageError("is deflated and could unfold without end; save it uncompressed")
    dataset = pydicom.dcmread(path)
    _check(dataset)
    values = pixel_array(dataset)  # YBR comes back as RGB
    kind = str(dataset.PhotometricInterpretation)
    profile = dataset.get("ICCProfile")
    if kind == "PALETTE COLOR" and values.ndim == 2:
        return _apply_palette(values, dataset), profile
    if kind in COLORS and values.ndim == 3 and values.shape[2] == 3 and values.min() >= 0:
        return values / float(2 ** int(dataset.BitsStored) - 1), profile
    if kind in GRAYS and values.ndim == 2:
        return _apply_gray(values, dataset), None
    raise ImageError(f"has pixels of the kind {kind}, shape {values.shape}, which is not read")


def _check(dataset: Any) -> None:  # noqa: ANN401 - pydicom has no types
    if "PixelData" not in dataset:
        raise ImageError("is a DICOM file without an image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageError(f"holds {frames} frames; save the one that is meant as a file of its own")
    if int(dataset.Rows) * int(dataset.Columns) > (Image.MAX_IMAGE_PIXELS or 2**32):
        raise ImageError("too many pixels; scale the image down first")
    kind, bits = str(dataset.PhotometricInterpretation), int(dataset.BitsStored)
    if kind.startswith("YBR") and bits != 8:
        raise ImageError(f"is {kind} with {bits} bits; only 8 are read")
    if kind in COLORS and not dataset.get("ICCProfile"):
        space = str(dataset.get("ColorSpace") or "SRGB")
        if space != "SRGB":
            raise ImageError(f"has colors in {space} but no color profile")
    shape = dataset.get("PresentationLUTShape")
    if shape == "INVERSE" and kind == "MONOCHROME2" or "PresentationLUTSequence" in dataset:
        raise ImageError("has a presentation table that is not read; save it as it is shown")


def _apply_palette(values: Values, dataset: Any) -> Values:  # noqa: ANN401
    from pydicom.pixels import apply_color_lut

    entries, first, _ = (int(item) for item in dataset.RedPaletteColorLookupTableDescriptor)
    values = values.astype(np.int64).clip(first, first + (entries or 65536) - 1)
    colors = apply_color_lut(values, dataset)[..., :3]
    # Many devices fill 16-bit tables with 8-bit values; taken at their word all would be black.
    return np.asarray(colors / (255.0 if colors.max() <= 255 else 65535.0))


def _apply_gray(values: Values, dataset: Any) -> Values:  # noqa: ANN401
    """Apply modality and VOI transforms; padding becomes black."""
    padding = _find_padding(values, dataset)
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    plain = True
    if dataset.get("ModalityLUTSequence"):
        values, bits = _look_up(values, dataset.ModalityLUTSequence[0])
        signed = False
    elif dataset.get("RescaleSlope") is not None or dataset.get("RescaleIntercept") is not None:
        slope = float(1 if dataset.get("RescaleSlope") is None else dataset.RescaleSlope)
        intercept = float(dataset.get("RescaleIntercept") or 0)
        if not slope:
            raise ImageError("has a rescale slope of 0")
        values = values * slope + intercept
        plain = slope == 1 and intercept == 0
    if dataset.get("VOILUTSequence"):
        values, bits = _look_up(values, dataset.VOILUTSequence[0])
        unit = values / float(2**bits - 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        unit = _apply_window(values.astype(np.float64), dataset)
    elif plain and bits <= 8 and not signed:
        unit = values / float(2**bits - 1)
    else:
        shown = values[~padding] if not padding.all() else values
        low, high = float(shown.min()), float(shown.max())
        unit = (values - low) / ((high - low) or 1.0)
    unit = unit.clip(0, 1)
    unit = 1 - unit if str(dataset.PhotometricInterpretation) == "MONOCHROME1" else unit
    return np.where(padding, 0.0, unit)


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


def _apply_window(values: Values, dataset: Any) -> Values:  # noqa: ANN401
    """Bring the window's ends to 0 and 1 (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    center = float(np.atleast_1d(dataset.WindowCenter)[0])
    width = float(np.atleast_1d(dataset.WindowWidth)[0])
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise ImageError(f"has a window of width {width:g}")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp((-4 * (values - center) / width).clip(-700, 700))))
    if function == "LINEAR":  # its window reaches from center - width/2 to center + width/2 - 1
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise ImageError(f"has a window of the kind {function}")
    if width == 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5
