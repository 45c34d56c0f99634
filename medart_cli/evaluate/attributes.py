"""What a caption says of an image, as attributes: colors, size, and what its profile asks for."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from medart_cli.data.descriptors import SIZE_WORDS, colors_of, find_claims
from medart_cli.data.profiles import Profile
from medart_cli.data.words import fold_word, is_negated, words_of
from medart_cli.metrics.arrays import Mask

COLOR, SIZE = "color", "size"
SIZE_NAMES = {**SIZE_WORDS, "medium": "medium", "moderate": "medium"}
Attribute = tuple[str, str]  # its kind, and what it is


def find_attributes(text: str, simple: str, profile: Profile) -> set[Attribute]:
    """Return the attributes that a text says are there; what it denies is none.

    Args:
        text: The caption.
        simple: The template caption, whose words name the class alone and do not count.
        profile: Its attributes: beginnings of words, by kind. A color or a size is of those kinds,
            whatever kind the profile has it under.
    """
    rest = re.sub(re.escape(simple), " ", text, flags=re.IGNORECASE)
    found = {(COLOR, name) for claim in find_claims(rest) for name in claim.colors}
    kinds = {
        kind: kept
        for kind, beginnings in profile.attributes.items()
        if (kept := [word for word in beginnings if not colors_of(word) and word not in SIZE_NAMES])
    }
    for sentence in re.split(r"[.!?;]", rest):
        folded = f" {' '.join(map(fold_word, words_of(sentence)))} "
        found |= {(SIZE, SIZE_NAMES[word]) for word in SIZE_NAMES if _is_said(folded, f"{word} ")}
        found |= {
            (kind, word)
            for kind, beginnings in kinds.items()
            for word in beginnings
            if _is_said(folded, " ".join(map(fold_word, words_of(word))))
        }
    return found


def _is_said(sentence: str, beginning: str) -> bool:
    """Say whether a sentence of folded words has a word with this beginning, and not denied."""
    places: Iterator[re.Match[str]] = re.finditer(f" {re.escape(beginning)}", sentence)
    return any(not is_negated(sentence[: place.start()]) for place in places)


def tabulate(texts: Sequence[set[Attribute]], attributes: Sequence[Attribute]) -> Mask:
    """Say which text names which attribute, (N, V)."""
    rows = [[attribute in said for attribute in attributes] for said in texts]
    return np.array(rows, dtype=np.bool_).reshape(len(texts), len(attributes))
