"""The judge of the tiny models counts rightly; the models in the package do what they are for."""

import json
from dataclasses import replace
from importlib import resources

import pytest

from medart_cli.models.bases import find_base, is_demonstration
from medart_cli.models.captioner import find_captioner
from medart_cli.tiny.dataset import choose_phantoms, compare_captions

PACKAGED = resources.files("medart_cli") / "tiny"


def test_right_captions_score_one_and_wrong_words_are_counted():
    phantoms = choose_phantoms("shifted", per_label=5, seed=0)
    texts = [item.caption() for item in phantoms]
    assert set(compare_captions(texts, phantoms).values()) == {1.0}
    other = {"sharp": "blurred", "blurred": "sharp"}
    texts[0] = replace(phantoms[0], border=other[phantoms[0].border]).caption()
    found = compare_captions(texts, phantoms)
    assert found["border"] == found["all"] == pytest.approx(0.95)
    assert found["color"] == 1.0


def test_a_simple_caption_tells_nothing():
    phantoms = choose_phantoms("base", per_label=1, seed=0)
    assert set(compare_captions(["A phantom image of star patch."] * 9, phantoms).values()) == {0.0}


def test_the_packaged_models_are_small_and_were_measured():
    figures = json.loads((PACKAGED / "figures.json").read_text())
    files = [path for kind in ("base", "captioner") for path in (PACKAGED / kind).rglob("*")]
    assert 1e6 < sum(path.stat().st_size for path in files) < 25e6
    assert figures["prompt_followed"] >= 0.85
    assert figures["captions"]["base"]["all"] >= 0.85
    assert figures["captions"]["shifted"]["all"] >= 0.85


def test_tiny_names_the_packaged_models():
    assert find_base("tiny") == PACKAGED / "base"
    assert find_captioner("tiny") == PACKAGED / "captioner"
    assert is_demonstration(find_base("tiny"))
