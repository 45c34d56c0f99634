"""Every awkward file a clinic has becomes the right picture, or is refused with its reason."""

import io
import json
import os
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from medart_cli.data.images import (
    _say_range,
    fit_image,
    load_image,
    read_size,
    save_png,
    tile_images,
)
from medart_cli.errors import ImageError

REAL = Path(__file__).parents[2] / "../shared/data/isic2017_dermoscopy"
CASES = Path(__file__).parents[2] / "../shared/cases"
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def load_bytes(tmp_path, content, name="image"):
    path = tmp_path / name
    path.write_bytes(content)
    return load_image(path)


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels_of(image):
    assert image.mode == "RGB"
    assert image.info == {}
    return np.array(image).astype(int)


def load_pixels(tmp_path, image, form="PNG", **options):
    return pixels_of(load_bytes(tmp_path, encode(image, form, **options)))


def gray_to_rgb(values):
    return np.repeat(np.asarray(values, dtype=int)[..., None], 3, axis=2)


def assert_refused(tmp_path, content, reason, name="image"):
    with pytest.raises(ImageError) as caught:
        load_bytes(tmp_path, content, name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert reason in str(caught.value)


# Where the stored picture stands in the upright one, by EXIF tag 0x0112 (EXIF 2.32, 4.6.4.A).
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    loaded = load_pixels(tmp_path, Image.fromarray(PIXELS), form, exif=exif, **options)
    assert np.array_equal(loaded, UPRIGHT[orientation](PIXELS))
    assert read_size(tmp_path / "image") == loaded.shape[1::-1]


def test_the_size_is_upright_where_the_orientation_stands_behind_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(PIXELS), "PNG")
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    loaded = load_bytes(tmp_path, data[:-12] + chunk + data[-12:])
    assert read_size(tmp_path / "image") == loaded.size == (6, 9)


def test_the_size_is_read_without_decoding(tmp_path, monkeypatch):
    for form in ("PNG", "JPEG", "TIFF", "WEBP"):
        path = tmp_path / form
        path.write_bytes(encode(Image.fromarray(PIXELS), form))
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
            assert read_size(path) == (9, 6)


def test_the_size_of_what_is_no_image_is_an_image_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="not an image of a known format"):
        read_size(tmp_path / "a.png")


def test_exif_orientation_of_a_jpeg_is_applied(tmp_path):
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load_pixels(tmp_path, Image.fromarray(stored), "JPEG", exif=exif, quality=95)
    assert loaded.shape == (32, 16, 3)
    assert loaded[2, 8].max() < 20 and loaded[29, 8].min() > 235


# Profiles are built by hand after ICC.1:2004: a D50 matrix, and one gamma for all channels.
def pack_tag(kind, data):
    return kind + b"\0\0\0\0" + data


def pack_profile(space, connection, tags, kind=b"mntr"):
    table, body, offset = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s12x4s", 0, b"\0\0\0\0", 0x02400000, kind, space, connection, b"acsp"
    )
    header += b"\0" * 28 + struct.pack(">iii", 63190, 65536, 54061)
    content = header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(content)) + content[4:]


def fixed(*numbers):
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


NAMES = {
    b"desc": pack_tag(b"desc", struct.pack(">I", 5) + b"test\0" + b"\0" * 78),
    b"cprt": pack_tag(b"text", b"none\0"),
    b"wtpt": pack_tag(b"XYZ ", fixed(0.9642, 1.0, 0.8249)),
}
# Columns: red, green, blue of sRGB in XYZ under D50 (the sRGB profile of the ICC).
SRGB_D50 = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


def pack_gamma(gamma):
    return pack_tag(b"curv", struct.pack(">IH", 1, round(gamma * 256)))


