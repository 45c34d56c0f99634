"""The rules that a caption must pass, and how an over-long text is truncated.

Pure functions of text. A captioner is a language model: it may refuse, repeat the instruction,
loop, make up an age, give advice or name another disease; none of that may reach a training set.
What is surely wrong is a fault, and the text is asked for again; what may be right is a flag, which
stands in the row for a reviewer.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from medart_cli.caption.claims import (
    given_advice,
    hinted_diagnosis,
    made_diagnosis,
    stated_judgments,
    stated_measures,
    stated_person,
)
from medart_cli.caption.language import find_language, foreign_script, lacks_function_words
from medart_cli.caption.mentions import Mention, find_mentions, is_finding
from medart_cli.data.classes import ClassWords
from medart_cli.data.profiles import Profile
from medart_cli.data.words import spaced, words_of

TOO_LONG = "too long"
ONLY_REASONING = "is only reasoning"  # the model thought, and said nothing
NO_BEGINNING = "does not begin with the template caption"
OTHER_CLASS = "names another class"
OTHER_DIAGNOSIS = "makes a diagnosis that is not the label"
TELLS_PERSON = "tells who the patient is"
GIVES_ADVICE = "gives advice"
OTHER_LANGUAGE = "is in another language"
FORBIDDEN_WORD = "contains a forbidden word"
ECHO_WORDS = 8  # a run of that many words of the instruction is an echo and no chance
ECHO = "if there are any"  # of the profiles' lists, and of no caption
LOOP_TIMES = 3  # the same words that often in a row are a loop
LOOP_WORDS = 12  # longest run of words that is looked at for loops
TWICE_WORDS = 10  # a run of that many words that comes again is a repetition
REFUSAL = re.compile(
    r"\b(I('m| am) (sorry|unable|not able)|I (cannot|can not|can't|could not|won't|do not have)"
    r"|as an? (AI|artificial|language)|artificial intelligence|language model|AI (assistant|model)"
    r"|(unable|not able|cannot|can't|impossible) to "
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
        profile: Whose language, findings, forbidden and doubtful words count.
        own: Names of the row's own class; empty without a label.
        others: All other classes of the data, by label.
        context: What the prompt told of the row.
        limit: Maximum tokens it may have.
        count_tokens: Counts the tokens of a text as the target text encoder will.
    """

    simple: str
    instruction: str
    profile: Profile
    own: Sequence[str]
    others: Mapping[str, ClassWords]
    context: Sequence[str]
    limit: int
    count_tokens: Callable[[str], int]

    def fits(self, text: str) -> bool:
        """Say whether a text is within the token limit."""
        return self.count_tokens(text) <= self.limit

    def is_finding(self, name: str) -> bool:
        """Say whether a class may be described in any image, since the profile asks for it."""
        words = next(words for words in self.others.values() if words.name == name)
        return is_finding(words, self.profile.findings, " ".join(self.profile.attributes))


def find_faults(text: str, rules: Rules) -> list[str]:
    """Name every rule that a trimmed caption breaks; an empty list means that it is accepted.

    A fault begins with its reason; behind a colon stand the words at fault, where they are few.
    """
    rest, profile = _rest(text, rules.simple), rules.profile
    english = profile.language == "en"
    classes = [item.name for item in _name_classes(rest, rules)[0]]
    checks = (
        (NO_BEGINNING, not begins_with(text, rules.simple)),
        ("says nothing beyond the template caption", not _says_more(text, rules.simple)),
        ("gives more than one caption", begins_again(text, rules.simple)),
        (
            "echoes the instruction",
            echoes(text, rules.instruction, rules.simple, profile.attributes),
        ),
        ("refuses to describe", refuses(text)),
        ("repeats itself", repeats(text)),
        (OTHER_LANGUAGE, _find_foreign(rest, rules)),
        (OTHER_CLASS, ", ".join(classes)),
        (
            OTHER_DIAGNOSIS,
            english and not classes and made_diagnosis(rest, rules.own, profile.findings),
        ),
        (TELLS_PERSON, english and stated_person(rest, rules.context)),
        (GIVES_ADVICE, english and given_advice(rest)),
        (FORBIDDEN_WORD, ", ".join(mentioned(rest, profile.forbidden))),
        (TOO_LONG, not rules.fits(text)),
    )
    return [f"{fault}: {found}" if isinstance(found, str) else fault
            for fault, found in checks if found]  # fmt: skip


