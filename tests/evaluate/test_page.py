import io

import numpy as np
import pytest
from PIL import Image

from medart_cli.evaluate.page import (
    distance_names,
    draw_distances,
    draw_histograms,
    format_comparison,
    format_floor,
    format_short,
    head_comparison,
    head_floor,
    head_short,
)
from medart_cli.evaluate.verdict import find_close, tell_closeness
from medart_cli.metrics.comparison import Effort, compare_features

pytestmark = pytest.mark.charts


def build_comparison(count=30, **place):
    random = np.random.default_rng(0)
    real, synthetic = random.normal(size=(count, 5)), random.normal(size=(count, 5))
    found = compare_features(real, synthetic, [str(i) for i in range(count)], Effort(bootstrap=20))
    return {"set": "syn", "features": "dinov2", "label": None} | place | found


def test_only_inception_distances_are_called_fid():
    assert distance_names("inception")["frechet"] == "FID"
    for name in ("efficientnet-lite0", "dinov2", "runs/inception-like"):
        names = distance_names(name)
        assert "FID" not in names["frechet"] and "KID" not in names["kernel"]
        assert "not FID" in names["title"]


def test_rows_have_a_cell_for_each_head():
    network = distance_names("dinov2")
    for count in (2, 30):
        item = build_comparison(count, label="nevus")
        assert len(format_comparison(item)) == len(head_comparison(network))
        assert len(format_short(item)) == len(head_short(network))
        assert len(format_floor(item)) == len(head_floor(network))
        assert format_comparison(item)[0] == format_floor(item)[0] == "syn: nevus"
    assert format_comparison(build_comparison(2))[5] == "-"
    assert set(format_floor(build_comparison(2))[1:]) == {"-"}


def test_a_value_at_infinite_n_is_marked_up_to_three_times_the_width():
    cells = {count: format_comparison(build_comparison(count))[4] for count in (25, 31)}
    network = build_comparison(25)
    assert network["width"] == 5 and not any(cell.startswith("<") for cell in cells.values())
    item = build_comparison(30) | {"width": 10}
    assert format_comparison(item)[4].startswith("< ")


def test_a_set_that_is_too_close_is_marked_and_the_sentence_says_why():
    random = np.random.default_rng(0)
    real = random.normal(size=(30, 5))
    place = {"set": "syn", "features": "dinov2", "label": None}
    item = place | compare_features(real, real, np.arange(30), Effort(bootstrap=20))
    honest = build_comparison(label="nevus")
    facts = {"features": [{"name": "dinov2"}], "comparisons": [item, honest]}
    assert format_short(item)[0] == format_comparison(item)[0] == "syn !"
    assert format_short(honest)[0] == "syn: nevus"
    assert format_comparison(item)[4].endswith(" !") and "±" in format_comparison(honest)[4]
    assert find_close(facts) == {"syn": ["all images together"]}
    (line,) = tell_closeness(facts)
    assert line.startswith("syn: suspected of copies (all images together): closer to the real")


def test_the_kernel_distance_by_patient_is_named_so():
    item = build_comparison()
    random = np.random.default_rng(0)
    features = random.normal(size=(30, 5))
    for count, ending in ((6, " by patient"), (3, None)):
        patients = np.arange(30) % count, np.arange(30)
        found = compare_features(
            features, features + 1, np.arange(30), Effort(bootstrap=0), patients=patients
        )
        cell = format_comparison(item | found)[5]
        assert cell.endswith(ending) if ending else "±" not in cell


def draw(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def test_a_plot_shows_each_comparison():
    one = draw(draw_distances([build_comparison()], "FID"))
    many = draw(draw_distances([build_comparison(), build_comparison(label="a")] * 4, "FID"))
    assert many.height > one.height and len(np.unique(np.asarray(many).reshape(-1, 3), axis=0)) > 10


def test_histograms_are_drawn_for_each_set():
    shares = np.full((4, 256), 1 / 256)
    figure = draw_histograms({"real": shares, "syn": shares})
    assert len(figure.axes) == 4 and all(len(axes.lines) == 2 for axes in figure.axes)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 1)
    assert draw(figure).width > 400
