"""Words of a caption for colors and sizes: which ones a text says are there.

In a library, for `caption` checks them against the image, and `evaluate` against another caption.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

COLOR_NAMES = (
    *("black", "white", "gray", "brown", "tan", "red"),
    *("pink", "orange", "yellow", "green", "blue", "purple"),
)
# Other words, and the colors of which any will do.
WORDS = {
    **{name: (name,) for name in COLOR_NAMES},
    "grey": ("gray",), "violet": ("purple",), "lilac": ("purple", "pink"),
    "mauve": ("purple", "pink"),
    "magenta": ("purple", "pink"), "beige": ("tan",), "cream": ("tan", "yellow", "white"),
    "crimson": ("red",), "scarlet": ("red",), "maroon": ("red", "brown", "purple"),
    "turquoise": ("blue", "green"), "teal": ("blue", "green"), "navy": ("blue",),
    "erythematous": ("red", "pink"), "salmon": ("pink", "orange"), "rose": ("pink",),
}  # fmt: skip
HEDGED = {
    "blackish": "black", "whitish": "white", "grayish": "gray", "greyish": "gray", "bluish": "blue",
    "brownish": "brown", "reddish": "red", "pinkish": "pink", "yellowish": "yellow",
    "greenish": "green", "purplish": "purple", "orangish": "orange", "violaceous": "purple",
}  # fmt: skip
# Names in which a color is no color of the image.
NAMES = re.compile(
    r"\b((red|white) (blood )?(cells?|corpuscles?)|(white|gr[ae]y) matter|gr[ae]y-?scale"
    r"|black[- ]and[- ]white|red[- ](free|reflex)|methylene blue|trypan blue|toluidine blue"
    r"|blue n(a?)ev(us|i)|(red|green|blue) channel|(white|blue|green) light)\b"
)
NEGATION = frozenset("no not without lacks lack lacking absence absent free neither nor".split())
NEGATION_WORDS = 6  # how far before a color it counts; an absence after it, half as far
COLOR_TOKEN = re.compile(r"[a-z]+(?:-[a-z]+)*|[.;:]")
SIZE_WORDS = {"large": "large", "big": "large", "huge": "large", "extensive": "large",
              "small": "small", "tiny": "small", "minute": "small"}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A color that a text names.

    Attributes:
        said: The words.
        colors: Those of which any will do.
        hedged: Whether it is a mixture or an -ish, which the eye sees relative to its surroundings.
        background: Whether it is named of the background.
    """

    said: str
    colors: tuple[str, ...]
    hedged: bool
    background: bool


def find_claims(text: str) -> Iterator[Claim]:
    """Find the colors that a text says are there; words in a row are one color."""
    tokens = COLOR_TOKEN.findall(NAMES.sub("something", text.lower()))
    start = 0
    while start < len(tokens):
        stop = start
        while stop < len(tokens) and colors_of(tokens[stop]):
            stop += 1
        if stop > start and not _is_denied(tokens, start, stop):
            parts = [part for token in tokens[start:stop] for part in token.split("-")]
            named = [part for part in parts if colors_of(part)]
            colors = [name for part in named for name in colors_of(part)]
            hedged = len(named) > 1 or named[0] in HEDGED
            place = tokens[stop : stop + 2]
            yield Claim(" ".join(tokens[start:stop]), tuple(colors), hedged, "background" in place)
        start = stop + 1


def colors_of(token: str) -> tuple[str, ...]:
    """Return the colors that a word or words with hyphens may mean; none for other words."""
    parts = token.split("-")
    return tuple(name for part in parts for name in WORDS.get(HEDGED.get(part, part), ()))


def _is_denied(tokens: Sequence[str], start: int, stop: int) -> bool:
    before = tokens[max(0, start - NEGATION_WORDS) : start]
    after = tokens[stop : stop + NEGATION_WORDS // 2 + 1]
    for index in range(len(before) - 1, -1, -1):
        if before[index] in (*".;:", "but"):
            before = before[index + 1 :]
            break
    return not NEGATION.isdisjoint(before) or "absent" in after
