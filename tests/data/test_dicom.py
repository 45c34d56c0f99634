"""DICOM files become the picture a viewer shows, or are refused with the reason."""

import io
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageCms
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from medart_cli.data.images import load_image, save_png
from medart_cli.errors import ImageError

RNG = np.random.default_rng(0)
RAMP = np.arange(64).reshape(8, 8)


def build_dicom(values, kind="MONOCHROME2", stored=None, syntax=ExplicitVRLittleEndian, **tags):
    values = np.ascontiguousarray(values)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "MRN-4711"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = values.shape[2] if values.ndim == 3 else 1
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = kind
    dataset.BitsAllocated = values.dtype.itemsize * 8
    dataset.BitsStored = stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    data = values.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def write_dicom(path, dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some files are wrong on purpose
        dataset.save_as(path, enforce_file_format=True)
    return path


def load_pixels(tmp_path, dataset):
    image = load_image(write_dicom(tmp_path / "IM0001", dataset))
    assert image.mode == "RGB" and image.info == {}
    return np.array(image).astype(int)


def load_gray(tmp_path, values, *arguments, **tags):
    pixels = load_pixels(tmp_path, build_dicom(values, *arguments, **tags))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def assert_refused(tmp_path, dataset, reason):
    path = write_dicom(tmp_path / "IM0001", dataset)
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "Jane" not in str(caught.value)


def scale(values, low, high):
    return np.rint(np.clip((np.asarray(values, float) - low) / (high - low), 0, 1) * 255)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_gray_of_8_bits_keeps_its_whole_range(tmp_path, syntax):
    values = (RAMP + 20).astype("u1")
    dataset = build_dicom(values)
    if syntax == RLELossless:
        dataset.compress(syntax)
    dataset.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(load_pixels(tmp_path, dataset)[..., 0], values)


def test_monochrome1_is_turned_round(tmp_path):
    values = (RAMP * 4).astype("u1")
    assert np.array_equal(load_gray(tmp_path, values, "MONOCHROME1"), 255 - values)
    tags = {"WindowCenter": "100", "WindowWidth": "101", "PresentationLUTShape": "INVERSE"}
    loaded = load_gray(tmp_path, values, "MONOCHROME1", **tags)
    assert np.array_equal(loaded, 255 - scale(values, 49.5, 149.5))


DEEP = {
    "12 bits": ((RAMP * 65).astype("<u2"), 12),
    "12 bits signed": ((RAMP * 60 - 2000).astype("<i2"), 12),
    "16 bits": ((RAMP * 1000).astype("<u2"), 16),
    "16 bits signed": ((RAMP * 1000 - 32000).astype("<i2"), 16),
    "8 bits signed": ((RAMP - 30).astype("i1"), 8),
}


@pytest.mark.parametrize(("values", "stored"), DEEP.values(), ids=DEEP)
def test_deep_gray_without_a_window_is_shown_by_the_bits_that_are_stored(tmp_path, values, stored):
    loaded = load_gray(tmp_path, values, "MONOCHROME2", stored)
    low = -(2 ** (stored - 1)) if values.dtype.kind == "i" else 0
    assert np.array_equal(loaded, scale(values, low, low + 2**stored - 1))
    dimmer = load_gray(tmp_path, values // 2, "MONOCHROME2", stored)
    assert dimmer.max() - dimmer.min() <= (loaded.max() - loaded.min()) // 2 + 1  # one scale


def test_a_rescaling_moves_the_ends_of_the_range_too(tmp_path):
    values = (RAMP * 65).astype("<u2")
    for slope in ("1", "-1"):
        tags = {"RescaleSlope": slope, "RescaleIntercept": "-1024"}
        loaded = load_gray(tmp_path, values, "MONOCHROME2", 12, **tags)
        upward = scale(values, 0, 4095)
        assert np.abs(loaded - (upward if slope == "1" else 255 - upward)).max() <= 1  # a half
    tags["RescaleSlope"] = "0.53"
    assert_refused(tmp_path, build_dicom(values, stored=12, **tags), "has a rescale slope of 0.53")
    tags |= {"WindowCenter": "100", "WindowWidth": "2000"}
    assert load_gray(tmp_path, values, "MONOCHROME2", 12, **tags).max() == 255


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((RAMP * 40).astype("<u2"), "from 0 to 2520"),
        ((RAMP * 40 - 1000).astype("<i2"), "from -1000 to 1520"),
        (np.dstack([RAMP * 4] * 3).astype("<u2"), "from 0 to 252"),
        (np.dstack([RAMP * 250] * 3).astype("<u2"), "from 0 to 15750"),
    ],
)
def test_values_that_need_few_of_16_bits_are_refused(tmp_path, values, found):
    kind = "RGB" if values.ndim == 3 else "MONOCHROME2"
    assert_refused(tmp_path, build_dicom(values, kind), f"has 16 bits but only values {found}")
    if kind == "MONOCHROME2":  # a window says which are meant
        loaded = load_gray(tmp_path, values, WindowCenter="500", WindowWidth="1000")
        assert loaded.max() == 255


