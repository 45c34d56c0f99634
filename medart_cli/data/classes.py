"""Classes in words: how a label that names a folder is spoken, and a file that says it for each."""

import re
import tomllib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medart_cli.errors import ConfigError

# `01_melanoma` has its place in a list, `10_nevus` kohya's repeats; `4_chamber` counts something.
ORDER_NUMBER = re.compile(
    r"^\s*(?:0\d{0,2}[\s_.-]+|[1-9]\d{0,2}_+)(?=[^\W\d_])(?!(?:cell|chamber|vessel|view|lead|"
    r"layer|channel|day|week|month|year|hour|min|mm|cm|d|h|x)s?(?![^\W_]))",
    re.IGNORECASE,
)
HYPHEN = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])")  # that of COVID-19 stays
SMALL_WORDS = frozenset("and at by for in no non not of on or the to with without".split())
ACRONYMS = ("COVID", "BIRADS", "TIRADS")  # begin words of capitals that are no words
VOWELS = frozenset("aeiouAEIOU")
# Written with a vowel and spoken with a consonant: uterine, unilateral, urothelial, eosinophil not.
SPOKEN_YOU = re.compile(r"eu|ub|uni[cflopqtv]|ur[aeio]|us[ue]|ut[ei]|uv|one\b")
AN_LETTERS = frozenset("AEFHILMNORSX")  # letters whose names begin with a vowel: an MRI
ARTICLE = re.compile(r"\b([Aa])n?(?= \{label\})")


@dataclass(frozen=True)
class ClassWords:
    """How one class is spoken: its name in a text, and others that mean the same."""

    name: str
    synonyms: tuple[str, ...] = ()


def read_classes(path: Path) -> dict[str, ClassWords]:
    """Read how classes are spoken, by their labels.

    A label is a table with `name`, `synonyms` or both, or in short `mel = "melanoma"`.

    Raises:
        ConfigError: The file cannot be read, is no TOML, or says something else.
    """
    place = f"--classes {path}"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{place}: cannot be read as TOML: {error}") from error
    if not table:
        raise ConfigError(f'{place}: names no class; write a line for each, such as mel = "..."')
    classes = {}
    for label, words in table.items():
        try:
            classes[unicodedata.normalize("NFC", label)] = _read_words(label, words)
        except ValueError as error:
            raise ConfigError(f"{place}: {label}: {error}") from error
    return classes


def _read_words(label: str, words: Any) -> ClassWords:  # noqa: ANN401 - any TOML value
    table = {"name": words} if isinstance(words, str) else words
    if not isinstance(table, dict) or not table or table.keys() - {"name", "synonyms"}:
        raise ValueError('must have name = "..." and synonyms = ["..."], and nothing else')
    synonyms = table.get("synonyms", [])
    texts = [
        table.get("name", spoken_label(label)),
        *(synonyms if isinstance(synonyms, list) else [None]),
    ]
    plain = [
        " ".join(unicodedata.normalize("NFC", text).split())
        for text in texts
        if isinstance(text, str)
    ]
    if len(plain) < len(texts) or not all(plain):
        raise ValueError("name must be a text and synonyms a list of texts, none of them empty")
    return ClassWords(plain[0], tuple(plain[1:]))


def spoken_label(label: str) -> str:
    """Turn a class name as folders have it into words.

    `dyed-lifted-polyps`, `basal_cell` and `BenignLesion` are split, `01_melanoma` and kohya's
    `10_name` lose their number, and `NORMAL` is written small; `AK`, a short code, stays. Hyphens
    stay in a name that has spaces, for there they belong to a word.
    """
    label = unicodedata.normalize("NFC", label)
    text = ORDER_NUMBER.sub("", label).replace("_", " ").strip()
    words = (text if " " in text else HYPHEN.sub(" ", text)).split()
    words = [part for word in words for part in _split_camel(word)]
    if text.isupper():
        words = [word.lower() if _is_word(word, len(words) == 1) else word for word in words]
    return " ".join(words)


def _split_camel(word: str) -> list[str]:
    """Split `BenignLesion`, but not `McCune`, `pH` or `mRNA`."""
    cuts = [0]
    for place in range(1, len(word)):
        before, here, after = word[place - 1], word[place], word[place + 1 : place + 2]
        if here.isupper() and (before.islower() or (before.isupper() and after.islower())):
            cuts.append(place)
    parts = [word[start:end] for start, end in zip(cuts, [*cuts[1:], None], strict=True)]
    if len(parts) == 1 or not all(_stands_alone(part) for part in parts):
        return [word]
    return [part if part.isupper() else part.lower() for part in parts]


def _stands_alone(part: str) -> bool:
    return len(part) >= 3 or (len(part) == 2 and part.isupper()) or part.lower() in SMALL_WORDS


def _is_word(word: str, alone: bool) -> bool:
    """Say whether a word in capitals is a word and no code: NORMAL, not AK; SCAR only in a name."""
    if word.lower() in SMALL_WORDS:
        return True
    if word.startswith(ACRONYMS):
        return False
    return len(word) >= 5 or (not alone and len(word) >= 3 and bool(VOWELS & {*word}))


def fit_article(template: str, spoken: str) -> str:
    """Choose between `a {label}` and `an {label}`, as the spoken label asks for."""
    wanted = "an" if _begins_with_vowel(spoken) else "a"
    return ARTICLE.sub(lambda found: found[1] + wanted[1:], template)


def _begins_with_vowel(spoken: str) -> bool:
    word = unicodedata.normalize("NFD", spoken.split()[0] if spoken.split() else "x")
    if word.isupper() and (len(word) <= 3 or not VOWELS & {*word}):  # spelled out: an SCC
        return word[0] in AN_LETTERS
    word = word.lower()
    return (word[0] in "aeiou" and not SPOKEN_YOU.match(word)) or word.startswith(("hour", "heir"))
