import numpy as np
import pytest
from PIL import Image

from medart_cli.caption.grounding import (
    RANGES,
    find_absent,
    flag_disagreements,
    measure_colors,
    measure_mask,
)
from medart_cli.data.manifest import Record

PAINTS = {
    "black": (20, 18, 18), "white": (250, 250, 248), "gray": (128, 128, 130),
    "brown": (110, 70, 45), "tan": (200, 165, 130), "red": (180, 40, 40), "pink": (230, 160, 165),
    "orange": (235, 140, 50), "yellow": (240, 220, 80), "green": (60, 150, 80),
    "blue": (50, 80, 170), "purple": (110, 50, 140),
}  # fmt: skip
BARE = Record({"file_name": "a.png"}, None, "m:1")


def paint(color, spot=None, size=200):
    image = Image.new("RGB", (size, size), PAINTS[color])
    if spot is not None:
        image.paste(PAINTS[spot], (90, 90, 110, 110))
    return image


@pytest.mark.parametrize("color", RANGES)
def test_a_color_is_seen_where_it_is_and_not_where_none_like_it_is(color):
    text = f", a {color} spot."
    assert find_absent(text, paint(color)) == []
    other = "green" if color not in ("green", "blue") else "orange"
    assert find_absent(text, paint(other)) == [color]
    assert find_absent(text, paint(other, spot=color)) == []  # 1 % of the image is enough


@pytest.mark.parametrize(
    ("color", "lab"),
    [  # of the sRGB primaries with D65, as tables of color science print them
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 255), (100, 0, 0)),
    ],
)
def test_colors_are_those_of_published_tables(color, lab):
    found = measure_colors(Image.new("RGB", (4, 4), color))
    assert found[0, 0] == pytest.approx(lab, abs=0.02)


def test_images_are_shrunk_before_they_are_measured():
    assert measure_colors(Image.new("RGB", (400, 200))).shape == (64, 128, 3)


def test_the_background_is_looked_for_at_the_edges():
    image = paint("pink", spot="blue")
    assert find_absent("a blue spot on a pink background", image) == []
    assert find_absent("on a blue background", image) == ["blue"]


def test_a_mixture_is_seen_relative_to_the_image():
    image = Image.new("RGB", (200, 200), (200, 150, 110))
    image.paste((112, 108, 108), (50, 50, 150, 150))  # a gray that is blue beside tan
    assert find_absent("a blue spot", image) == ["blue"]
    assert find_absent("a bluish spot", image) == []
    assert find_absent("a blue-gray spot", image) == []
    assert find_absent("a greenish spot", image) == ["greenish"]


def test_the_class_is_no_color_of_the_image():
    simple = "A dermoscopic image of blue lentigo"
    flags = flag_disagreements(f"{simple}, green and brown.", simple, paint("brown"), BARE)
    assert flags == ["says green, but hardly any of the image is"]
    assert flag_disagreements(simple, simple, paint("brown"), BARE) == []


def build_row(folder, **fields):
    return Record({"file_name": "a.png", "label": "colon_polyp", **fields}, folder, "m:1")


def check(text, row):
    return flag_disagreements(f"An image of colon polyp, {text}", "An image of colon polyp",
                              paint("pink"), row)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("two sessile polyps.", []),
        ("three round pink polyps.", ["says three, and its count is 2"]),
        ("a single polyp.", ["says single, and its count is 2"]),
        ("one large, pink lesion.", ["says one, and its count is 2"]),
        ("one of the polyps, with five folds and three red blood cells.", []),
    ],
)
def test_a_number_is_held_against_the_count(tmp_path, text, flags):
    assert check(text, build_row(tmp_path, count=2)) == flags
    assert check(text, build_row(tmp_path)) == []
    assert check(text, build_row(tmp_path, count="many")) == []


def test_sizes_and_numbers_are_held_against_the_mask(tmp_path):
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[10:20, 10:20] = mask[50:60, 50:60] = 255
    mask[90, 90] = 1  # a speck is no object
    Image.fromarray(mask).save(tmp_path / "m.png")
    row = build_row(tmp_path, mask="m.png")
    assert measure_mask(tmp_path, "m.png") == (0.0201, 2)
    assert check("two small polyps.", row) == []
    assert check("one large polyp.", row) == [
        "says large, and its mask is 2.0% of the image", "says one, and its count is 2",
    ]  # fmt: skip
    assert check("one large polyp.", build_row(tmp_path, mask="m.png", count=1)) == [
        "says large, and its mask is 2.0% of the image"
    ]
    Image.fromarray(np.full((10, 10, 3), 255, dtype=np.uint8)).save(tmp_path / "m.png")
    assert check("a small polyp with large vessels.", row) == [
        "says small, and its mask is 100.0% of the image"
    ]


@pytest.mark.parametrize("name", ["none.png", "../m.png", "broken.png", "/m.png"])
def test_a_mask_that_cannot_be_read_is_said(tmp_path, name):
    (tmp_path / "data").mkdir()
    Image.new("L", (4, 4), 255).save(tmp_path / "m.png")
    (tmp_path / "data" / "broken.png").write_bytes(b"x")
    assert check("a polyp.", build_row(tmp_path / "data", mask=name)) == ["its mask cannot be read"]