def test_signed_values_that_an_offset_made_unsigned_are_refused_without_a_window(tmp_path):
    values = (RAMP * 30 + 31768).astype("<u2")
    assert_refused(tmp_path, build_dicom(values), "has 16 bits but only values from 31768 to 33658")
    assert load_gray(tmp_path, values, WindowCenter="32700", WindowWidth="1900").max() == 255


def test_bits_that_are_not_the_lowest_are_refused(tmp_path):
    dataset = build_dicom((RAMP * 1000).astype("<u2"), stored=12, HighBit=15)
    assert_refused(tmp_path, dataset, "has 12 bits but HighBit 15")


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_a_mask_is_refused(tmp_path, kind):
    assert_refused(tmp_path, build_dicom((RAMP > 9).astype("u1"), kind), "like a mask")


@pytest.mark.parametrize(("values", "stored"), DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize("slope", [1, 0.5, -2])
def test_windows_agree_with_the_standard_and_with_pydicom(
    tmp_path, values, stored, function, slope
):
    shown = values.astype(float) * slope - 10
    center, width = float(shown.mean()) + 3, float(shown.std()) * 1.5 + 2
    tags = {"WindowCenter": f"{center:.6f}", "WindowWidth": f"{width:.6f}"}
    tags |= {"RescaleSlope": str(slope), "RescaleIntercept": "-10"}
    if function:
        tags["VOILUTFunction"] = function
    dataset = build_dicom(values, "MONOCHROME2", stored, **tags)
    loaded = load_pixels(tmp_path, dataset)[..., 0]
    if function == "SIGMOID":
        expected = 1 / (1 + np.exp(-4 * (shown - center) / width))
    else:  # PS3.3 C.11.2.1.2.1 and C.11.2.1.3.2
        less = 0 if function == "LINEAR_EXACT" else 1
        expected = (shown - (center - 0.5 * less)) / (width - less) + 0.5
    assert np.abs(loaded - np.rint(expected.clip(0, 1) * 255)).max() <= 1  # ties at a half
    theirs = apply_windowing(shown, dataset)
    bits = [0, 2**stored - 1] if values.dtype.kind == "u" else [-(2 ** (stored - 1))] * 2
    if values.dtype.kind == "i":
        bits[1] = 2 ** (stored - 1) - 1
    ends = [bit * slope - 10 for bit in bits]
    assert np.abs(loaded - scale(theirs, *ends)).max() <= 1


def test_the_first_of_several_windows_is_used(tmp_path):
    values = (RAMP * 60).astype("<u2")
    tags = {"WindowCenter": ["1000.5", "50"], "WindowWidth": ["1021", "5"]}
    loaded = load_gray(tmp_path, values, **tags)
    assert np.abs(loaded - scale(values, 490, 1510)).max() <= 1  # ties at a half


def test_empty_window_tags_are_no_window(tmp_path):
    values = (RAMP * 60 + 5).astype("<u2")
    tags = {"WindowCenter": None, "WindowWidth": None, "VOILUTSequence": []}
    loaded = load_gray(tmp_path, values, stored=12, **tags)
    assert np.array_equal(loaded, scale(values, 0, 4095))


@pytest.mark.parametrize("center", ["60000", "-60000"])
def test_a_window_that_shows_nothing_is_refused(tmp_path, center):
    dataset = build_dicom((RAMP * 60).astype("<u2"), stored=12, WindowCenter=center)
    dataset.WindowWidth = "100"
    assert_refused(tmp_path, dataset, "that shows nothing of its values from 0 to 3780; correct")
    wide = build_dicom((RAMP * 60).astype("<u2"), WindowCenter="0", WindowWidth="9e9")
    assert_refused(tmp_path, wide, "that shows nothing")
    dots = np.arange(10000).reshape(100, 100)
    dots.flat[:5] = 65000  # a few pixels are not a picture
    bright = build_dicom(dots.astype("<u2"), WindowCenter="60000", WindowWidth="100")
    assert_refused(tmp_path, bright, "that shows nothing")


def test_a_window_over_an_image_of_one_gray_is_no_fault(tmp_path):
    values = np.full((8, 8), 300, "<u2")
    assert load_gray(tmp_path, values, WindowCenter="900", WindowWidth="100").max() == 0
    values[0, 0] = 7
    tags = {"WindowCenter": "900", "WindowWidth": "100", "PixelPaddingValue": 7}
    assert load_gray(tmp_path, values, **tags).max() == 0


def test_of_several_windows_the_first_that_shows_anything_is_used(tmp_path):
    values = (RAMP * 60).astype("<u2")
    tags = {"WindowCenter": ["60000", "1000.5"], "WindowWidth": ["100", "1021"]}
    loaded = load_gray(tmp_path, values, **tags)
    assert np.abs(loaded - scale(values, 490, 1510)).max() <= 1  # ties at a half


@pytest.mark.parametrize(
    ("tags", "size"),
    [
        ({"PixelAspectRatio": ["2", "1"]}, (8, 16)),  # height, then width
        ({"PixelAspectRatio": ["1", "2"]}, (16, 8)),
        ({"PixelAspectRatio": ["1", "1"]}, (8, 8)),
        ({"PixelSpacing": ["0.75", "0.5"]}, (8, 12)),
        ({"ImagerPixelSpacing": ["0.5", "0.75"]}, (12, 8)),
        ({"NominalScannedPixelSpacing": ["0.5", "0.75"]}, (12, 8)),
        ({"PixelSpacing": ["0.75", "0.5"], "PixelAspectRatio": ["1", "2"]}, (8, 12)),
        ({"PixelSpacing": ["0.5", "0.5"], "PixelAspectRatio": ["1", "2"]}, (8, 8)),
        ({"PixelSpacing": ["0", "0"]}, (8, 8)),
        ({"PixelSpacing": ["", ""]}, (8, 8)),
        ({"PixelSpacing": ["0", "0"], "PixelAspectRatio": ["1", "2"]}, (16, 8)),
        ({"PixelSpacing": ["0.5", "0.50001"]}, (8, 8)),
    ],
)
def test_pixels_are_made_square(tmp_path, tags, size):
    stored = np.where(np.add.outer(range(8), range(8)) < 8, 200, 40).astype("u1")
    loaded = load_gray(tmp_path, stored, **tags)
    assert loaded.shape == size[::-1]
    expected = Image.fromarray(stored).resize(size, Image.Resampling.BICUBIC)
    assert np.array_equal(loaded, np.asarray(expected))
    color = np.dstack([stored] * 3)
    assert load_pixels(tmp_path, build_dicom(color, "RGB", **tags)).shape == (*size[::-1], 3)


def test_pixels_that_would_be_a_strip_are_refused_before_they_are_made(tmp_path):
    dataset = build_dicom((RAMP * 4).astype("u1"), PixelAspectRatio=["900000000", "1"])
    assert_refused(tmp_path, dataset, "is a strip of 8 x 7200000000 pixels")


def test_a_window_of_width_1_is_a_threshold(tmp_path):
    values = (RAMP * 4).astype("u1")
    loaded = load_gray(tmp_path, values, WindowCenter="100", WindowWidth="1")
    assert np.array_equal(loaded, (values > 99.5) * 255)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"WindowCenter": "5", "WindowWidth": "0"}, "window of width 0"),
        ({"WindowCenter": "5", "WindowWidth": "-9"}, "window of width -9"),
        (
            {"WindowCenter": "5", "WindowWidth": "9", "VOILUTFunction": "CUBIC"},
            "VOILUTFunction CUBIC",
        ),
        ({"RescaleSlope": "0", "RescaleIntercept": "5"}, "slope of 0"),
        ({"PresentationLUTShape": "INVERSE"}, "presentation"),
        ({"NumberOfFrames": "3"}, "has 3 frames"),
    ],
)
def test_what_is_unclear_is_refused(tmp_path, tags, reason):
    assert_refused(tmp_path, build_dicom(RAMP.astype("u1"), **tags), reason)


