import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from medart_cli.metrics.copies import describe_layout
from medart_cli.metrics.duplicates import find_repeats, find_same

CPU = torch.device("cpu")


def draw_picture(seed):
    """A dark spot of many colors on a bright ground, in a round view."""
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    image = noise.resize((128, 128), Image.Resampling.BICUBIC)
    ground = Image.new("RGB", (128, 128), (230, 200, 180))
    spot = Image.new("L", (128, 128))
    ImageDraw.Draw(spot).ellipse((30, 34, 100, 96), fill=150)
    image = Image.composite(image, ground, spot.filter(ImageFilter.GaussianBlur(4)))
    view = Image.new("L", (128, 128))
    ImageDraw.Draw(view).ellipse((-12, -12, 140, 140), fill=255)
    return Image.composite(image, Image.new("RGB", (128, 128)), view)


def compress(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


CHANGES = {
    "the same": lambda image: image,
    "JPEG": compress,
    "larger": lambda image: image.resize((200, 200), Image.Resampling.BICUBIC),
    "smaller": lambda image: image.resize((60, 60), Image.Resampling.LANCZOS),
    "other proportions": lambda image: image.resize((150, 100), Image.Resampling.BICUBIC),
    "brighter": lambda image: image.point(lambda value: value * 1.1),
    "mirrored": ImageOps.mirror,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def describe(images):
    return np.stack([describe_layout(image).numpy() for image in images])


def collect(parts):
    return [
        (row, column)
        for rows, columns, _ in parts
        for row, column in zip(rows, columns, strict=True)
    ]


@pytest.fixture(scope="module")
def pictures():
    return [draw_picture(seed) for seed in range(40)]


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_picture_in_other_bytes_is_found(pictures, name):
    changed = describe([CHANGES[name](image) for image in pictures[10:18]])
    found = list(find_same(changed, describe(pictures), CPU))
    assert collect(found) == [(row, row + 10) for row in range(8)]
    assert all((likeness >= 0.97).all() for _, _, likeness in found)


def test_pictures_with_the_same_ground_and_view_are_not_the_same(pictures):
    assert collect(find_repeats(describe(pictures), CPU)) == []


def test_a_repeat_is_found_once_also_in_another_block_and_flat_pictures_are_none(pictures):
    random = np.random.default_rng(0)
    layouts = random.random((2600, 48 * 48), dtype=np.float32)
    layouts[2500] = layouts[3]
    layouts[700] = layouts[690].reshape(48, 48)[:, ::-1].ravel()
    layouts[5] = layouts[6] = 0.5
    assert sorted(collect(find_repeats(layouts, CPU))) == [(700, 690), (2500, 3)]
    assert collect(find_same(layouts[:1] * 0, layouts * 0, CPU)) == []
