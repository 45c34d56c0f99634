"""Which classes of the data a caption names: whole words, the longest name first."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from medart_cli.caption.language import FUNCTION_WORDS
from medart_cli.data.classes import ClassWords
from medart_cli.data.words import NEGATED_WORDS, fold_word, is_negated, spaced

# Names of classes that are also everyday words of a caption ("normal skin") name no class.
EVERYDAY = frozenset(
    "normal healthy other others none unknown background back negative positive control case "
    "left right front side light dark red blue image skin eye".split()
)
CODE_LETTERS = 3  # a name of up to that many letters is a code: BE, AK, mel


@dataclass(frozen=True)
class Mention:
    """A class that a text names: its name, and whether it is only said not to be there."""

    name: str
    negated: bool


def find_mentions(text: str, own: Sequence[str], others: Mapping[str, ClassWords]) -> list[Mention]:
    """Return the classes that a text names besides its own, each once, in order.

    Plurals count, Latin ones too, and so does British spelling. A code counts only as it is
    written; everyday words and names without letters are not looked for, nor is a name within the
    own one (`polyp` in `hyperplastic polyp`).

    Args:
        text: The caption behind its template.
        own: Names of the row's own class.
        others: The other classes, by label.
    """
    names: dict[tuple[str, ...], str | None] = {}  # of folded words
    codes: dict[str, str | None] = {}
    for words in others.values():
        for name in filter(_can_be_named, (words.name, *words.synonyms)):
            if is_code(name):
                codes |= {name: words.name, f"{name}s": words.name}
            else:
                names |= dict.fromkeys(name_forms(name), words.name)
    for name in own:  # last, for a name that two classes share is the row's own
        names |= dict.fromkeys(_parts(name), None)
        codes |= {name: None, f"{name}s": None}
    longest = max(map(len, names), default=1)
    found: dict[str, Mention] = {}
    for sentence in re.split(r"[.!?;]", text):
        raw = _split(sentence)
        folded = [fold_word(word) for word in raw]
        place = 0
        while place < len(raw):
            size = _match(folded, place, names, longest)
            key = tuple(folded[place : place + size])
            named = codes.get(raw[place]) if key not in names else names[key]
            if named is not None:
                negated = is_negated(" ".join(raw[max(0, place - NEGATED_WORDS) : place]))
                if named not in found or not negated:
                    found[named] = Mention(named, negated)
            place += max(size, 1)
    return list(found.values())


def _match(
    words: Sequence[str], place: int, names: Collection[tuple[str, ...]], longest: int
) -> int:
    """Return of how many words the longest name at a place is; 0 where none is there."""
    sizes = range(min(longest, len(words) - place), 0, -1)
    return next((size for size in sizes if tuple(words[place : place + size]) in names), 0)


def _split(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", re.sub(r"['\N{RIGHT SINGLE QUOTATION MARK}]", "", text))


def is_code(name: str) -> bool:
    """Say whether a name is a code of a few letters, which only the same letters may mean."""
    return name.isalnum() and len(name) <= CODE_LETTERS


def _can_be_named(name: str) -> bool:
    plain = EVERYDAY | FUNCTION_WORDS["en"]
    if not any(letter.isalpha() for letter in name):
        return False
    # BE in capitals is a code; be is a word.
    return (is_code(name) and name.isupper()) or not plain.issuperset(
        word.lower() for word in _split(name)
    )


def name_forms(name: str) -> list[tuple[str, ...]]:
    """Return a name as folded words, in singular and plural."""
    *head, last = [fold_word(word) for word in _split(name)]
    return [(*head, form) for form in plural_forms(last)]


def plural_forms(word: str) -> set[str]:
    """Return a folded word with its plurals, or what it may be the plural of."""
    forms = {word, f"{word}s"}
    for end, plurals in (
        ("y", ("ies",)), ("us", ("i", "uses")), ("is", ("es",)), ("um", ("a",)),
        ("oma", ("omata",)), ("a", ("e",)), ("x", ("xes", "ces")), ("ch", ("ches",)),
    ):  # fmt: skip
        if word.endswith(end):
            forms |= {word.removesuffix(end) + plural for plural in plurals}
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        forms |= {word.removesuffix("s"), word.removesuffix("ies") + "y"} - {word + "y"}
    return forms


def _parts(name: str) -> set[tuple[str, ...]]:
    """Return every run of words of the own name, with plurals: nothing in it is another class."""
    words, ends = _split(name), range(1, len(_split(name)) + 1)
    runs = [words[start:end] for end in ends for start in range(end)]
    return {form for run in runs for form in name_forms(" ".join(run))}


def is_finding(words: ClassWords, findings: Iterable[str], asked: str) -> bool:
    """Say whether a class is also something to be seen in images of any class.

    That is what the profile lists, and what its prompt asks to be described.

    Args:
        words: The class.
        findings: Beginnings of words.
        asked: What the prompt asks for, in words.
    """
    wanted = {form for word in _split(asked) if len(word) > CODE_LETTERS
              for form in plural_forms(fold_word(word))}  # fmt: skip
    for name in (words.name, *words.synonyms):
        own = [fold_word(word) for word in _split(name)]
        if any(spaced(item).rstrip() in spaced(name) for item in findings):
            return True
        if own and all(not plural_forms(word).isdisjoint(wanted) for word in own):
            return True
    return False