def build_table(table, first, bits, vr="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", vr if vr != "OW" else "US", [len(table) % 65536, first, bits])
    if vr == "OW":
        item.add_new("LUTData", "OW", np.asarray(table, "<u2").tobytes())
    else:
        item.add_new("LUTData", "US", [int(entry) for entry in table])
    return item


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_voi_table_is_applied(tmp_path, bits, vr):
    values = (RAMP * 65).astype("<u2")  # up to 4095: more than an 8-bit table's entries can count
    table = np.rint((np.arange(3000) / 2999) ** 2 * (2**bits - 1)).astype(int)
    tags = {"VOILUTSequence": [build_table(table, 500, bits, vr)]}
    tags |= {"WindowCenter": "5", "WindowWidth": "2"}  # the table goes first
    loaded = load_gray(tmp_path, values, stored=12, **tags)
    expected = table[(values.astype(int) - 500).clip(0, 2999)]
    assert np.array_equal(loaded, scale(expected, 0, 2**bits - 1))


def test_a_voi_table_of_negative_values_is_applied_after_the_rescaling(tmp_path):
    values = (RAMP * 32).astype("<u2")
    table = np.arange(1500, -1, -1) * 40
    item = build_table(table, 65536 - 1000, 16)  # -1000, as an unsigned number
    tags = {"VOILUTSequence": [item], "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    loaded = load_gray(tmp_path, values, stored=12, **tags)
    expected = table[(values.astype(int) - 1024 + 1000).clip(0, 1500)]
    assert np.array_equal(loaded, scale(expected, 0, 65535))


def test_a_modality_table_is_applied_before_the_window(tmp_path):
    values = (RAMP + 10).astype("u1")
    table = np.arange(100)[::-1] * 10
    tags = {"ModalityLUTSequence": [build_table(table, 0, 16)]}
    tags |= {"WindowCenter": "500.5", "WindowWidth": "801"}
    loaded = load_gray(tmp_path, values, **tags)
    assert np.array_equal(loaded, scale(table[values], 100, 900))


def test_a_voi_table_that_uses_few_of_its_bits_or_shows_one_gray_is_refused(tmp_path):
    values = (RAMP * 65).astype("<u2")
    dim = {"VOILUTSequence": [build_table(np.arange(4096), 0, 16)]}
    assert_refused(tmp_path, build_dicom(values, **dim), "has a lookup table of 16 bits but no")
    flat = {"VOILUTSequence": [build_table([60000] * 4096, 0, 16)]}
    assert_refused(tmp_path, build_dicom(values, **flat), "maps all values to one gray")


@pytest.mark.parametrize("table", [[0, 1, 2, 300], [5] * 3])
def test_a_table_that_does_not_fit_its_description_is_refused(tmp_path, table):
    item = build_table(table, 0, 8)
    item.LUTDescriptor = [4, 0, 8]
    dataset = build_dicom(RAMP.astype("u1"), VOILUTSequence=[item])
    assert_refused(tmp_path, dataset, "lookup table")


def test_padding_is_black_and_counts_for_nothing(tmp_path):
    values = (RAMP * 20 + 100).astype("<i2")
    values[0, :3] = -2000
    loaded = load_gray(tmp_path, values, stored=12, PixelPaddingValue=-2000)
    expected = scale(values, -2048, 2047)
    expected[0, :3] = 0
    assert np.array_equal(loaded, expected)
    loaded = load_gray(tmp_path, values, "MONOCHROME1", 12, PixelPaddingValue=-2000)
    expected = 255 - expected
    expected[0, :3] = 0
    assert np.array_equal(loaded, expected)
    tags = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": 170}
    loaded = load_gray(tmp_path, values, stored=12, **tags)
    assert loaded[0, :4].max() == 0 and loaded[0, 4] == scale(180, -2048, 2047)
    padded = np.where(RAMP < 9, -30000, RAMP * 20).astype("<i2")  # only padding is far away
    assert_refused(tmp_path, build_dicom(padded, PixelPaddingValue=-30000), "from 180 to 1260")


def test_bits_above_those_stored_are_not_taken_for_pixels(tmp_path):
    values = (RAMP * 65).astype("<u2")
    overlaid = values | 0xF000  # where old devices kept overlays
    loaded = load_gray(tmp_path, overlaid, stored=12)
    assert np.array_equal(loaded, scale(values, 0, 4095))


COLOR = RNG.integers(0, 256, (6, 8, 3)).astype("u1")


def test_rgb_is_taken_as_it_is_in_either_layout(tmp_path):
    assert np.array_equal(load_pixels(tmp_path, build_dicom(COLOR, "RGB")), COLOR)
    planes = build_dicom(COLOR, "RGB", PlanarConfiguration=1)
    planes.PixelData = COLOR.transpose(2, 0, 1).tobytes()
    assert np.array_equal(load_pixels(tmp_path, planes), COLOR)
    packed = build_dicom(COLOR, "RGB")
    packed.compress(RLELossless)
    assert np.array_equal(load_pixels(tmp_path, packed), COLOR)


def test_rgb_of_16_bits_is_scaled(tmp_path):
    deep = RNG.integers(0, 65536, (6, 8, 3)).astype("<u2")
    assert np.array_equal(load_pixels(tmp_path, build_dicom(deep, "RGB")), np.rint(deep / 257))
    twelve = (deep >> 4).astype("<u2")
    loaded = load_pixels(tmp_path, build_dicom(twelve, "RGB", 12))
    assert np.array_equal(loaded, np.rint(twelve / 4095 * 255))


def test_ybr_full_becomes_rgb(tmp_path):
    red, green, blue = (COLOR[..., i].astype(float) for i in range(3))
    light = 0.299 * red + 0.587 * green + 0.114 * blue  # PS3.3 C.7.6.3.1.2
    ybr = [light, (blue - light) / 1.772 + 128, (red - light) / 1.402 + 128]
    stored = np.rint(np.stack(ybr, axis=2)).clip(0, 255).astype("u1")
    loaded = load_pixels(tmp_path, build_dicom(stored, "YBR_FULL"))
    assert np.abs(loaded - COLOR).max() <= 3


def test_a_jpeg_inside_is_decoded(tmp_path):
    smooth = np.zeros((16, 16, 3), "u1") + np.array([200, 60, 90], "u1")
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=95)
    dataset = build_dicom(smooth, "YBR_FULL_422", syntax=JPEGBaseline8Bit)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    assert np.abs(load_pixels(tmp_path, dataset) - smooth).max() <= 3


