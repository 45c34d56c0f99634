import pytest

from medart_cli.caption.claims import (
    given_advice,
    hinted_diagnosis,
    made_diagnosis,
    stated_measures,
    stated_person,
)


@pytest.mark.parametrize(
    "text",
    ["a 45-year-old", "a 7 month old", "sixty-three-year-old", "a 71 y/o", "aged 45", "age: 60",
     "in her forties", "his late 50s", "an elderly woman", "a young patient", "an older adult",
     "a male patient", "female infant", "the patient is male", "a man", "two women", "he has",
     "She shows", "his arm", "of Caucasian skin", "an African-American", "Mr. Smith", "Dr Who",
     "an adult male", "patient name", "MRN 123", "on 03/11/2019", "2019-11-03", "March 2020",
     "3rd of May"],
)  # fmt: skip
def test_age_sex_names_and_dates_are_nothing_an_image_shows(text):
    assert stated_person(f"A brown spot, {text}, round.", ()) is not None


@pytest.mark.parametrize(
    "text",
    ["hair in a male pattern", "a male connector", "an old scar", "aged paper", "damaged 45 cells",
     "in stage 3", "a mandible", "a man-made clip", "HE and H&E stain", "the bundle of His",
     "follicular openings", "older blood", "10/12/14 dots", "a young lesion", "3 rows of 20",
     "of human skin", "year rings", "a latin letter", "at 90 ms. The", "the lady-bug", "May be"],
)  # fmt: skip
def test_words_that_only_look_like_a_person_are_none(text):
    if text == "the lady-bug":
        text = "a lady-bug"
    assert stated_person(f"A brown spot, {text}, round.", ()) is None


def test_what_the_context_of_the_row_told_is_not_made_up():
    assert stated_person("a 60-year-old", ["Age 60, f."]) is None
    assert stated_person("a 61-year-old", ["Age 60, f."]) == "61-year-old"
    assert stated_person("a woman", ["Age 60, woman."]) is None
    assert stated_person("the patient is male", ["This patient is old."]) == "patient is male"


@pytest.mark.parametrize(
    "text",
    ["It should be biopsied.", "It must be examined", "needs to be carefully monitored",
     "We recommend excision", "is advisable", "warrants a biopsy", "requires further evaluation",
     "for further investigation", "Follow-up in a year", "followup", "Seek medical advice",
     "see a dermatologist", "A consultation is wise", "a referral", "medical attention",
     "A biopsy may be needed", "clinical correlation", "correlate clinically"],
)  # fmt: skip
def test_what_is_to_be_done_is_advice(text):
    assert given_advice(text) is not None


@pytest.mark.parametrize(
    "text",
    ["can be seen at the edge", "could be counted", "should be round", "biopsy forceps",
     "a treated area", "a monitor in the background", "the vessels follow the fold",
     "further to the left", "the image requires no more light", "a refraction", "needle marks",
     "often referred to as a veil", "magnified for closer inspection"],
)  # fmt: skip
def test_what_is_seen_is_no_advice(text):
    assert given_advice(text) is None


@pytest.mark.parametrize(
    ("text", "own"),
    [("consistent with early melanoma", ["nevus"]), ("suggestive of squamous cell carcinoma", []),
     ("possibly a dermatitis", ["nevus"]), ("may be psoriasis", ["eczema"]),
     ("indicative of pneumonia", ["normal"]), ("malignant features", ["normal"]),
     ("an adenocarcinoma", ["normal mucosa"]), ("with metastases", ["nevus"]),
     ("Differential diagnosis: keratoacanthoma", ["nevus"])],
)  # fmt: skip
def test_a_disease_besides_the_label_is_a_diagnosis(text, own):
    assert made_diagnosis(f"A spot, {text} here.", own, ()) is not None


@pytest.mark.parametrize(
    ("text", "own"),
    [("consistent with melanomas", ["melanoma"]), ("typical of a nevus", ["nevus"]),
     ("consistent with motion of the camera", ["nevus"]), ("likely an artifact", ["nevus"]),
     ("may be seen. Dermatitis", ["nevus"]), ("tumor cells, malignant", ["adenocarcinoma"]),
     ("carcinoma", ["tumor epithelium"]), ("suspicious for carcinoma", ["malignant"]),
      ("basal cell carcinoma", ["BCC"]),
     ("suggestive of glaucoma", ["glaucoma"]), ("of stroma and necrosis", ["normal"]),
     ("no evidence of disease", ["normal"]), ("without malignant features", ["normal"]),
     ("indicating necrosis and fibrosis", ["normal"]), ("it exposes and encloses", ["x y"])],
)  # fmt: skip
def test_the_own_label_and_what_is_no_disease_are_no_diagnosis(text, own):
    assert made_diagnosis(f"A spot, {text} here.", own, ()) is None


def test_findings_of_the_profile_are_no_diagnosis():
    assert made_diagnosis("suggestive of hyperplasia", ["x y"], ["hyperplas"]) is None
    assert made_diagnosis("suggestive of hyperplasia", ["x y"], []) == "suggestive of hyperplasia"


def test_words_that_may_be_a_diagnosis_are_listed_once():
    text = "Dermatitis, then dermatitis and a lymphoma near stroma, with nevus."
    assert hinted_diagnosis(text, ["nevus"], ()) == ["dermatitis", "lymphoma"]
    assert hinted_diagnosis(text, ["nevus"], ["dermat"]) == ["lymphoma"]
    assert hinted_diagnosis("a carcinoma", ["tumor"], ()) == ["carcinoma"]


def test_measures_are_figures_with_a_unit():
    assert stated_measures("5 mm wide, 2.5cm long, 10 \N{MICRO SIGN}m, 5 mm") == [
        "5 mm", "2.5cm", "10 \N{MICRO SIGN}m",
    ]  # fmt: skip
    assert stated_measures("5 dots, in 3 rows, a 40x view") == []


def test_a_cancer_is_not_benign():
    said = ", brown, and it appears benign."
    assert made_diagnosis(said, ("melanoma",), ()) == "benign"
    assert made_diagnosis(said, ("nevus",), ()) is None
    assert made_diagnosis(said, ("benign tumor",), ()) is None
    assert made_diagnosis(", with no benign features.", ("melanoma",), ()) is None


@pytest.mark.parametrize(
    ("text", "label", "told"),
    [
        (". No features of melanoma are seen.", "melanoma", "no features of melanoma"),
        (", without clear signs of a melanoma.", "melanoma", "without clear signs of a melanoma"),
        (", not typical of naevi.", "nevus", "not typical of nevi"),
        (", not typical of nevi.", "nevus", "not typical of nevi"),
        (", flat. No other polyps are visible.", "polyp", None),
        (", with features of melanoma, no hair.", "melanoma", None),
        (". No signs of bleeding.", "melanoma", None),
    ],
)
def test_a_caption_does_not_deny_its_class(text, label, told):
    assert made_diagnosis(text, (label,), ()) == told


def test_the_own_class_may_be_led_to_in_plural_and_in_british_spelling():
    said = ", typical of seborrhoeic keratoses."
    assert made_diagnosis(said, ("seborrheic keratosis",), ()) is None
    assert made_diagnosis(said, ("nevus",), ()) == "typical of keratoses"
