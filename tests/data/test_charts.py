import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from medart_cli.data import charts
from medart_cli.data.charts import draw_calibration, draw_class_scores, draw_confusion, draw_roc

pytestmark = pytest.mark.charts

CHINESE = ("黑色素瘤", "痣", "基底细胞癌")
CURVE = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))


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
    assert four == (3 * one[0], 2 * one[1])


def test_darker_cells_hold_larger_shares(tmp_path):
    draw_confusion(tmp_path / "a.png", {"real": np.array([[9, 1], [5, 5]])}, ["ill", "well"])
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colors = {tuple(color) for color in pixels[(pixels[:, 2] > pixels[:, 0] + 30)].tolist()}
    assert len(colors) >= 2  # 0.9 and 0.5 are two blues


def test_many_classes_and_curves_still_fit(tmp_path):
    names = [f"class {i}" for i in range(30)]
    draw_confusion(tmp_path / "a.png", {"real": np.eye(30, dtype=np.int64)}, names)
    draw_roc(tmp_path / "b.png", {"real": dict.fromkeys(names, CURVE)})
    draw_calibration(tmp_path / "c.png", {"real": [(0.9, 0.8, 10)]})
    assert all(min(size_of(tmp_path / f"{name}.png")) > 300 for name in "abc")
    assert not list(tmp_path.glob(".*"))


def test_scores_of_classes_grow_with_the_classes_and_take_any_interval(tmp_path):
    heights = []
    for count in (2, 9):
        names = [f"a long name of class number {i} of them" for i in range(count)]
        one = {name: (0.5, 0.4, 0.7) for name in names} | {names[0]: (1.0, 1.0, 1.0)}
        path = tmp_path / f"{count}.png"
        draw_class_scores(path, {"AUROC": {"real": one, "mix": one}}, dict.fromkeys(names, 7))
        heights.append(size_of(path)[1])
        assert path.with_suffix(".svg").is_file()
    assert heights[1] > 2 * heights[0]


@pytest.fixture
def said(said, monkeypatch):
    monkeypatch.setattr(charts, "_SAID", set())
    return said


def draw_named(folder, names):
    """Draw the charts that hold names of classes, with every warning as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(folder / "a.png", {"real": np.eye(len(names), dtype=np.int64)}, names)
        draw_roc(folder / "b.png", {"real": dict.fromkeys(names, CURVE)})


def build_font(path, letters):
    """Write a font in which each of the letters is one black square."""
    pen = TTGlyphPen(None)
    for place, point in enumerate([(0, 0), (0, 900), (900, 900), (900, 0)]):
        (pen.lineTo if place else pen.moveTo)(point)
    pen.closePath()
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): f"uni{ord(letter):04X}" for letter in letters})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=900)
    font.setupPost()
    font.save(path)
    return path


def test_letters_that_no_font_has_are_said_in_one_line(tmp_path, said, monkeypatch):
    usual = [font for font in fontManager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(fontManager, "ttflist", usual)
    draw_named(tmp_path, CHINESE)
    assert len(said) == 1 and "\n" not in said[0]
    assert "no font on this machine has the letters " in said[0] and "痣" in said[0]
    draw_named(tmp_path, ["痣", "nevus"])
    assert len(said) == 1


def test_a_font_that_has_the_letters_is_taken(tmp_path, said, monkeypatch):
    monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist])
    fontManager.addfont(build_font(tmp_path / "squares.ttf", {*"".join(CHINESE)}))
    assert charts.find_fonts({*"痣n"}) == (["sans-serif", "Squares"], set())
    draw_named(tmp_path, CHINESE)
    assert said == []


def test_names_are_no_formulas_and_german_and_greek_need_no_other_font(tmp_path, said):
    draw_named(tmp_path, ["$\\frac{", "5$ to 10$", "Müller & Söhne", "β-cells"])
    assert said == []