PATCHES = np.repeat(np.repeat([[[200, 60, 90], [30, 160, 60]]], 16, 0), 16, 1).astype("u1")


def encode_jpeg(*, drop=(), adobe=None, numbers=None, **options):
    """Write PATCHES as a JPEG, without the segments in `drop`, and with others put in."""
    buffer = io.BytesIO()
    Image.fromarray(PATCHES).save(buffer, "JPEG", quality=95, **options)
    data, parts, at = buffer.getvalue(), [b"\xff\xd8"], 2
    if adobe is not None:
        parts.append(b"\xff\xee\x00\x0eAdobe\x00\x64" + b"\0" * 4 + bytes([adobe]))
    while data[at + 1] != 0xDA:  # the picture
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] not in drop:
            parts.append(data[at:end])
        at = end
    rest = data[at:]
    if numbers:
        frame = next(index for index, part in enumerate(parts) if part[1] == 0xC0)
        parts[frame], rest = bytearray(parts[frame]), bytearray(rest)
        for index, number in enumerate(numbers):
            parts[frame][10 + 3 * index] = rest[5 + 2 * index] = number
    return b"".join([*map(bytes, parts), bytes(rest)])


def build_compressed(data, kind, syntax=JPEGBaseline8Bit):
    dataset = build_dicom(PATCHES, kind, syntax=syntax)
    dataset.PixelData = encapsulate([data + b"\0" * (len(data) % 2)])
    dataset["PixelData"].is_undefined_length = True
    return dataset


