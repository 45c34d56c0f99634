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
def test_deep_gray_without_a_window_is_shown_from_smallest_to_largest(tmp_path, values, stored):
    loaded = load_gray(tmp_path, values, "MONOCHROME2", stored)
    assert np.array_equal(loaded, scale(values, int(values.min()), int(values.max())))


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
    assert np.array_equal(loaded, scale(values, values.min(), values.max()))


def test_a_window_of_width_1_is_a_threshold(tmp_path):
    values = (RAMP * 4).astype("u1")
    loaded = load_gray(tmp_path, values, WindowCenter="100", WindowWidth="1")
    assert np.array_equal(loaded, (values > 99.5) * 255)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"WindowCenter": "5", "WindowWidth": "0"}, "window of width 0"),
        ({"WindowCenter": "5", "WindowWidth": "-9"}, "window of width -9"),
        ({"WindowCenter": "5", "WindowWidth": "9", "VOILUTFunction": "CUBIC"}, "kind CUBIC"),
        ({"RescaleSlope": "0", "RescaleIntercept": "5"}, "slope of 0"),
        ({"PresentationLUTShape": "INVERSE"}, "presentation"),
        ({"NumberOfFrames": "3"}, "holds 3 frames"),
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


@pytest.mark.parametrize("table", [[0, 1, 2, 300], [5] * 3])
def test_a_table_that_does_not_fit_its_description_is_refused(tmp_path, table):
    item = build_table(table, 0, 8)
    item.LUTDescriptor = [4, 0, 8]
    dataset = build_dicom(RAMP.astype("u1"), VOILUTSequence=[item])
    assert_refused(tmp_path, dataset, "lookup table")


def test_padding_is_black_and_counts_for_nothing(tmp_path):
    values = (RAMP * 20 + 100).astype("<i2")
    values[0, :3] = -2000
    loaded = load_gray(tmp_path, values, PixelPaddingValue=-2000)
    expected = scale(values, 160, values.max())
    assert np.array_equal(loaded, expected)
    loaded = load_gray(tmp_path, values, "MONOCHROME1", PixelPaddingValue=-2000)
    assert loaded[0, :3].max() == 0 and loaded[0, 3] == 255
    loaded = load_gray(tmp_path, values, PixelPaddingValue=-2000, PixelPaddingRangeLimit=170)
    assert np.array_equal(loaded, scale(values, 180, values.max()))


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


@pytest.mark.parametrize("kind", ["YBR_PARTIAL_422", "HSV", "CMYK", "XYZ"])
def test_other_color_spaces_are_refused(tmp_path, kind):
    assert_refused(tmp_path, build_dicom(COLOR, kind), "")


def test_ybr_of_more_than_8_bits_is_refused(tmp_path):
    assert_refused(tmp_path, build_dicom(COLOR.astype("<u2"), "YBR_FULL"), "only 8 are read")


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
