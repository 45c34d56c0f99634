from medart_cli.data.words import fold_word, is_negated, spaced, words_of


def test_words_are_small_and_without_punctuation():
    assert words_of("A Brown, well-defined spot.") == ["a", "brown", "well", "defined", "spot"]
    assert spaced("basal_cell, Brown") == " basal cell brown "
    assert spaced("") == "  "


def test_a_negation_stands_shortly_before_and_in_the_same_sentence():
    assert is_negated("There is no bleeding, exudate or ") and is_negated("It is free of ")
    assert not is_negated("No bleeding. There are ") and not is_negated("with ")
    assert not is_negated("no spot, but a brown and then a red and large ")


def test_british_and_american_spelling_are_one_word():
    for british, american in (
        ("haemorrhage", "hemorrhage"), ("Oedema", "edema"), ("tumour", "tumor"),
        ("naevus", "nevus"), ("seborrhoeic", "seborrheic"),
    ):  # fmt: skip
        assert fold_word(british) == fold_word(american)
    assert fold_word("polyp") != fold_word("polypoid")