APP0, APP14 = 0xE0, 0xEE
JPEGS = {
    "JFIF": {},
    "JFIF, not subsampled": {"subsampling": 0},
    "numbers and subsampling": {"drop": [APP0]},
    "Adobe YCbCr": {"drop": [APP0], "adobe": 1, "subsampling": 0},
    "Adobe RGB": {"keep_rgb": True},
    "letters": {"keep_rgb": True, "drop": [APP14]},
    "small letters": {"keep_rgb": True, "drop": [APP14], "numbers": b"rgb"},
    "Adobe RGB, numbered": {"keep_rgb": True, "numbers": [1, 2, 3]},
}


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_of_jpeg_and_tags_the_jpeg_knows_the_color_space(tmp_path, options, kind):
    dataset = build_compressed(encode_jpeg(**options), kind)
    loaded = load_pixels(tmp_path, dataset)
    flat = np.delete(np.arange(32), slice(14, 18))  # the seam is blurred
    assert np.abs(loaded - PATCHES)[:, flat].max() <= 4


def test_a_jpeg_without_a_mark_is_taken_as_the_tags_say_unless_its_parts_object(tmp_path):
    plain = encode_jpeg(drop=[APP0], subsampling=0)
    assert np.abs(load_pixels(tmp_path, build_compressed(plain, "YBR_FULL")) - PATCHES).max() <= 4
    assert_refused(
        tmp_path, build_compressed(plain, "RGB"), "is RGB by its tags, but perhaps YCbCr"
    )
    scanner = encode_jpeg(keep_rgb=True, drop=[APP14], numbers=[0, 1, 2])  # of Aperio's slides
    assert np.abs(load_pixels(tmp_path, build_compressed(scanner, "RGB")) - PATCHES).max() <= 4
    odd = encode_jpeg(drop=[APP0], numbers=[0, 1, 2])
    assert_refused(tmp_path, build_compressed(odd, "RGB"), "perhaps YCbCr by its JPEG")


