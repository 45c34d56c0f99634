"""Words of a text, without case, and the text as words, as the rules of captions compare them."""

import re

NEGATIONS = frozenset("no not without absent absence free lacks lacking neither nor never".split())
NEGATED_WORDS = 6  # so far before a word its negation may stand
NEGATED_LETTERS = 200  # and those words have no more


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters."""
    return re.findall(r"\w+", text.lower())


def spaced(text: str) -> str:
    """Return a text as words with a space before and after each; underscores divide words too."""
    return f" {' '.join(words_of(text.replace('_', ' ')))} "


def is_negated(before: str) -> bool:
    """Say whether a negation stands shortly before: no exudates, bleeding or -- drusen.

    Args:
        before: What stands before a word, from the beginning of its sentence or earlier.
    """
    sentence = re.split(r"[.!?;]", before[-NEGATED_LETTERS:])[-1]
    return not NEGATIONS.isdisjoint(words_of(sentence)[-NEGATED_WORDS:])


def fold_word(word: str) -> str:
    """Return what British and American spelling have in common: oedema, haemorrhage, tumour."""
    plain = word.casefold()
    return plain.replace("ae", "e").replace("oe", "e").replace("our", "or")
