import numpy as np
import pytest
from PIL import Image

from medart_cli.data.masks import read_mask
from medart_cli.errors import ImageError

MARKED = np.zeros((6, 8), dtype=bool)
MARKED[1:4, 2:7] = True


def save(folder, picture, name="mask.png", **options):
    picture.save(folder / name, **options)
    return read_mask(folder, name)


@pytest.mark.parametrize("value", [1, 7, 255])
def test_whatever_is_not_zero_is_marked(tmp_path, value):
    values = MARKED.astype(np.uint8) * value
    assert (save(tmp_path, Image.fromarray(values)) == MARKED).all()
    assert (save(tmp_path, Image.fromarray(values.astype(np.uint16))) == MARKED).all()
    assert (save(tmp_path, Image.fromarray(MARKED)) == MARKED).all()


def test_a_color_is_marked_where_any_channel_is_and_alpha_says_nothing(tmp_path):
    values = np.zeros((6, 8, 4), dtype=np.uint8)
    values[MARKED, 2], values[..., 3] = 9, 255
    assert (save(tmp_path, Image.fromarray(values)) == MARKED).all()
    assert (save(tmp_path, Image.fromarray(values[..., 2:])) == MARKED).all()  # gray and alpha
    palette = Image.fromarray(MARKED.astype(np.uint8)).convert("P")
    palette.putpalette([255, 255, 255, 0, 0, 0])
    assert (save(tmp_path, palette) == MARKED).all()  # index 0 is background, whatever its color


def test_the_noise_of_a_jpeg_beside_an_edge_is_not_marked(tmp_path):
    marked = np.zeros((64, 64), dtype=bool)
    marked[13:40, 21:50] = True
    picture = Image.fromarray(marked.astype(np.uint8) * 255)
    found = save(tmp_path, picture, "mask.jpg", quality=60)
    assert (np.asarray(Image.open(tmp_path / "mask.jpg"))[~marked] > 0).any()
    assert (found != marked).mean() < 0.005


def test_a_mask_is_upright_as_its_image_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(MARKED.astype(np.uint8))
    assert (save(tmp_path, picture, exif=exif) == np.rot90(MARKED, -1)).all()


def test_what_is_no_mask_is_told(tmp_path):
    (tmp_path / "inside").mkdir()
    Image.fromarray(MARKED).save(tmp_path / "mask.png")
    (tmp_path / "inside" / "text.png").write_text("no image")
    frames = [Image.fromarray(MARKED) for _ in range(2)]
    frames[0].save(tmp_path / "inside" / "two.tif", save_all=True, append_images=frames[1:])
    for name, told in (
        ("../mask.png", r"mask \.\./mask.png: is outside "),
        ("gone.png", "mask gone.png: cannot be read: No such file"),
        ("text.png", "mask text.png: cannot be read: cannot identify"),
        ("two.tif", "mask two.tif: has several frames"),
    ):
        with pytest.raises(ImageError, match=told):
            read_mask(tmp_path / "inside", name)
