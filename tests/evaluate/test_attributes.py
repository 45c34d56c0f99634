import numpy as np
import pytest

from medart_cli.data.profiles import read_profile
from medart_cli.evaluate.attributes import COLOR, SIZE, find_attributes, tabulate

SIMPLE = "A dermoscopic image of blue nevus"
SHAPE = "its shape, symmetry and border"
STRUCTURE = "dermoscopic structures such as network, dots, globules, streaks, blotches or veils"
VESSELS = "vessels if there are any"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A brown, asymmetric lesion.", {(COLOR, "brown"), (SHAPE, "asymmetr")}),
        ("It is large and greyish.", {(COLOR, "gray"), (SIZE, "large")}),
        ("A medium-sized, round spot.", {(SIZE, "medium"), (SHAPE, "round")}),
        ("No network. Without vessels or red areas.", set()),
        ("No globules. The network is fine.", {(STRUCTURE, "network")}),
        ("Arborizing vessels.", {(VESSELS, "vessel"), (VESSELS, "arboriz")}),
        ("", set()),
    ],
)  # fmt: skip
def test_a_text_has_the_attributes_that_it_says_are_there(text, wanted):
    assert find_attributes(text, SIMPLE, read_profile("dermoscopy")) == wanted


def test_the_class_is_no_attribute_wherever_the_template_stands():
    profile = read_profile("dermoscopy")
    for text in (f"{SIMPLE}.", f"Sure! Here it is: {SIMPLE.upper()}, as asked."):
        assert find_attributes(text, SIMPLE, profile) == set()
    assert (COLOR, "blue") in find_attributes(f"{SIMPLE}, blue.", SIMPLE, profile)


def test_colors_and_sizes_are_of_one_kind_whatever_the_profile_calls_theirs():
    profile = read_profile("phantom")
    text = "A phantom image of star patch. It is small and red, with a sharp border."
    found = find_attributes(text, "A phantom image of star patch", profile)
    assert found == {("size", "small"), ("color", "red"), ("border", "border")}


def test_british_and_american_texts_have_the_same_attributes():
    profile = read_profile("oct")
    texts = ("Macular oedema.", "Macular edema.")
    found = [find_attributes(text, "x", profile) for text in texts]
    assert found[0] == found[1] != set()


def test_a_table_says_which_text_names_which_attribute():
    one, two = ("color", "red"), ("size", "small")
    found = tabulate([{one}, set(), {one, two}], [one, two])
    np.testing.assert_array_equal(found, [[True, False], [False, False], [True, True]])
    assert tabulate([], [one]).shape == (0, 1) and tabulate([{one}], []).shape == (1, 0)