def find_flags(text: str, rules: Rules) -> list[str]:
    """Say what a reviewer should look at in a caption that is accepted."""
    rest, profile = _rest(text, rules.simple), rules.profile
    flags = [f"mentions {item.name}, which is a class" for item in _name_classes(rest, rules)[1]
             if not item.negated]  # fmt: skip
    if profile.language == "en":
        hinted = hinted_diagnosis(rest, rules.own, profile.findings)
        flags += [f"may make a diagnosis: {word}" for word in hinted]
        judged = stated_judgments(rest, rules.own)
        flags += [f"interprets what is seen: {words}" for words in judged
                  if not any(word in words for word in hinted)]  # fmt: skip
    flags += [f"gives a measure: {words}" for words in stated_measures(rest)]
    words = [word for word in mentioned(rest, profile.doubtful)
             if not mentioned(" ".join(rules.own), [word])]  # fmt: skip
    flags += [f"says {word}, which the profile calls doubtful" for word in words]
    if profile.language != "any" and lacks_function_words(split_sentences(rest), profile.language):
        flags.append("may be in another language")
    return flags


def reason_of(fault: str) -> str:
    """Return a fault without the words at fault, so that faults can be counted."""
    return fault.partition(": ")[0]


def _name_classes(rest: str, rules: Rules) -> tuple[list[Mention], list[Mention]]:
    """Return the other classes that a text names: those that it may not name, and findings."""
    found = find_mentions(rest, rules.own, rules.others)
    findings = [item for item in found if rules.is_finding(item.name)]
    return [item for item in found if item not in findings], findings


def _find_foreign(rest: str, rules: Rules) -> str | None:
    """Return words in another script, or the first sentence in another language."""
    asked = rules.profile.language
    if asked == "any":
        return None
    for name in rules.own:  # it may be in a script of its own
        rest = rest.replace(name, "")
    if (word := foreign_script(rest)) is not None:
        return f"{word:.20}"
    foreign = (item for item in split_sentences(rest) if find_language(item, asked))
    return next((f"{item.lstrip(' ,;:'):.40}" for item in foreign), None)


def begins_with(text: str, simple: str) -> bool:
    """Say whether a text begins with the template caption, as whole words, ignoring case."""
    if not text.lower().startswith(simple.lower()):
        return False
    # Of `nevus-like` the beginning is another word.
    return re.match(r"\w|-[^\W\d_]", text[len(simple) : len(simple) + 2]) is None


def begins_again(text: str, simple: str) -> bool:
    """Say whether the template caption begins another sentence: a second draft, or an option."""
    again = re.escape(simple.lower())
    if not begins_with(text, simple):
        return False
    return re.search(rf"[.!?:\"'] ?\"?{again}\b", _rest(text, simple).lower()) is not None


def _says_more(text: str, simple: str) -> bool:
    return any(letter.isalpha() for letter in _rest(text, simple))


def _rest(text: str, simple: str) -> str:
    return text[len(simple) :] if begins_with(text, simple) else text


def echoes(text: str, instruction: str, simple: str, lists: Iterable[str] = ()) -> bool:
    """Say whether a text holds a long run of the instruction's words, or marks of the chat.

    The template caption itself, which is in the instruction, does not count, and neither does a
    list of what may be seen ("no hemorrhages, exudates, cotton wool spots or drusen").

    Args:
        text: The caption.
        instruction: The prompt.
        simple: The template caption.
        lists: What the prompt asks to be described, one text for each.
    """
    if CHAT_MARKUP.search(text) or (ECHO in instruction and ECHO in text):
        return True
    runs = _runs(instruction) - {run for item in (simple, *lists) for run in _runs(item)}
    return not runs.isdisjoint(_runs(_rest(text, simple)))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + ECHO_WORDS]) for i in range(len(words) - ECHO_WORDS + 1)}


def refuses(text: str) -> bool:
    """Say whether a text is a refusal: it says what the model cannot or will not do."""
    return REFUSAL.search(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None


def repeats(text: str) -> bool:
    """Say whether words come three times in a row, or a sentence or long run of words twice."""
    if re.search(r"(\S{1,3}?)\1{11}", text):  # "aaaaaaaaaaaa", "!?!?!?..."
        return True
    words = words_of(text)
    for size in range(1, LOOP_WORDS + 1):
        same = 0  # words in a row that equal the word `size` places before
        for index in range(size, len(words)):
            same = same + 1 if words[index] == words[index - size] else 0
            if same >= size * (LOOP_TIMES - 1):
                return True
    runs = [tuple(words[i : i + TWICE_WORDS]) for i in range(len(words) - TWICE_WORDS + 1)]
    if len(set(runs)) < len(runs):
        return True
    sentences = [tuple(words_of(item)) for item in split_sentences(text)]
    return any(count > 1 and len(item) > 2 for item, count in Counter(sentences).items())


def mentioned(text: str, beginnings: Iterable[str]) -> list[str]:
    """Return those beginnings of words that a text holds."""
    said = spaced(text)
    return [item for item in beginnings if " " + spaced(item).strip() in said]


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


def is_whole(text: str) -> bool:
    """Say whether the last sentence of a text has its end."""
    return bool(text) and " ".join(split_sentences(text, whole=True)) == text


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
    one, two = set(words_of(first)), set(words_of(second))
    return len(one & two) / len(one | two) if one | two else 1.0