def test_a_jpeg_that_contradicts_itself_is_refused(tmp_path):
    both = build_compressed(encode_jpeg(adobe=0), "RGB")
    assert_refused(tmp_path, both, "says both RGB and YCbCr")


@pytest.mark.filterwarnings("error")  # pydicom's own are for programmers
def test_a_color_space_that_disagrees_is_said_once(tmp_path, said, monkeypatch):
    monkeypatch.setattr("medart_cli.data.dicom._SAID", set())
    for _ in range(2):
        load_pixels(tmp_path, build_compressed(encode_jpeg(), "RGB"))
    load_pixels(tmp_path, build_compressed(encode_jpeg(), "YBR_FULL_422"))
    assert sum("RGB by its tags but YBR_FULL" in line for line in said) == 1


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT"])
def test_a_jpeg_2000_is_transformed_if_it_says_so(tmp_path, kind):
    color = COLOR.repeat(4, 0).repeat(4, 1)
    buffer = io.BytesIO()
    Image.fromarray(color).save(buffer, "JPEG2000", no_jp2=True, irreversible=False, mct=1)
    dataset = build_dicom(color, kind, syntax=JPEG2000)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    assert np.array_equal(load_pixels(tmp_path, dataset), color)


def test_a_jpeg_2000_whose_header_has_no_length_is_refused_and_not_waited_for(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(PATCHES[..., 0]).save(buffer, "JPEG2000")
    data = buffer.getvalue()
    assert data[4:8] == b"jP  "
    data = data[:12] + b"\0\0\0\0" + data[16:]
    dataset = build_compressed(data, "MONOCHROME2", JPEG2000)
    dataset.SamplesPerPixel = 1
    assert_refused(tmp_path, dataset, "contains a corrupt JPEG 2000")


def test_a_jpeg_2000_that_says_nothing_is_taken_as_the_tags_say(tmp_path):
    color = COLOR.repeat(4, 0).repeat(4, 1)
    for kind in ("RGB", "YBR_FULL", "YBR_ICT"):
        stored = Image.fromarray(color).convert("RGB" if kind == "RGB" else "YCbCr")
        buffer = io.BytesIO()
        stored = Image.fromarray(np.asarray(stored))
        stored.save(buffer, "JPEG2000", no_jp2=True, irreversible=False, mct=0)
        dataset = build_dicom(color, kind, syntax=JPEG2000)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        if kind == "YBR_ICT":
            assert_refused(tmp_path, dataset, "is YBR_ICT by its tags, but not by its JPEG 2000")
        else:
            assert np.abs(load_pixels(tmp_path, dataset) - color).max() <= 3


@pytest.mark.parametrize("kind", ["YBR_PARTIAL_422", "HSV", "CMYK", "XYZ"])
def test_other_color_spaces_are_refused(tmp_path, kind):
    assert_refused(tmp_path, build_dicom(COLOR, kind), "")


def test_ybr_of_more_than_8_bits_is_refused(tmp_path):
    assert_refused(tmp_path, build_dicom(COLOR.astype("<u2"), "YBR_FULL"), "only 8 are supported")


def test_color_in_another_space_without_a_profile_is_refused(tmp_path):
    dataset = build_dicom(COLOR, "RGB", ColorSpace="ADOBERGB")
    assert_refused(tmp_path, dataset, "ADOBERGB but no color profile")


def test_a_profile_is_applied(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    dataset = build_dicom(COLOR, "RGB", ICCProfile=srgb + b"\0" * (len(srgb) % 2))
    assert np.array_equal(load_pixels(tmp_path, dataset), COLOR)
    assert_refused(tmp_path, build_dicom(COLOR, "RGB", ICCProfile=b"junk" * 40), "profile")


def add_palette(dataset, tables, bits, first=0):
    for name, table in zip(["Red", "Green", "Blue"], tables, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [len(table), first, bits])
        data = np.asarray(table, "u1" if bits == 8 else "<u2").tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableData", data)
    return dataset


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (16, 65535), (16, 255)])
def test_palettes_are_looked_up(tmp_path, bits, most):
    tables = np.rint(RNG.integers(0, 256, (3, 40)) / 255 * most).astype(int)
    tables[0, 30] = most
    dataset = add_palette(build_dicom((RAMP + 5).astype("u1"), "PALETTE COLOR"), tables, bits, 10)
    expected = np.rint(tables[:, (RAMP - 5).clip(0, 39)].transpose(1, 2, 0) / most * 255)
    assert np.array_equal(load_pixels(tmp_path, dataset), expected)