def rgb_profile(matrix, gamma):
    curve = pack_gamma(gamma)
    tags = {
        name: pack_tag(b"XYZ ", fixed(*matrix[:, i]))
        for i, name in enumerate([b"rXYZ", b"gXYZ", b"bXYZ"])
    }
    return pack_profile(
        b"RGB ", b"XYZ ", {**NAMES, **tags, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    )


def gray_profile(gamma):
    return pack_profile(b"GRAY", b"XYZ ", {**NAMES, b"kTRC": pack_gamma(gamma)})


def to_srgb(linear):
    """Encode linear sRGB (IEC 61966-2-1) as bytes."""
    linear = np.clip(linear, 0, 1)
    unit = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(unit * 255).astype(int)


def test_an_embedded_profile_with_swapped_primaries_swaps_the_channels(tmp_path):
    profile = rgb_profile(SRGB_D50[:, [2, 0, 1]], 2.2)  # its red is sRGB's blue, and so on
    loaded = load_pixels(tmp_path, Image.fromarray(PIXELS), icc_profile=profile)
    expected = to_srgb((PIXELS / 255.0) ** 2.2)[..., [1, 2, 0]]
    assert np.abs(loaded - expected).max() <= 2


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_a_wide_gamut_profile_moves_the_color_to_srgb(tmp_path, form):
    adobe = np.array(  # Adobe RGB (1998), D50
        [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
    )
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    for color in ([180, 120, 90], [128, 128, 128], [90, 140, 110]):
        image = Image.new("RGB", (16, 16), tuple(color))
        profile = rgb_profile(adobe, 563 / 256)
        loaded = load_pixels(tmp_path, image, form, icc_profile=profile, **options)[8, 8]
        linear = np.linalg.inv(SRGB_D50) @ adobe @ ((np.array(color) / 255.0) ** (563 / 256))
        assert np.abs(loaded - to_srgb(linear)).max() <= 2
        assert (color[0] == color[1]) or np.abs(loaded - color).max() > 8


def test_an_embedded_srgb_profile_changes_nothing(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = load_pixels(tmp_path, Image.fromarray(PIXELS), icc_profile=srgb)
    assert np.array_equal(loaded, PIXELS)


@pytest.mark.parametrize("profile", [gray_profile(1.0), rgb_profile(SRGB_D50, 1.0)])
def test_gray_with_a_gray_or_a_color_profile_is_converted(tmp_path, profile):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    loaded = load_pixels(tmp_path, Image.fromarray(ramp), icc_profile=profile)
    assert np.abs(loaded - gray_to_rgb(to_srgb(ramp / 255.0))).max() <= 2


def test_palette_and_alpha_go_through_the_profile_too(tmp_path):
    profile = rgb_profile(SRGB_D50[:, [2, 0, 1]], 2.2)
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert load_pixels(tmp_path, red.convert("P"), icc_profile=profile)[0, 0].tolist() == [
        0,
        0,
        255,
    ]
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 51))  # a fifth red on white
    loaded = load_pixels(tmp_path, clear, icc_profile=profile)[0, 0]
    assert np.abs(loaded - [204, 204, 255]).max() <= 1


def test_a_profile_that_is_broken_or_of_another_space_is_refused(tmp_path):
    image = Image.fromarray(PIXELS)
    assert_refused(tmp_path, encode(image, "PNG", icc_profile=b"junk" * 50), "profile")
    good = rgb_profile(SRGB_D50, 2.2)
    assert_refused(tmp_path, encode(image, "PNG", icc_profile=good[:200]), "profile")
    assert_refused(tmp_path, encode(image, "PNG", icc_profile=gray_profile(2.2)), "profile")
    cmyk = image.convert("CMYK")
    assert_refused(tmp_path, encode(cmyk, "TIFF", icc_profile=good), "profile")


def png_of(values, kind, bits=16, chunks=()):
    """Write a PNG by the book (ISO 15948), so that no library stands between."""
    values = np.asarray(values)
    height, width = values.shape[:2]
    rows = values.astype(">u2" if bits == 16 else "u1")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", head), *chunks, (b"IDAT", body), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    return content


def test_a_png_that_names_another_gamma_or_other_primaries_is_refused(tmp_path):
    gamma = (b"gAMA", struct.pack(">I", 100000))
    assert_refused(tmp_path, png_of(PIXELS, 2, 8, [gamma]), "gamma of 1")
    usual = (b"gAMA", struct.pack(">I", 45455))
    srgb = [31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000]
    primaries = (b"cHRM", struct.pack(">8I", *srgb))
    loaded = load_bytes(tmp_path, png_of(PIXELS, 2, 8, [usual, primaries]))
    assert np.array_equal(pixels_of(loaded), PIXELS)
    wide = (b"cHRM", struct.pack(">8I", *srgb[:4], 21000, 71000, *srgb[6:]))
    assert_refused(tmp_path, png_of(PIXELS, 2, 8, [usual, wide]), "primaries")


def test_a_photo_that_says_it_is_adobe_rgb_without_a_profile_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    content = encode(Image.fromarray(PIXELS), "JPEG", exif=exif)
    assert_refused(tmp_path, content, "Adobe RGB")


def test_gray_and_one_bit_images_have_equal_channels(tmp_path):
    gray = PIXELS[..., 0]
    assert np.array_equal(load_pixels(tmp_path, Image.fromarray(gray)), gray_to_rgb(gray))
    for form in ("PNG", "TIFF"):
        loaded = load_pixels(tmp_path, Image.fromarray(gray > 99), form)
        assert np.array_equal(loaded, gray_to_rgb((gray > 99) * 255))


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_images_take_their_colors(tmp_path, form):
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 200, 100, 50, 255, 255, 0])
    expected = [[[10, 20, 30], [200, 100, 50]], [[255, 255, 0], [200, 100, 50]]]
    assert load_pixels(tmp_path, palette, form).tolist() == expected


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_the_transparent_color_of_a_palette_is_laid_on_white(tmp_path, form):
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    loaded = load_pixels(tmp_path, palette, form, transparency=1)
    assert loaded.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_transparent_colors_of_gray_and_rgb_are_laid_on_white(tmp_path):
    gray = (b"tRNS", struct.pack(">H", 7))
    loaded = pixels_of(load_bytes(tmp_path, png_of([[7, 8]], 0, 8, [gray])))
    assert loaded.tolist() == [[[255] * 3, [8] * 3]]
    color = (b"tRNS", struct.pack(">HHH", 1, 2, 3))
    content = png_of([[[1, 2, 3], [1, 2, 4]]], 2, 8, [color])
    assert pixels_of(load_bytes(tmp_path, content)).tolist() == [[[255] * 3, [1, 2, 4]]]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_on_white(tmp_path, form):
    alpha = np.linspace(0, 255, 54).astype(np.uint8).reshape(6, 9, 1)
    alpha[0, 0], color = 0, np.clip(PIXELS, 1, 255)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    image = Image.fromarray(np.concatenate([color, alpha], 2))
    part = alpha / 255.0
    expected = np.rint(color * part + 255 * (1 - part))
    assert np.abs(load_pixels(tmp_path, image, form, **options) - expected).max() <= 1


