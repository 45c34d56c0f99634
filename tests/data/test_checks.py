import pytest
from PIL import Image

from medart_cli.data.checks import has_mark
from medart_cli.data.images import save_png


@pytest.fixture
def files(tmp_path):
    image = Image.new("RGB", (8, 8), "pink")
    save_png(tmp_path / "drawn.png", image, {"synthetic": True})
    save_png(tmp_path / "plain.png", image)
    save_png(tmp_path / "phantom.png", image, {"phantom": True})
    image.save(tmp_path / "photo.jpg")
    (tmp_path / "torn.png").write_bytes((tmp_path / "drawn.png").read_bytes()[:20])
    return tmp_path


def test_the_mark_is_in_the_file_of_a_drawn_image_alone(files):
    marked = [path.name for path in sorted(files.iterdir()) if has_mark(path)]
    assert marked == ["drawn.png"]
    assert not has_mark(files / "missing.png")
