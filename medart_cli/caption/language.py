"""Is a caption in the language that was asked for? By its script, and by its function words."""

import unicodedata
from collections.abc import Sequence

from medart_cli.data.words import words_of

# The commonest words that carry no meaning; one that two languages share counts for both.
FUNCTION_WORDS = {
    code: frozenset(words.split())
    for code, words in {
        "en": "a an the of and or in on at to by with from for as is are was were be been it its "
        "this that these those there which no not some few more most than but into over within "
        "without around between near along across has have",
        "de": "der die das den dem des ein eine einen einem einer eines und oder ist sind mit von "
        "im in auf zu zur zum bei aus nach nicht keine auch sich wird werden wie am an es um "
        "sowie durch über",
        "fr": "le la les un une des du de et ou est sont avec dans sur au aux par pour en ce cette "
        "ces qui que se sa son ses pas plus il elle",
        "es": "el la los las un una unos unas de del y o es son con en por para que se su sus al "
        "lo no más como está",
        "it": "il lo la i gli le un una uno di del della dei delle degli e o è sono con in nel "
        "nella per che si da dal non più come su",
        "pt": "o a os as um uma uns umas de do da dos das e ou é são com em no na nos nas por para "
        "que se seu sua não mais como ao",
        "nl": "de het een en of is zijn met van in op te aan bij uit naar niet geen ook wordt "
        "worden als er door over voor die dat",
    }.items()
}
FOREIGN_WORDS = 3  # function words of another language that are no chance
SENTENCE_WORDS = 6  # words of a sentence that can tell its language
# Letters of any text on measures and vitamins, whose names do not begin with a script.
SIGNS = frozenset(
    "MICRO FEMININE MASCULINE MODIFIER SUPERSCRIPT SUBSCRIPT OHM KELVIN ANGSTROM".split()
)
GREEK_WORD = 3  # that many Greek letters together are a word, not the name of a quantity


def foreign_script(text: str) -> str | None:
    """Return the first piece of a text in another script than the Latin one; None without.

    Single Greek letters, as in alpha cells, are no other script.
    """
    for word in text.split():
        greek = 0
        for letter in word:
            if letter.isascii() or not letter.isalpha():
                continue
            script = unicodedata.name(letter, "UNKNOWN").split()[0]
            greek += script == "GREEK"
            if (script not in SIGNS and script not in ("LATIN", "GREEK")) or greek >= GREEK_WORD:
                return word
    return None


def find_language(sentence: str, asked: str) -> str | None:
    """Name another language that a sentence is in; None where it is, or may be, in the asked one.

    Args:
        sentence: One sentence; of a short one nothing is said.
        asked: A code of `FUNCTION_WORDS`.
    """
    words = words_of(sentence)
    if len(words) < SENTENCE_WORDS:
        return None
    counts = {code: sum(word in known for word in words) for code, known in FUNCTION_WORDS.items()}
    code = max(counts, key=lambda name: (counts[name], name == asked))
    # Among a few foreign words, as of a label, the asked language still has its own.
    clear = counts[code] >= FOREIGN_WORDS and counts[code] > counts[asked] + 1
    return code if clear else None


def lacks_function_words(sentences: Sequence[str], asked: str) -> bool:
    """Say whether no sentence has a function word of the asked language: it may be another."""
    words = [word for sentence in sentences for word in words_of(sentence)]
    return len(words) >= 2 * SENTENCE_WORDS and not FUNCTION_WORDS[asked] & {*words}