def test_an_image_that_is_transparent_everywhere_is_refused(tmp_path):
    content = encode(Image.new("RGBA", (4, 4), (200, 30, 60, 0)), "PNG")
    assert_refused(tmp_path, content, "transparent everywhere")


def test_gray_with_alpha_is_laid_on_white(tmp_path):
    image = Image.new("LA", (2, 2), (100, 51))
    assert load_pixels(tmp_path, image)[0, 0].tolist() == [224] * 3  # 100 / 5 + 255 * 4 / 5


CMYK = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 200, 100, 0), (30, 60, 90, 120), (0, 0, 0, 255)]


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])  # Pillow writes Adobe's inverted JPEG
def test_cmyk_without_a_profile_takes_the_plain_formula(tmp_path, form):
    for ink in CMYK:
        image = Image.new("CMYK", (16, 16), ink)
        options = {"quality": 100} if form == "JPEG" else {}
        content = encode(image, form, **options)
        assert form == "TIFF" or b"Adobe" in content
        loaded = pixels_of(load_bytes(tmp_path, content))[8, 8]
        expected = [(255 - part) * (255 - ink[3]) / 255 for part in ink[:3]]
        assert np.abs(loaded - expected).max() <= 2


def test_a_cmyk_jpeg_without_the_mark_that_tells_its_sense_is_refused(tmp_path):
    content = encode(Image.new("CMYK", (16, 16), (10, 200, 30, 0)), "JPEG")
    bare = content.replace(b"Adobe", b"other", 1)
    assert bare != content
    assert_refused(tmp_path, bare, "is a CMYK JPEG that does not say whether it is inverted")


def test_cmyk_goes_through_its_profile(tmp_path):
    # A lut8 with two points an ink: magenta raises a, yellow b, and all but cyan lower L.
    grid = []
    for index in range(16):
        _, magenta, yellow, black = ((index >> shift) & 1 for shift in (3, 2, 1, 0))
        grid += [255 - 50 * magenta - 25 * yellow - 100 * black]
        grid += [128 + 20 * magenta, 128 + 20 * yellow]
    line = bytes(range(256))
    table = struct.pack(">BBBx", 4, 3, 2) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += line * 4 + bytes(grid) + line * 3
    profile = pack_profile(b"CMYK", b"Lab ", {**NAMES, b"A2B0": pack_tag(b"mft1", table)}, b"prtr")
    inks = {
        (0, 0, 0, 0): (255, 0, 0),
        (99, 255, 255, 0): (180, 20, 20),
        (0, 0, 0, 255): (155, 0, 0),
    }
    for ink, lab in inks.items():
        image = Image.new("CMYK", (16, 16), ink)
        loaded = load_pixels(tmp_path, image, "TIFF", icc_profile=profile)[8, 8]
        assert np.abs(loaded - lab_to_srgb(lab[0] / 2.55, *lab[1:])).max() <= 3


def lab_to_srgb(lightness, a, b):
    """CIE 15:2004, D50."""
    fy = (lightness + 16) / 116
    parts = np.array([fy + a / 500, fy, fy - b / 200])
    ratio = np.where(parts > 6 / 29, parts**3, 3 * (6 / 29) ** 2 * (parts - 4 / 29))
    return to_srgb(np.linalg.inv(SRGB_D50) @ (ratio * [0.9642, 1.0, 0.8249]))


def test_lab_tiffs_become_srgb(tmp_path):
    for lab in ((70, 20, 30), (50, 0, 0), (60, -30, 10)):
        stored = tuple(np.array([lab[0] * 2.55, lab[1] + 128, lab[2] + 128]).round().astype(int))
        image = Image.new("LAB", (4, 4), tuple(int(part) for part in stored))
        loaded = load_pixels(tmp_path, image, "TIFF")[0, 0]
        assert np.abs(loaded - lab_to_srgb(*lab)).max() <= 3
        by_the_book = np.array([[[round(lab[0] * 2.55), lab[1] % 256, lab[2] % 256]]], "u1")
        loaded = pixels_of(load_bytes(tmp_path, tiff_of(by_the_book, photometric=8)))[0, 0]
        assert np.abs(loaded - lab_to_srgb(*lab)).max() <= 3


