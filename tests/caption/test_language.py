import pytest

from medart_cli.caption.language import (
    FUNCTION_WORDS,
    find_language,
    foreign_script,
    lacks_function_words,
)
from medart_cli.data.profiles import LANGUAGES

SENTENCES = {
    "en": "The lesion is round and brown, with a network that fades at the border.",
    "de": "Die Läsion ist rund und braun, mit einem Netz, das am Rand verblasst.",
    "fr": "La lésion est ronde et brune, avec un réseau qui pâlit sur le bord.",
    "es": "La lesión es redonda y marrón, con una red que se aclara en el borde.",
    "it": "La lesione è rotonda e bruna, con una rete che sfuma nel bordo della pelle.",
    "pt": "A lesão é redonda e castanha, com uma rede que se perde na borda da pele.",
    "nl": "De laesie is rond en bruin, met een netwerk dat aan de rand van de huid vervaagt.",
}


def test_each_language_of_a_profile_has_its_words():
    assert {*FUNCTION_WORDS, "any"} == {*LANGUAGES}


@pytest.mark.parametrize("asked", SENTENCES)
@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_known_by_its_function_words(asked, code):
    assert find_language(SENTENCES[code], asked) == (None if code == asked else code)


@pytest.mark.parametrize(
    "text",
    [
        "Brown, round, smooth, regular, sharp, pale at one side.",
        "The macula lutea and the area of the de novo lesion are pale.",
        "La Roche.",
        "It die in.",
        "",
    ],
)
def test_medical_latin_short_texts_and_lists_are_no_other_language(text):
    assert find_language(text, "en") is None


def test_a_long_text_without_any_function_word_is_doubtful():
    words = "brown round smooth regular sharp pale dark fine hairs soft edge skin"
    assert lacks_function_words([words], "en")
    assert not lacks_function_words([f"{words} with dots"], "en")
    assert not lacks_function_words(["brown and round"], "de")  # too short to say


@pytest.mark.parametrize("word", ["病变", "сеть", "πληγή", "تصویر", "घाव", "빨간", "病変"])
def test_another_script_is_seen_by_one_word(word):
    assert foreign_script(f"a brown {word} at the edge") == word


@pytest.mark.parametrize(
    "text",
    [
        "α-cells of 5 µm, 2² dots",
        "Größe, naïve, São, Łódź",
        "1st ª º Å",
        "→ ± × ° 3–4",
        "",
        "Β, γδ",
    ],
)
def test_signs_single_greek_letters_and_accents_are_no_other_script(text):
    assert foreign_script(text) is None
