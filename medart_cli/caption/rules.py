"""The rules that a caption must pass, and how an over-long text is truncated.

Pure functions of text. A captioner is a language model: it may refuse, repeat the instruction,
loop, or name another disease; none of that may reach a training set.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

TOO_LONG = "too long"
ECHO_WORDS = 8  # a run of that many words of the instruction is an echo and no chance
LOOP_TIMES = 3  # the same words that often in a row are a loop
LOOP_WORDS = 12  # longest run of words that is looked at for loops
TWICE_WORDS = 10  # a run of that many words that comes again is a repetition
# Labels that are also everyday words of a caption ("surrounded by normal skin") name no class.
EVERYDAY = frozenset(
    "normal healthy other others none unknown background negative positive control case".split()
)
REFUSAL = re.compile(
    r"\b(I('m| am) (sorry|unable|not able)|I (cannot|can not|can't|could not|won't|do not have)"
    r"|as an? (AI|artificial|language)|(unable|not able|cannot|can't|impossible) to "
    r"(provide|assist|help|determine|describe|see|view|process|fulfill|comply)"
    r"|(cannot|can't) (provide|assist|help|determine|describe|see|view|process|fulfill|comply)"
    r"|consult (a|your|with)|no image (was|is|has)|please (provide|upload))",
    re.IGNORECASE,
)
# Marks of a chat that belong to no caption: roles, placeholders of images, special tokens.
CHAT_MARKUP = re.compile(
    r"(\b(USER|ASSISTANT|SYSTEM|HUMAN)\s*:|</?s>|<image>|<pad>|<unk>|\[/?INST\]|<\|[^|]*\|>)"
)
SENTENCE_END = re.compile(r"[.!?](?=[\"')\]]*(\s|$))[\"')\]]*")


@dataclass(frozen=True)
class Rules:
    """What a caption of one row is checked against.

    Attributes:
        simple: The template caption, which it must begin with.
        instruction: The prompt, which it must not echo.
        label: The row's own class in words, or an empty text.
        others: All other classes of the data, in words.
        forbidden: Beginnings of words that it must not hold.
        limit: Maximum tokens it may have.
        count_tokens: Counts the tokens of a text as the target text encoder will.
    """

    simple: str
    instruction: str
    label: str
    others: Sequence[str]
    forbidden: Sequence[str]
    limit: int
    count_tokens: Callable[[str], int]

    def fits(self, text: str) -> bool:
        """Say whether a text is within the token limit."""
        return self.count_tokens(text) <= self.limit


def trim_caption(text: str, simple: str) -> str:
    """Strip what surrounds a caption, and give its beginning the template caption's form.

    White space becomes single spaces; quotes, asterisks and a lead that ends in a colon go.
    """
    text = " ".join(text.split()).strip("\"'*`# ")
    start = text.lower().find(simple.lower())
    if start > 0 and text[:start].rstrip("\"'*` ").endswith(":"):  # "Here is a caption: ..."
        text = text[start:]
    if begins_with(text, simple):
        text = simple + text[len(simple) :]
    return text


def find_faults(text: str, rules: Rules) -> list[str]:
    """Name every rule that a trimmed caption breaks; an empty list means that it is accepted."""
    checks = (
        ("does not begin with the template caption", not begins_with(text, rules.simple)),
        ("says nothing beyond the template caption", not _says_more(text, rules.simple)),
        ("echoes the instruction", echoes(text, rules.instruction, rules.simple)),
        ("refuses to describe", refuses(text)),
        ("repeats itself", repeats(text)),
        ("names another class", bool(named_classes(text, rules.label, rules.others))),
        ("contains a forbidden word", bool(mentioned(_rest(text, rules.simple), rules.forbidden))),
        (TOO_LONG, not rules.fits(text)),
    )
    return [fault for fault, found in checks if found]


def begins_with(text: str, simple: str) -> bool:
    """Say whether a text begins with the template caption, as whole words, ignoring case."""
    if not text.lower().startswith(simple.lower()):
        return False
    return not text[len(simple) : len(simple) + 1].isalnum()


def _says_more(text: str, simple: str) -> bool:
    return any(letter.isalpha() for letter in _rest(text, simple))


def _rest(text: str, simple: str) -> str:
    return text[len(simple) :] if begins_with(text, simple) else text


def echoes(text: str, instruction: str, simple: str) -> bool:
    """Say whether a text holds a long run of the instruction's words, or marks of the chat.

    The template caption itself, which is in the instruction, does not count.
    """
    if CHAT_MARKUP.search(text):
        return True
    asked, said = _words(instruction), _words(_rest(text, simple))
    runs = {tuple(asked[i : i + ECHO_WORDS]) for i in range(len(asked) - ECHO_WORDS + 1)}
    return any(tuple(said[i : i + ECHO_WORDS]) in runs for i in range(len(said)))


def refuses(text: str) -> bool:
    """Say whether a text is a refusal: it says what the model cannot or will not do."""
    return REFUSAL.search(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None


def repeats(text: str) -> bool:
    """Say whether words come three times in a row, or a sentence or long run of words twice."""
    if re.search(r"(\S{1,3}?)\1{11}", text):  # "aaaaaaaaaaaa", "!?!?!?..."
        return True
    words = _words(text)
    for size in range(1, LOOP_WORDS + 1):
        same = 0  # words in a row that equal the word `size` places before
        for index in range(size, len(words)):
            same = same + 1 if words[index] == words[index - size] else 0
            if same >= size * (LOOP_TIMES - 1):
                return True
    runs = [tuple(words[i : i + TWICE_WORDS]) for i in range(len(words) - TWICE_WORDS + 1)]
    if len(set(runs)) < len(runs):
        return True
    sentences = [tuple(_words(item)) for item in split_sentences(text)]
    return any(count > 1 and len(item) > 2 for item, count in Counter(sentences).items())


def named_classes(text: str, label: str, others: Iterable[str]) -> list[str]:
    """Return the classes that a text names besides its own; a plural with s counts too.

    A class whose name is an everyday word (`normal`) or has no letters is not looked for, and
    neither is one that is a part of the row's own label.
    """
    said = _spaced(text)
    own = _spaced(label)
    if own.strip():
        said = said.replace(own.rstrip() + "s ", " | ").replace(own, " | ")
    found = []
    for other in others:
        name = _spaced(other)
        if name.strip() in EVERYDAY or not any(letter.isalpha() for letter in name) or name in own:
            continue
        if name in said or name.rstrip() + "s " in said:
            found.append(other)
    return found


def mentioned(text: str, beginnings: Iterable[str]) -> list[str]:
    """Return those beginnings of words that a text holds."""
    said = _spaced(text)
    return [item for item in beginnings if " " + _spaced(item).strip() in said]


def covered(text: str, attributes: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names of the visual attributes that a text says something about."""
    return [name for name, beginnings in attributes.items() if mentioned(text, beginnings)]


def cut_caption(text: str, rules: Rules) -> str | None:
    """Truncate a caption after the last sentence that is within the token limit.

    Returns:
        The text, or None where no whole sentence that says more than the template caption fits.
    """
    sentences = split_sentences(text, whole=True)
    for count in range(len(sentences), 0, -1):
        cut = " ".join(sentences[:count])
        if rules.fits(cut):
            return cut if _says_more(cut, rules.simple) else None
    return None


def split_sentences(text: str, *, whole: bool = False) -> list[str]:
    """Split a text after each sentence end; `whole` leaves out a last sentence that has none."""
    sentences, start = [], 0
    for found in SENTENCE_END.finditer(text):
        sentences.append(text[start : found.end()].strip())
        start = found.end()
    rest = text[start:].strip()
    return sentences if whole or not rest else [*sentences, rest]


def word_overlap(first: str, second: str) -> float:
    """Return the share of words that two texts have in common (Jaccard), from 0 to 1."""
    one, two = set(_words(first)), set(_words(second))
    return len(one & two) / len(one | two) if one | two else 1.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _spaced(text: str) -> str:
    return f" {' '.join(_words(text.replace('_', ' ')))} "