def test_gray_of_16_bits_is_scaled_by_its_whole_range(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = gray_to_rgb(np.rint(values / 257))
    assert np.array_equal(pixels_of(load_bytes(tmp_path, png_of(values, 0))), expected)
    assert np.array_equal(load_pixels(tmp_path, Image.fromarray(values), "TIFF"), expected)
    pgm = b"P5 8 8 65535\n" + values.astype(">u2").tobytes()
    assert np.array_equal(pixels_of(load_bytes(tmp_path, pgm)), expected)


def test_signed_values_that_an_offset_made_unsigned_are_refused(tmp_path):
    values = np.linspace(31768, 33767, 64).astype(np.uint16).reshape(8, 8)
    reason = "has 16 bits but only values from 31768 to 33767, which would be almost one gray"
    assert_refused(tmp_path, png_of(values, 0), reason)
    named = tiff_of(values.astype("<u2"), range_tags=((340, 31700), (341, 33800)))
    assert pixels_of(load_bytes(tmp_path, named)).max() == 251


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_gray_of_fewer_bits_in_16_is_refused_where_no_tag_names_them(tmp_path, bits):
    values = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    reason = f"has 16 bits but no value above {2**bits - 1}, so fewer bits may be meant; convert"
    advice = "the whole set to 8 bits with one range, or"
    assert_refused(tmp_path, png_of(values, 0), f"{reason} {advice}")
    assert_refused(tmp_path, png_of(values, 0), "or name the bits in use in its sBIT chunk")
    assert_refused(tmp_path, tiff_of(values.astype("<u2")), reason)
    assert_refused(tmp_path, tiff_of(values.astype("<u2")), "SMinSampleValue and SMaxSampleValue")
    pgm = b"P5 8 8 65535\n" + values.astype(">u2").tobytes()
    assert_refused(tmp_path, pgm, reason)
    assert_refused(tmp_path, encode(Image.fromarray(values), "JPEG2000"), reason)
    black = pixels_of(load_bytes(tmp_path, png_of(values * 0, 0)))
    assert black.max() == 0  # by any range


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_two_scans_of_one_detector_come_out_at_one_brightness(tmp_path, bits):
    bright = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    for values in (bright, bright // 3 + 1):
        expected = gray_to_rgb(np.rint(values / (2**bits - 1) * 255))
        mark = (b"sBIT", bytes([bits]))
        assert np.array_equal(
            pixels_of(load_bytes(tmp_path, png_of(values, 0, 16, [mark]))), expected
        )
        tiff = tiff_of(values.astype("<u2"), range_tags=[(341, 2**bits - 1)])
        assert np.array_equal(pixels_of(load_bytes(tmp_path, tiff)), expected)
        pgm = b"P5 8 8 %d\n" % (2**bits - 1) + values.astype(">u2").tobytes()
        if bits > 8:
            assert np.abs(pixels_of(load_bytes(tmp_path, pgm)) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("way", ["shifted", "scaled"])
def test_a_png_that_is_scaled_up_as_its_standard_wants_is_not_scaled_again(tmp_path, bits, way):
    original = np.linspace(0, 2**bits - 1, 64).astype(int).reshape(8, 8)
    for values in (original, original // 2 ** (16 - bits)):  # the second has no value above 2**bits
        up = values << (16 - bits) if way == "shifted" else np.rint(values * 65535 / (2**bits - 1))
        content = png_of(up, 0, 16, [(b"sBIT", bytes([bits]))])
        if 0 < up.max() / 257 < 8:
            assert_refused(tmp_path, content, "like a mask")  # dark indeed
        else:
            assert np.array_equal(
                pixels_of(load_bytes(tmp_path, content)), gray_to_rgb(np.rint(up / 257))
            )


def test_tags_can_say_that_dark_values_are_dark(tmp_path):
    values = np.linspace(0, 9000, 64).astype(np.uint16).reshape(8, 8)
    expected = gray_to_rgb(np.rint(values / 257))
    content = png_of(values, 0, 16, [(b"sBIT", b"\x10")])
    assert np.array_equal(pixels_of(load_bytes(tmp_path, content)), expected)
    color = png_of(np.dstack([values] * 3), 2, 16, [(b"sBIT", b"\x10" * 3)])
    assert np.abs(pixels_of(load_bytes(tmp_path, color)) - expected).max() <= 1
    tiff = tiff_of(values.astype("<u2"), range_tags=[(341, 65535)])
    assert np.array_equal(pixels_of(load_bytes(tmp_path, tiff)), expected)
    pgm = b"P5 8 8 65534\n" + values.astype(">u2").tobytes()
    assert np.array_equal(pixels_of(load_bytes(tmp_path, pgm)), expected)


def test_a_tiff_of_12_packed_bits_is_scaled_by_12(tmp_path):
    values = np.array([[0, 100, 200, 4095], [7, 8, 900, 1000]])
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.dstack([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    rows = packed.reshape(2, 6).astype("u1")
    content = tiff_of(rows).replace(
        struct.pack("<HHII", 256, 3, 1, 6), struct.pack("<HHII", 256, 3, 1, 4)
    )
    content = content.replace(
        struct.pack("<HHII", 258, 3, 1, 8), struct.pack("<HHII", 258, 3, 1, 12)
    )
    expected = gray_to_rgb(np.rint(values / 4095 * 255))
    assert np.array_equal(pixels_of(load_bytes(tmp_path, content)), expected)


@pytest.mark.parametrize(
    ("values", "kind", "tags", "reason"),
    [
        ("<u2", 1, [(341, 200)], "beyond those of 0 to 200 that its SMaxSampleValue allows"),
        ("<u2", 1, [(341, 300)], "SMaxSampleValue of 300, just its own largest value"),
        ("<u2", 1, [(340, 9), (341, 9)], "has 9 to 9 as the range of its values"),
        ("<i2", 2, [(341, 4095)], "no tag says which are black and white"),
        ("<i2", 2, [(340, 100), (341, 4095)], "beyond those of 100 to 4095"),
    ],
)
def test_tags_that_say_nothing_or_the_wrong_thing_are_refused(tmp_path, values, kind, tags, reason):
    stored = np.array([[0, 100, 300]], values)
    assert_refused(tmp_path, tiff_of(stored, sample_format=kind, range_tags=tags), reason)


def test_a_mask_of_0_and_1_is_refused_and_one_of_0_and_255_is_read(tmp_path):
    mask = (PIXELS[..., 0] > 99).astype(np.uint8)
    for values in (mask, mask * 3, np.dstack([mask] * 3)):
        reason = f"has only the values 0 to {values.max()} of 255, like a mask; leave it out"
        for form in ("PNG", "TIFF", "BMP"):
            assert_refused(tmp_path, encode(Image.fromarray(values), form), reason)
    assert_refused(tmp_path, tiff_of(mask, photometric=0), "254 to 255 of 255, like a mask")
    assert load_pixels(tmp_path, Image.fromarray(mask * 255)).max() == 255
    assert load_pixels(tmp_path, Image.new("RGB", (4, 4))).max() == 0  # black is a color
    assert load_pixels(tmp_path, Image.new("L", (4, 4), 255)).min() == 255
    dark = Image.fromarray(PIXELS // 16)
    assert np.array_equal(load_pixels(tmp_path, dark), PIXELS // 16)


def test_a_strip_is_refused_with_its_size(tmp_path):
    for size in ((50, 3), (3, 50), (500, 1)):
        content = encode(Image.new("RGB", size, "pink"), "PNG")
        assert_refused(tmp_path, content, f"is a strip of {size[0]} x {size[1]} pixels")
    assert load_pixels(tmp_path, Image.new("RGB", (30, 3), "pink")).shape == (3, 30, 3)


def test_the_range_of_deep_images_is_said_once(tmp_path, said):
    _say_range.cache_clear()
    content = png_of(RNG.integers(0, 65536, (6, 5)), 0)
    for name in ("a", "b"):
        load_bytes(tmp_path, content, name)
    assert said == ["values of more than 8 bits: 0 is black and 65535 white, by all their 16 bits"]


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_color_of_16_bits_is_scaled_and_not_clipped(tmp_path, kind):
    values = RNG.integers(0, 65536, (6, 5, {2: 3, 4: 2, 6: 4}[kind]))
    if kind != 2:
        values[..., -1] = 65535  # opaque
    loaded = pixels_of(load_bytes(tmp_path, png_of(values, kind)))
    color = values[..., :1].repeat(3, 2) if kind == 4 else values[..., :3]
    assert np.abs(loaded - color / 257).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_color_of_fewer_bits_in_16_is_refused_for_pillow_drops_the_lower_bits(tmp_path, bits):
    values = RNG.integers(0, 2**bits, (6, 5, 3))
    values[0, 0] = 2**bits - 1
    reason = f"has 16 bits per color but no value above {2**bits - 1}, so fewer bits may be meant"
    assert_refused(tmp_path, png_of(values, 2), reason)
    opaque = np.dstack([values, np.full((6, 5), 65535)])
    assert_refused(tmp_path, png_of(opaque, 6), reason)
    assert_refused(tmp_path, png_of(opaque[..., 2:], 4), reason)
    assert_refused(tmp_path, png_of(values, 2, 16, [(b"sBIT", bytes([bits] * 3))]), reason)
    tiff = values.astype("<u2")
    assert_refused(tmp_path, tiff_of(tiff, photometric=2), reason)
    tagged = tiff_of(tiff, photometric=2, range_tags=[(341, 2**bits - 1)])
    assert_refused(tmp_path, tagged, "SMaxSampleValue other than 65535, which is not supported")
    ppm = b"P6 5 6 65535\n" + values.astype(">u2").tobytes()
    assert_refused(tmp_path, ppm, "has 16 bits per color but no value above")
    if bits > 8:
        ppm = b"P6 5 6 %d\n" % (2**bits - 1) + values.astype(">u2").tobytes()
        loaded = pixels_of(load_bytes(tmp_path, ppm))
        assert np.abs(loaded - values / (2**bits - 1) * 255).max() <= 1


def test_16_bits_with_a_transparent_color_are_refused(tmp_path):
    mark = (b"tRNS", struct.pack(">HHH", 300, 400, 500))
    content = png_of(RNG.integers(0, 65536, (4, 4, 3)), 2, 16, [mark])
    assert_refused(tmp_path, content, "transparent color")
    content = png_of(RNG.integers(0, 65536, (4, 4)), 0, 16, [(b"tRNS", struct.pack(">H", 9))])
    assert_refused(tmp_path, content, "transparent color")


def tiff_of(values, photometric=1, sample_format=1, planar=1, range_tags=()):
    """Write an uncompressed TIFF 6.0 of one strip (a plane each where planar is 2)."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    bits, order = values.dtype.itemsize * 8, ">" if values.dtype.byteorder == ">" else "<"
    planes = (
        [values[..., i].tobytes() for i in range(samples)] if planar == 2 else [values.tobytes()]
    )
    body, offsets = b"", []
    for plane in planes:
        offsets.append(8 + len(body))
        body += plane
    short, long = 3, 4
    entries = [
        (256, short, [width]), (257, short, [height]), (258, short, [bits] * samples),
        (259, short, [1]), (262, short, [photometric]), (273, long, offsets),
        (277, short, [samples]), (278, short, [height]), (279, long, [len(p) for p in planes]),
        (284, short, [planar]), (339, short, [sample_format] * samples),
        *((tag, 12, [number] * samples) for tag, number in range_tags),
    ]  # fmt: skip
    extra_at = 8 + len(body) + 2 + 12 * len(entries) + 4
    table, extra = struct.pack(order + "H", len(entries)), b""
    for tag, kind, numbers in entries:
        letter = {short: "H", long: "I", 12: "d"}[kind]
        data = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(data) > 4:
            where = struct.pack(order + "I", extra_at + len(extra))
            extra += data
        else:
            where = data.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, kind, len(numbers)) + where
    mark = b"MM\0*" if order == ">" else b"II*\0"
    head = mark + struct.pack(order + "I", 8 + len(body))
    return head + body + table + b"\0\0\0\0" + extra


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_16_bits_are_scaled_in_either_byte_order(tmp_path, order):
    gray = RNG.integers(0, 65536, (6, 5)).astype(order + "u2")
    loaded = pixels_of(load_bytes(tmp_path, tiff_of(gray)))
    assert np.array_equal(loaded, gray_to_rgb(np.rint(gray / 257)))
    color = RNG.integers(0, 65536, (6, 5, 3)).astype(order + "u2")
    loaded = pixels_of(load_bytes(tmp_path, tiff_of(color, photometric=2)))
    assert np.abs(loaded - color / 257.0).max() <= 1


def test_white_is_zero_is_turned_round_or_refused(tmp_path):
    gray = PIXELS[..., 0].copy()
    loaded = pixels_of(load_bytes(tmp_path, tiff_of(gray, photometric=0)))
    assert np.array_equal(loaded, gray_to_rgb(255 - gray.astype(int)))
    deep = gray.astype("<u2") * 257
    assert_refused(tmp_path, tiff_of(deep, photometric=0), "white as zero")
    assert_refused(tmp_path, tiff_of(deep.astype("<f4"), 0, 3), "white as zero")


def test_a_tiff_whose_strips_end_before_the_picture_does_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.new("L", (5, 6), 200).save(path)
    height = struct.pack("<HHII", 257, 4, 1, 6)
    assert path.read_bytes().count(height) == 1 and load_image(path).size == (5, 6)
    path.write_bytes(path.read_bytes().replace(height, struct.pack("<HHII", 257, 4, 1, 600)))
    with pytest.raises(ImageError, match="is truncated: its strips end before the image does"):
        load_image(path)


def test_tiffs_that_pillow_misreads_are_refused(tmp_path):
    color = RNG.integers(0, 65536, (6, 5, 3)).astype("<u2")
    assert_refused(tmp_path, tiff_of(color, photometric=2, planar=2), "separate planes")
    signed = RNG.integers(-128, 128, (6, 5)).astype("i1")
    assert_refused(tmp_path, tiff_of(signed, sample_format=2), "signed 8-bit")
    large = np.array([[2**31 + 5, 7]], "<u4")
    assert_refused(tmp_path, tiff_of(large), "above 2147483647")
    plain = PIXELS.copy()
    loaded = pixels_of(load_bytes(tmp_path, tiff_of(plain, photometric=2, planar=2)))
    assert np.array_equal(loaded, PIXELS)


@pytest.mark.parametrize(
    ("values", "kind", "low", "high"),
    [
        (np.array([[0, 3000]], "<u4"), 1, 0, 4095),
        (np.array([[100, 60000]], "<i4"), 2, 0, 65535),
        (np.array([[-100, 0, 300]], "<i2"), 2, -1024, 3071),
        (np.array([[-5, 100_000, 10]], "<i4"), 2, -5, 200_000),
        (np.array([[0.0, 128.0, 255.0]], "<f4"), 3, 0, 255),
        (np.array([[0.25, 0.5]], "<f4"), 3, 0, 0.75),
        (np.array([[-1.5, 0.0, 2.5]], "<f4"), 3, -2, 3),
        (np.array([[1e30, 3e30, 2e30]], "<f4"), 3, 1e30, 4e30),
    ],
    ids=str,
)
def test_integers_and_floats_are_scaled_by_the_range_that_is_named(
    tmp_path, values, kind, low, high
):
    content = tiff_of(values, sample_format=kind, range_tags=[(340, low), (341, high)])
    expected = np.rint((values.astype(float) - low) / (high - low) * 255)
    assert np.array_equal(pixels_of(load_bytes(tmp_path, content)), gray_to_rgb(expected))
    if low != 0 or high != 0.75:
        assert_refused(tmp_path, tiff_of(values, sample_format=kind), "with one range, or name the")


def test_floats_from_0_to_1_need_no_name(tmp_path):
    values = np.array([[0.0, 0.25, 0.5]], "<f4")
    loaded = pixels_of(load_bytes(tmp_path, tiff_of(values, sample_format=3)))
    assert np.array_equal(loaded, gray_to_rgb(np.rint(values * 255)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_are_refused(tmp_path, value):
    content = tiff_of(np.array([[0.5, value]], "<f4"), sample_format=3)
    assert_refused(tmp_path, content, "not finite")


def test_a_flat_image_is_no_division_by_zero(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value, gray in ((0.0, 0), (0.2, 51), (1.0, 255)):
            flat = np.full((2, 2), value, "<f4")
            loaded = pixels_of(load_bytes(tmp_path, tiff_of(flat, sample_format=3)))
            assert (loaded == gray).all()
        for value in (-3.0, 7.0):
            flat = np.full((2, 2), value, "<f4")
            assert_refused(tmp_path, tiff_of(flat, sample_format=3), "no tag says which are black")


def test_more_than_8_bits_with_a_profile_are_refused(tmp_path):
    image = Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000)
    content = encode(image, "PNG", icc_profile=gray_profile(1.0))
    assert_refused(tmp_path, content, "more than 8 bits and a color profile")


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PNG", "WEBP"])
def test_several_frames_are_refused(tmp_path, form):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    content = encode(frames[0], form, save_all=True, append_images=frames[1:])
    assert_refused(tmp_path, content, "has 3 frames")


def test_a_photo_with_previews_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (16, 16), (200, 40, 40)), Image.new("RGB", (8, 8), "blue")]
    content = encode(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    loaded = pixels_of(load_bytes(tmp_path, content))
    assert loaded.shape == (16, 16, 3)
    assert np.abs(loaded - [200, 40, 40]).max() <= 2


FORMS = {
    "PNG": {}, "JPEG": {}, "JPEG ": {"progressive": True}, "GIF": {}, "BMP": {}, "WEBP": {},
    "AVIF": {}, "JPEG2000": {}, "TIFF": {}, "TIFF ": {"compression": "tiff_lzw"},
    "TIFF  ": {"compression": "tiff_deflate"}, "PPM": {},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", FORMS)
def test_a_truncated_file_is_refused_and_never_half_a_picture(tmp_path, form):
    image = Image.fromarray(RNG.integers(0, 256, (32, 40, 3), dtype=np.uint8))
    content = encode(image, form.strip(), **FORMS[form])
    whole = pixels_of(load_bytes(tmp_path, content))
    refused = 0
    for share in np.linspace(0.01, 0.999, 25):
        try:
            loaded = load_bytes(tmp_path, content[: int(len(content) * share)])
        except ImageError:
            refused += 1
        else:  # what is missing holds no pixels
            assert np.array_equal(pixels_of(loaded), whole)
    assert refused >= 22


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", FORMS)
def test_flipped_bytes_never_raise_anything_but_an_image_error(tmp_path, form):
    image = Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    content = encode(image, form.strip(), **FORMS[form])
    for _ in range(40):
        broken = bytearray(content)
        for place in RNG.integers(0, min(len(content), 300), 3):
            broken[place] = RNG.integers(0, 256)
        try:
            pixels_of(load_bytes(tmp_path, bytes(broken)))
        except ImageError as error:
            assert str(error).startswith(str(tmp_path))


def test_what_is_no_image_is_refused(tmp_path):
    assert_refused(tmp_path, b"", "is empty")
    assert_refused(tmp_path, b"hello, I am text", "not an image of a known format", "a.png")
    assert_refused(tmp_path, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format")
    with pytest.raises(ImageError, match="nowhere.png: cannot be decoded: No such file"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="is not a file"):
        load_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is not a file"):
        load_image(tmp_path / "pipe.png")


def test_the_content_counts_and_not_the_ending(tmp_path):
    content = encode(Image.fromarray(PIXELS), "PNG")
    for name in ("a.jpg", "b.dcm", "c.txt", "d"):
        assert np.array_equal(pixels_of(load_bytes(tmp_path, content, name)), PIXELS)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    for side in (10_000, 60_000):
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        content = png_of(PIXELS, 2, 8).replace(struct.pack(">IIBBBBB", 9, 6, 8, 2, 0, 0, 0), head)
        at = content.index(b"IHDR")
        crc = struct.pack(">I", zlib.crc32(content[at : at + 17]))
        content = content[: at + 17] + crc + content[at + 21 :]
        assert_refused(tmp_path, content, "too many pixels")


@pytest.mark.parametrize("crop", ["center", "pad", "random"])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (1, 500), (500, 1), (7, 7)])
def test_any_shape_is_fitted_to_the_square(size, crop):
    fitted = fit_image(Image.new("RGB", size, (200, 30, 60)), 32, crop)
    assert fitted.size == (32, 32)
    assert (200, 30, 60) in [color for _, color in fitted.getcolors()]


def test_cropping_keeps_the_center_and_padding_keeps_all():
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, :32], wide[:, 32:64], wide[:, 64:] = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    image = Image.fromarray(wide)
    center = np.array(fit_image(image, 32))
    assert np.array_equal(center, wide[:, 32:64])
    left = np.array(fit_image(image, 32, "random", (0.0, 0.5)))
    assert np.array_equal(left, wide[:, :32])
    padded = np.array(fit_image(image, 96, "pad"))
    assert np.array_equal(padded[32:64], wide)
    assert padded[:32].max() == padded[64:].max() == 0


def test_an_image_of_the_right_size_is_not_touched_by_fitting():
    square = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for crop in ("center", "pad", "random"):
        assert np.array_equal(np.array(fit_image(Image.fromarray(square), 32, crop)), square)


def test_facts_come_back_from_the_text_chunk(tmp_path):
    facts = {"synthetic": True, "prompt": "µ 病変 \n \x00 🧬", "seed": 7, "guidance": 4.5}
    save_png(tmp_path / "a.png", Image.fromarray(PIXELS), facts)
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.text["medart"]) == facts
    assert np.array_equal(pixels_of(load_image(tmp_path / "a.png")), PIXELS)


def test_nothing_that_the_image_carries_is_saved(tmp_path):
    image = Image.fromarray(PIXELS)
    image.info = {"icc_profile": b"Jane Doe", "exif": b"Exif\0\0Jane Doe", "comment": "Jane Doe"}
    image.info |= {"dpi": (72, 72), "transparency": (1, 2, 3)}
    save_png(tmp_path / "a.png", image)
    content = (tmp_path / "a.png").read_bytes()
    chunks, at = [], 8
    while at < len(content):
        chunks.append(content[at + 4 : at + 8])
        at += 12 + struct.unpack(">I", content[at : at + 4])[0]
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}


def test_metadata_of_a_photo_is_not_copied(tmp_path):
    exif = Image.Exif()
    exif[0x013B] = "Jane Doe"
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Jane Doe")
    content = encode(Image.fromarray(PIXELS), "PNG", exif=exif, pnginfo=text)
    assert b"Jane Doe" in content
    save_png(tmp_path / "b.png", load_bytes(tmp_path, content), {})
    assert b"Jane" not in (tmp_path / "b.png").read_bytes()


FILL = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from PIL import Image
    from medart_cli.data.images import save_png
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        save_png(Path(sys.argv[1]), Image.fromarray(noise))
    except OSError as error:
        print(error.errno, error.strerror, error.filename == sys.argv[1])
"""


def test_a_full_disk_leaves_no_draft_and_the_old_file(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, Image.fromarray(PIXELS))
    before = path.read_bytes()
    command = [sys.executable, "-c", textwrap.dedent(FILL), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "27 File too large True\n"  # 27: EFBIG
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_png(tmp_path / "nowhere" / "a.png", Image.fromarray(PIXELS))


def test_images_are_tiled_row_by_row():
    colors = [(10, 0, 0), (20, 0, 0), (30, 0, 0)]
    sheet = np.array(tile_images([Image.new("RGB", (4, 3), c) for c in colors], columns=2, gap=1))
    assert sheet.shape == (7, 9, 3)
    assert (sheet[:3, :4] == colors[0]).all() and (sheet[:3, 5:] == colors[1]).all()
    assert (sheet[4:, :4] == colors[2]).all() and (sheet[4:, 5:] == 255).all()


def test_images_of_several_shapes_are_tiled_in_the_middle_of_their_cells():
    tiles = [Image.new("RGB", size, "black") for size in ((4, 2), (2, 4))]
    sheet = np.array(tile_images(tiles, columns=2, gap=1)).all(axis=2)
    assert sheet.shape == (4, 9)
    assert not sheet[1:3, :4].any() and sheet[0, :5].all() and sheet[3, :5].all()
    assert not sheet[:, 6:8].any() and sheet[:, 5].all() and sheet[:, 8].all()


@pytest.mark.skipif(not REAL.is_dir(), reason="no real images here")
def test_real_images_are_read():
    paths = sorted(REAL.rglob("*.jpg"))[:8]
    assert len(paths) == 8
    for path in paths:
        loaded = load_image(path)
        assert loaded.mode == "RGB" and min(loaded.size) > 16
        assert np.array(loaded).std() > 5


@pytest.mark.skipif(not CASES.is_dir(), reason="no cases here")
@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("c20_images/gray14_a_max_below_4096.png", "no value above 2865"),
        ("c20_images/gray14_b_one_pixel_4200.png", "no value above 4200"),
        ("c20_images/gray16_values8.png", "no value above 191"),
        ("c20_images/rgb16_values8.png", "no value above 255"),
        ("c20_images/mask_01.png", "only the values 0 to 1 of 255"),
        ("c20_images/w50_h3.png", "a strip of 50 x 3 pixels"),
        ("c30_dicom/window_all_black.dcm", "a window of 59950 to 60050 that shows nothing"),
        ("c30_dicom/nonsquare_aspect.dcm", (64, 128)),
        ("c30_dicom/us_jpeg_jfif_pi_RGB.dcm", [180, 118, 140]),
        ("c30_dicom/us_jpeg_nojfif_pi_RGB.dcm", [180, 118, 140]),
        ("c30_dicom/us_rgb.dcm", [180, 118, 140]),
    ],
)
def test_the_shared_cases_are_right_or_refused(name, right):
    if isinstance(right, str):
        with pytest.raises(ImageError, match=right):
            load_image(CASES / name)
    elif isinstance(right, tuple):
        assert load_image(CASES / name).size == right
        assert read_size(CASES / name) == right
    else:
        mean = pixels_of(load_image(CASES / name)).mean(axis=(0, 1))
        assert np.abs(mean - right).max() < 1  # the uncompressed one has the same
