import numpy as np
from PIL import Image

from medart_cli.data.charts import draw_calibration, draw_confusion, draw_roc


def size_of(path):
    with Image.open(path) as image:
        image.load()
        return image.size


def test_each_regime_gets_a_panel(tmp_path):
    table = np.array([[8, 2], [0, 0]])
    for count in (1, 2, 4):
        draw_confusion(
            tmp_path / f"{count}.png", {str(i): table for i in range(count)}, ["ill", "well"]
        )
    one, two, four = (size_of(tmp_path / f"{count}.png") for count in (1, 2, 4))
    assert two == (2 * one[0], one[1])
    assert four == (2 * one[0], 2 * one[1])


def test_darker_cells_hold_larger_shares(tmp_path):
    draw_confusion(tmp_path / "a.png", {"real": np.array([[9, 1], [5, 5]])}, ["ill", "well"])
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colors = {tuple(color) for color in pixels[(pixels[:, 2] > pixels[:, 0] + 30)].tolist()}
    assert len(colors) >= 2  # 0.9 and 0.5 are two blues


def test_many_classes_and_curves_still_fit(tmp_path):
    names = [f"class {i}" for i in range(30)]
    draw_confusion(tmp_path / "a.png", {"real": np.eye(30, dtype=np.int64)}, names)
    curve = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    draw_roc(tmp_path / "b.png", {"real": dict.fromkeys(names, curve)})
    draw_calibration(tmp_path / "c.png", {"real": [(0.9, 0.8, 10)]})
    assert all(min(size_of(tmp_path / f"{name}.png")) > 300 for name in "abc")
    assert not list(tmp_path.glob(".*"))