def test_a_dark_image_with_a_bright_palette_stays_dark(tmp_path):
    tables = np.tile(np.arange(256) * 257, (3, 1))
    values = np.where(RAMP < 20, 0, 40).astype("u1")
    loaded = load_pixels(tmp_path, add_palette(build_dicom(values, "PALETTE COLOR"), tables, 16))
    assert loaded[..., 0].tolist() == values.tolist()
    dark = np.where(RAMP < 20, 0, 8).astype("u1")
    tables[:, 8] = 200  # 200 of 65535
    dataset = add_palette(build_dicom(dark, "PALETTE COLOR"), tables, 16)
    assert_refused(tmp_path, dataset, "has only the values 0 to 1 of 255")
    twelve = add_palette(build_dicom(dark, "PALETTE COLOR"), tables // 16, 16)
    assert_refused(tmp_path, twelve, "has a palette of 16 bits with no color above 4095")


def test_a_small_palette_for_deep_values_does_not_wrap_around(tmp_path):
    values = (RAMP * 100).astype("<u2")
    tables = RNG.integers(0, 256, (3, 256))
    dataset = add_palette(build_dicom(values, "PALETTE COLOR"), tables, 8)
    expected = tables[:, values.clip(0, 255)].transpose(1, 2, 0)
    assert np.array_equal(load_pixels(tmp_path, dataset), expected)


def test_a_palette_that_is_missing_is_refused(tmp_path):
    assert_refused(tmp_path, build_dicom(RAMP.astype("u1"), "PALETTE COLOR"), "")


def test_a_file_without_an_image_is_refused(tmp_path):
    dataset = build_dicom(RAMP.astype("u1"))
    del dataset.PixelData
    assert_refused(tmp_path, dataset, "without an image")


def test_a_file_of_too_many_pixels_is_refused(tmp_path):
    dataset = build_dicom(RAMP.astype("u1"), Rows=60000, Columns=60000)
    assert_refused(tmp_path, dataset, "too many pixels")


def test_a_deflated_file_is_refused_before_it_is_unfolded(tmp_path):
    dataset = build_dicom(RAMP.astype("u1"))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert_refused(tmp_path, dataset, "is deflated")


@pytest.mark.parametrize("tag", ["Rows", "BitsStored", "PhotometricInterpretation"])
def test_missing_tags_are_an_image_error(tmp_path, tag):
    dataset = build_dicom(RAMP.astype("u1"))
    delattr(dataset, tag)
    assert_refused(tmp_path, dataset, "")


def test_truncated_files_are_refused(tmp_path):
    path = write_dicom(tmp_path / "IM0001", build_dicom((RAMP * 900).astype("<u2")))
    content = path.read_bytes()
    for end in (133, 150, 300, len(content) - 100, len(content) - 2):
        path.write_bytes(content[:end])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ImageError):
                load_image(path)


