import pytest

from medart_cli.caption.mentions import Mention, find_mentions, is_code, is_finding
from medart_cli.data.classes import ClassWords
from medart_cli.data.profiles import read_profile


def named(text, own, *others):
    classes = {name: ClassWords(name) for name in others}
    return [item.name for item in find_mentions(text, own, classes)]


def test_a_class_is_found_in_any_form_of_writing_and_only_as_a_whole():
    others = ["seborrheic keratosis", "melanoma"]
    assert named("like Melanomas", ["nevus"], *others) == ["melanoma"]
    assert named("a seborrheic_keratosis", ["nevus"], *others) == ["seborrheic keratosis"]
    assert named("seborrhoeic keratoses", ["nevus"], *others) == ["seborrheic keratosis"]
    assert named("with melanomatous spots", ["nevus"], *others) == []


@pytest.mark.parametrize(
    ("plural", "label"),
    [("nevi", "nevus"), ("biopsies", "biopsy"), ("bacteria", "bacterium"), ("polyp", "polyps"),
     ("fibromata", "fibroma"), ("bullae", "bulla"), ("carcinomas", "carcinoma"),
     ("metastases", "metastasis"), ("tumour", "tumor"), ("Barrett's", "barretts"),
     ("BCCs", "BCC"), ("oesophagitis", "esophagitis")],
)  # fmt: skip
def test_plurals_and_spellings_of_a_class_are_the_class(plural, label):
    assert named(f"It shows {plural} here.", ["other thing"], label) == [label]


def test_the_longest_name_counts():
    both = ("polyp", "hyperplastic polyp")
    assert named("a hyperplastic polyp", ["adenoma"], *both) == ["hyperplastic polyp"]
    assert named("a polyp", ["adenoma"], *both) == ["polyp"]
    assert named("a hyperplastic polyp", ["hyperplastic polyp"], "polyp") == []
    assert named("a hyperplastic polyp", ["polyp"], "hyperplastic polyp") == ["hyperplastic polyp"]


def test_a_part_of_the_own_label_is_not_another_class():
    assert named("a nevus, brown", ["dysplastic nevus"], "nevus") == []
    assert named("nevi and polyps", ["dysplastic nevus"], "nevus", "polyp") == ["polyp"]
    assert named("polyps near polyps", ["polyp"], "dyed lifted polyps") == []


@pytest.mark.parametrize("code", ["BE", "AK", "IT", "NO", "BCC"])
def test_a_code_is_no_word_of_a_sentence(code):
    text = f"It can be seen that no spot is like it; ak, bcc, {code.lower()}, {code.title()}."
    assert named(text, ["nevus"], code) == []
    assert named(f"Signs of {code} here.", ["nevus"], code) == [code]


def test_small_codes_and_short_words_count_as_they_are_written():
    assert named("to be or not, as an eye", ["nevus"], "be", "as", "an", "or", "eye") == []
    assert named("a mel at the edge", ["nevus"], "mel", "nv") == ["mel"]
    assert named("MEL", ["nevus"], "mel") == []
    assert is_code("mel") and is_code("BCC") and not is_code("VASC") and not is_code("a b")


def test_everyday_words_and_numbers_are_no_class():
    others = ["normal", "1", "2", "BACK", "Background", "left"]
    assert named("in 1 of 2 areas of normal skin at the back, left", ["melanoma"], *others) == []
    assert named("a grade2 spot", ["grade1"], "grade2") == ["grade2"]


def test_synonyms_of_other_classes_count_and_own_ones_do_not():
    others = {"mel": ClassWords("melanoma", ("malignant melanoma", "black cancer"))}
    found = find_mentions("a Black Cancer", ["nevus"], others)
    assert found == [Mention("melanoma", negated=False)]
    assert find_mentions("a mole or nevi", ["nevus", "mole"], {"m": ClassWords("mole")}) == []


def test_a_class_that_is_said_not_to_be_there_is_told_from_one_that_is():
    drusen = {"DRUSEN": ClassWords("drusen"), "CNV": ClassWords("CNV")}
    assert find_mentions("No fluid, exudate or drusen.", [], drusen) == [Mention("drusen", True)]
    assert find_mentions("No fluid. Drusen.", [], drusen) == [Mention("drusen", False)]
    assert find_mentions("No drusen; CNV; drusen.", [], drusen) == [
        Mention("drusen", False), Mention("CNV", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "label", "yes"),
    [("oct", "DRUSEN", True), ("oct", "CNV", False), ("oct", "macular edema", True),
     ("histopathology", "complex stroma", True), ("histopathology", "inflammation", True),
     ("histopathology", "adenocarcinoma", False), ("endoscopy", "ulcers", True),
     ("endoscopy", "polyp", False), ("blood-smear", "platelet", True),
     ("blood-smear", "immature_granulocyte", False), ("radiograph", "Lung_Opacity", True),
     ("radiograph", "pneumonia", False), ("generic", "border", True), ("generic", "nevus", False)],
)  # fmt: skip
def test_what_a_profile_lists_or_asks_for_is_a_finding(profile, label, yes):
    held = read_profile(profile)
    words = held.word_class(label)
    assert is_finding(words, held.findings, " ".join(held.attributes)) is yes
