import pytest

from medart_cli.caption.grounding import RANGES
from medart_cli.data.descriptors import COLOR_NAMES, HEDGED, SIZE_WORDS, WORDS, find_claims


def said(text):
    return [(claim.said, claim.colors) for claim in find_claims(text)]


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("A brown lesion with a black dot.", [("brown", ("brown",)), ("black", ("black",))]),
        ("A bluish-gray veil", [("bluish-gray", ("blue", "gray"))]),
        ("reddish brown, then grey", [("reddish brown", ("red", "brown")), ("grey", ("gray",))]),
        ("violet nuclei", [("violet", ("purple",))]),
        ("No blue or white structures. Brown dots.", [("brown", ("brown",))]),
        ("without red areas, but with pink ones", [("pink", ("pink",))]),
        ("blue areas are absent", []),
        ("next to red blood cells and white blood cells", []),
        ("gray matter, a grayscale image in black-and-white", []),
        ("uncolored, redder, Greenland, a blueprint", []),
        ("The lesion is round.", []),
    ],
)
def test_words_say_which_colors_are_claimed(text, claims):
    assert said(text) == claims


def test_each_word_for_a_color_means_colors_that_can_be_looked_for_in_an_image():
    assert {*COLOR_NAMES} == RANGES.keys()
    assert {name for names in WORDS.values() for name in names} == {*COLOR_NAMES}
    assert {*HEDGED.values()} <= {*COLOR_NAMES}
    assert {*SIZE_WORDS.values()} == {"small", "large"}
