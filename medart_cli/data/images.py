"""The one image loader of all stages, and the way back to PNG.

Files are decoded by content, not by their ending. A wrong picture is worse than a refused one: what
cannot be turned into sRGB for certain is refused with its reason.
"""

import io
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from medart_cli.errors import ImageError

Crop = Literal["center", "pad", "random"]
TWELVE_BITS = 4095  # cameras often store 12 bits in 16-bit files
WHOLE_RANGE = {"uint8": 255.0, "uint16": 65535.0}


def load_image(path: Path) -> Image.Image:
    """Read an image file as upright sRGB pixels, without any of its metadata.

    Handles EXIF orientation, embedded color profiles, gray, palette, CMYK, alpha (laid on white),
    16-bit and float (scaled, not clipped) and DICOM (modality and VOI transforms).

    Raises:
        ImageError: The file is missing, broken, has several frames, or its colors are unclear.
    """
    try:
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                return _load_dicom(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _to_srgb(_upright(image))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: is not an image of a known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path}: too many pixels; scale the image down first") from error
    except ImageCms.PyCMSError as error:
        raise ImageError(f"{path}: its embedded color profile does not fit: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(f"{path}: cannot be decoded: {reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # the other frames of an MPO are previews
        raise ImageError(f"holds {frames} frames; save the one that is meant as a file of its own")
    image.load()
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if profile:
        image.info["icc_profile"] = profile
    return image


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        if profile:
            raise ImageError("has more than 8 bits and a color profile; convert it to 8-bit sRGB")
        return _scale_deep(np.asarray(image))
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA" if image.mode != "L" else "LA")
    alpha = image.getchannel("A") if "A" in image.getbands() and image.mode != "LAB" else None
    if image.mode in ("RGBA", "RGBa", "LA", "La"):
        image = image.convert("RGB" if image.mode.startswith("RGB") else "L")
    elif image.mode == "1":
        image = image.convert("L")
    if profile or image.mode == "LAB":
        image = _apply_profile(image, profile)
    image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    return _bare(image)


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    source = io.BytesIO(profile) if profile is not None else ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(
        image, ImageCms.ImageCmsProfile(source), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    if converted is None:
        raise ImageError("its color profile could not be applied")
    return converted


def _bare(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.array(image, dtype=np.uint8))  # the pixels alone, no info


def _scale_deep(values: npt.NDArray[Any]) -> Image.Image:
    """Bring gray values of more than 8 bits to 8 bits, by a rule that clips nothing.

    16-bit integers by their whole range, or by 12 bits where no value is above 4095; floats in
    [0, 1] by 255; anything else from its smallest to its largest value.
    """
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError("holds values that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    whole = bool((values == np.rint(values)).all())
    if whole and low >= 0 and high > 1 and high <= WHOLE_RANGE["uint16"]:
        low, high = 0.0, TWELVE_BITS if high <= TWELVE_BITS else WHOLE_RANGE["uint16"]
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return _from_unit((values - low) / ((high - low) or 1.0))


def _from_unit(values: npt.NDArray[Any]) -> Image.Image:
    pixels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def _load_dicom(path: Path) -> Image.Image:
    import pydicom  # half a second, and only needed for DICOM
    from pydicom.pixels import apply_color_lut, pixel_array

    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise ImageError("is a DICOM file without an image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageError(f"holds {frames} frames; save the one that is meant as a file of its own")
    try:
        values = pixel_array(dataset)  # YBR comes back as RGB
        kind = str(dataset.PhotometricInterpretation)
        if kind == "PALETTE COLOR":
            values = apply_color_lut(values, dataset)
            unit = values / (255.0 if values.dtype == np.uint8 else 65535.0)
        elif values.ndim == 3:
            unit = values / float(2 ** int(dataset.BitsStored) - 1)
        else:
            unit = _apply_window(values, dataset)
            unit = 1 - unit if kind == "MONOCHROME1" else unit
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, KeyError) as error:
        raise ImageError(f"is a DICOM file that cannot be decoded: {error}") from error
    image = _from_unit(unit)
    profile = dataset.get("ICCProfile")
    return _bare(_apply_profile(image, profile)) if profile and values.ndim == 3 else image


def _apply_window(values: npt.NDArray[Any], dataset: Any) -> npt.NDArray[Any]:  # noqa: ANN401
    """Apply modality and VOI transforms (DICOM PS3.3 C.11) and scale to [0, 1]."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(values, dataset).astype(np.float64)
    if "WindowCenter" not in dataset and "VOILUTSequence" not in dataset:
        low, high = float(values.min()), float(values.max())
        return np.asarray((values - low) / ((high - low) or 1.0))
    if "VOILUTSequence" in dataset:
        shown = apply_voi_lut(values.astype(np.int64), dataset)
        return np.asarray(shown / float(2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1))
    # Two values far outside the window come back as the ends of the output range.
    ends = np.array([-1e9, 1e9])
    with np.errstate(over="ignore"):
        shown = apply_voi_lut(np.concatenate([values.ravel(), ends]), dataset)
    low, high = shown[-2], shown[-1]
    return np.asarray((shown[:-2].reshape(values.shape) - low) / ((high - low) or 1.0))


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
        return ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS, color="black")
    centering = place if crop == "random" else (0.5, 0.5)
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS, centering=centering)


def image_to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB image into a (3, H, W) float32 tensor in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))  # (H, W, 3)
    return pixels.permute(2, 0, 1) / 127.5 - 1.0


def tensor_to_image(tensor: Tensor) -> Image.Image:
    """Turn a (3, H, W) tensor in [-1, 1] into an RGB image; values outside are clipped."""
    unit = (tensor.detach().float().cpu() / 2 + 0.5).clamp(0, 1)
    return Image.fromarray((unit.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def save_png(path: Path, image: Image.Image, facts: dict[str, Any] | None = None) -> None:
    """Write a PNG in one move; `facts` go into its text chunk `medart` as JSON."""
    text = PngImagePlugin.PngInfo()
    if facts is not None:
        text.add_itxt("medart", json.dumps(facts, ensure_ascii=False))
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as file:
        image.save(file, format="PNG", pnginfo=text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def tile_images(
    images: list[Image.Image], *, columns: int | None = None, gap: int = 2
) -> Image.Image:
    """Lay images of one size on a sheet, row by row."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (width + gap), row * (height + gap)))
    return sheet