def test_flipped_bytes_never_raise_anything_but_an_image_error(tmp_path):
    item = build_table(range(64), 0, 8)
    dataset = build_dicom(RAMP.astype("u1"), VOILUTSequence=[item], PixelPaddingValue=3)
    path = write_dicom(tmp_path / "IM0001", dataset)
    content = path.read_bytes()
    for _ in range(150):
        broken = bytearray(content)
        for place in RNG.integers(132, len(content), 3):
            broken[place] = RNG.integers(0, 256)
        path.write_bytes(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert load_image(path).mode == "RGB"
            except ImageError as error:
                assert str(error).startswith(str(path))


def test_a_file_without_its_preamble_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", build_dicom(RAMP.astype("u1")))
    path.write_bytes(path.read_bytes()[132:])
    with pytest.raises(ImageError, match="not an image of a known format"):
        load_image(path)


def test_patient_tags_are_nowhere_in_the_saved_picture(tmp_path):
    dataset = build_dicom(COLOR, "RGB", ImageComments="Jane Doe, born 1970")
    path = write_dicom(tmp_path / "a.dcm", dataset)
    assert b"Jane" in path.read_bytes()
    assert pydicom.dcmread(path).PatientID == "MRN-4711"
    image = load_image(path)
    save_png(tmp_path / "a.png", image, {"synthetic": False})
    content = (tmp_path / "a.png").read_bytes()
    for word in (b"Jane", b"Doe", b"4711", b"1970"):
        assert word not in content
