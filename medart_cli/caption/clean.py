"""What a model writes around a caption is stripped here: chat, markup, JSON, marks of places.

Nothing is put in the caption's words: what is wrong in them is for rules.py to refuse.
"""

import html
import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from typing import Any

from medart_cli.caption.rules import refuses

ARTICLES = frozenset(("a", "an", "the"))
LETTERS = str.maketrans({
    **dict.fromkeys(map(chr, (*range(9), *range(14, 32), 127)), ""),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u00b4\uff07", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2212\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f"
                    "\u205f\u3000\t\v\f", " "),
    **dict.fromkeys("\r\x85\u2028\u2029", "\n"),
    "\uff0c": ", ", "\uff1a": ": ", "\uff1b": "; ", "\u3002": ". ", "\uff08": " (", "\uff09": ") ",
})  # fmt: skip
FIRST_PICTOGRAPH = 0x2600  # symbols below it are degrees, arrows and the like

# Grounding models mark where a thing is: tokens of Qwen, InternVL, Kosmos, PaliGemma, Molmo.
PLACE_NAMES = (
    r"box|bbox|ref|quad|points?|polygon|poly|object_ref|phrase|object|grounding|patch_index_\d+|"
    r"delimiter_of_multi_objects|loc_?\d+|seg_?\d+|coord\w*"
)
BOX = re.compile(r"<(\|?)(box|quad|bbox)(_start)?\1>[^<>]{0,200}<\1/?\2(_end)?\1>")
PLACE = re.compile(rf"<\|?/?(?:{PLACE_NAMES})(?:_start|_end)?(?:\s[^<>]{{0,400}})?/?\|?>")
_NUMBER = r"-?\d{1,6}(?:\.\d{1,8})?"
NUMBERS = re.compile(
    rf"\[\[?\s?{_NUMBER}(?:,\s?{_NUMBER}){{0,7}}\s?\]?\]|\({_NUMBER},\s?{_NUMBER}\),?\s?"
    rf"\({_NUMBER},\s?{_NUMBER}\)|\[(?:image|figure) ?\d{{1,3}}\]",
    re.IGNORECASE,
)
END_MARK = re.compile(
    r"</s>|<eos>|<end_of_turn>|<turn\|>|<\|(?:im_end|end|eot_id|eot|endoftext|end_of_text)\|>"
)
BLOCK_TAG = re.compile(r"</?(?:br|li|ul|ol|div|h[1-6]|pre)\b[^<>\n]{0,80}>", re.IGNORECASE)
INLINE_TAG = re.compile(
    r"</?(?:p|b|i|u|em|strong|span|code|sub|sup|caption|answer|output|description)\b[^<>\n]{0,80}>",
    re.IGNORECASE,
)
CAPTION_KEYS = ("caption", "text", "description", "image_caption", "answer", "output", "response")
MOST_OBJECTS = 8  # braces at which a JSON object is looked for
DECODER = json.JSONDecoder(strict=False)  # line breaks in texts are common

FENCE = re.compile(r"(?:```|~~~)\w*$")
RULE = re.compile(r"[-=*_ ]{3,}$")
TABLE = re.compile(r"\|.*\|$")
HEADING = re.compile(r"(?:#{1,6} ?(.*)|\*\*([^*]{0,80}[^*.!?])\*\*:?)$")
HASHTAG = re.compile(r"#[^\W\d_]\w*$")
BULLET = re.compile(r"(?:[-*+\u2022\u25aa\u25cf\u2013]|\d{1,2}[.)]) (?=\S)")
LINK = re.compile(r"!?\[([^\[\]]{0,200})\]\([^()\s]{0,300}\)")
EMPHASIS = re.compile(
    r"\*{2,}|~~|`+|(?<![\d\s])\*|\*(?![\d\s])|(?<!\w)_{1,2}(?=\w)|(?<=\w)_{1,2}(?!\w)"
)

# How a chat begins before it comes to the caption; other leads end in a colon or with their line.
CHAT_LEAD = re.compile(
    r"\W*(?:sure|certainly|of course|absolutely|okay|ok|great|here(?:'s| is| are| you go)|below is|"
    r"the following|happy to help|no problem|i(?:'d| would) be happy|(?:final |revised |image )?"
    r"(?:caption|answer|description|response|output)|assistant)\b",
    re.IGNORECASE,
)
THIS_IS = re.compile(
    r"(?:this|it|here|the (?:given |provided |uploaded )?(?:image|picture|photo(?:graph)?)) "
    r"(?:is|shows|depicts|presents|displays|represents)\Z",
    re.IGNORECASE,
)
# What it will not do and was not asked for is no refusal to describe: a diagnosis, medical advice.
DISCLAIMER = re.compile(
    r"(?:\bas an (?:AI|artificial intelligence)(?: language)?(?: model| assistant)?, )?"
    r"\bI (?:(?:cannot|can't|can not|do not|don't|am (?:not able|unable) to)|am not (?:a|your) \w+ "
    r"(?:and|so I) (?:cannot|can't)) (?:provide|give|offer|make) (?:an?y? )?"
    r"(?:(?:medical|clinical|professional|definitive|formal) ){0,2}(?:diagnos[ei]s|advice)\b",
    re.IGNORECASE,
)
# How it goes on after it. A sentence of a caption does not begin so; what follows goes too.
_NOTES = (
    r"(?:note|notes|disclaimer|important|warning|caution|explanation|rationale|reasoning|keywords?|"
    r"tags|hashtags|word count|words|total words|character count|token count|confidence|"
    r"additional (?:notes?|context)|alternatively|user|human|assistant|"
    r"clinical (?:significance|relevance|context|impression|interpretation|notes?)|impression|"
    r"interpretation|diagnos[ei]s|differential(?: diagnos[ei]s)?|conclusion|recommendations?)"
)
NOTES_HEAD = re.compile(rf"{_NOTES}:?\Z", re.IGNORECASE)
_ABOUT = r"(?:caption|description|image description|response|answer)"
CHATTER = re.compile(
    r"(?:(?<=[.!?\"')\]\n])|(?<=[.!?\"')\]\n] ))[(\[*_-]{0,3}(?:"
    r"(?:please )?let me know|feel free|i hope|hope (?:this|that|it)|is there anything|"
    r"(?:would|do) you (?:like|want|need)|if you (?:need|want|would|have|'d|prefer|require)|"
    rf"(?:please )?(?:note|keep in mind|remember)(?: that)? (?:this|the) {_ABOUT}|"
    r"(?:please )?note(?: that)? (?:i|it is (?:not|important)|this is (?:not|a|an)|my|as an)\b|"
    rf"{_NOTES} ?(?:\(|:)|"
    rf"(?:this|the) {_ABOUT} (?:above|is|was|has|uses|contains|adheres|follows|meets|focuses|"
    r"describes|captures|accurately|avoids|stays|provides|begins|starts|includes)|"
    r"(?:as requested|as per your|thank you|thanks|you're welcome|i've|i have (?:kept|used|tried|"
    r"described|avoided|limited|ensured))\b)",
    re.IGNORECASE,
)
WORD_COUNT = re.compile(
    r"\W{0,3}\b(?:(?:total )?(?:word count|words)[:=]? ?~?\d{1,4}(?: words)?|"
    r"(?:about |approx(?:\.|imately)? )?\d{1,4} words(?: in (?:all|total))?)\W{0,3}\Z",
    re.IGNORECASE,
)
COUNT_LETTERS = 60  # a count of words at the end has no more
CLOSING = re.compile(r"[.!?]\"|\"(?=\s*(?:[}\]\n]|\Z|,\s*\"))")


def trim_caption(text: str, simple: str) -> str:
    """Strip what surrounds a caption, and give its beginning the template caption's form.

    White space becomes single spaces, curly quotes become straight ones. A text in which no caption
    is found stays as it is but for that, for the rules to refuse. The beginning may differ from
    the template caption in articles, case, hyphens and punctuation.
    """
    text = _open_json(_plain_letters(text), simple)
    text = _drop_places(text)
    answer = END_MARK.split(text, maxsplit=1)[0]  # what follows is not the answer any more
    text = answer if find_beginning(answer, simple) is not None else text
    text = _drop_lines(INLINE_TAG.sub(" ", BLOCK_TAG.sub("\n", text)), simple)
    text = LINK.sub(r"\1", text)
    text = _drop_lead(EMPHASIS.sub("", text), simple)
    text = _drop_chatter(text, simple)
    text = _drop_quotes(_close_spaces(text))
    span = find_beginning(text, simple)
    if span is not None and span[0] == 0:
        rest = text[span[1] :]
        loose = re.match(r"\s?[\"'](?!s\b)", rest)  # a quote that closes the beginning alone
        rest = rest[loose.end() :] if loose else rest
        text = simple + (" " if rest[:1].isalnum() else "") + rest
    return text


def find_beginning(text: str, simple: str) -> tuple[int, int] | None:
    """Find the template caption in a text, whatever its articles, case and punctuation.

    Returns:
        Where it begins and ends, as whole words, or None.
    """
    wanted = [word for word in re.findall(r"[^\W_]+", simple.casefold()) if word not in ARTICLES]
    words = [(found[0].casefold(), *found.span()) for found in re.finditer(r"[^\W_]+", text)]
    if not wanted:
        whole = re.search(rf"(?<!\w){re.escape(simple)}(?!\w)", text, re.IGNORECASE)
        return whole.span() if whole else None
    for place, (word, start, _) in enumerate(words):
        if word != wanted[0]:
            continue
        end = _match_words(words, place, wanted)
        # Of `nevus-like` the beginning is another word.
        if end is None or re.match(r"-[^\W\d_]", text[end : end + 2]):
            continue
        before = words[place - 1] if place else None
        if before and before[0] in ARTICLES and not text[before[2] : start].strip():
            start = before[1]
        return start, end
    return None


def _match_words(words: list[tuple[str, int, int]], place: int, wanted: list[str]) -> int | None:
    """Return where the wanted words end that begin at a place; articles between do not matter."""
    for item in wanted:
        while place < len(words) and words[place][0] in ARTICLES and words[place][0] != item:
            place += 1
        if place == len(words) or words[place][0] != item:
            return None
        place += 1
    return words[place - 1][2]


def _plain_letters(text: str) -> str:
    """Compose letters, straighten quotes and spaces, drop pictographs and what has no width."""
    text = unicodedata.normalize("NFC", text).translate(LETTERS)
    if "&" in text:
        text = html.unescape(text).translate(LETTERS)
    return "".join(letter for letter in text if letter.isascii() or _is_writing(letter))


def _is_writing(letter: str) -> bool:
    kind = unicodedata.category(letter)
    picture = kind in ("So", "Sk") and ord(letter) >= FIRST_PICTOGRAPH
    return (
        not picture and kind not in ("Cc", "Cf", "Cs", "Co", "Cn") and letter not in "\ufffd\ufe0f"
    )


def _open_json(text: str, simple: str) -> str:
    """Take the caption out of a JSON object, or the object away from behind a caption."""
    for found in islice(re.finditer(r"\{", text), MOST_OBJECTS):
        try:
            value, _ = DECODER.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        caption = _find_caption(value, simple)
        if caption is not None:
            return caption
        if find_beginning(text[: found.start()], simple) is not None:
            return text[: found.start()]
    return text


def _find_caption(value: dict[str, Any], simple: str) -> str | None:
    """Return the text of an object that holds the template caption, or is called a caption."""
    named = dict(_list_texts(value))
    for text in named.values():
        if (span := find_beginning(text, simple)) is not None and span[0] == 0:
            return text
    return next((named[key] for key in CAPTION_KEYS if key in named), None)


def _list_texts(value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON value
    waiting = [("", value)]
    while waiting:
        key, item = waiting.pop()
        if isinstance(item, str):
            yield key.lower(), item
        elif isinstance(item, dict):
            waiting += item.items()
        elif isinstance(item, list):
            waiting += [(key, part) for part in item]


def _drop_places(text: str) -> str:
    return NUMBERS.sub("", PLACE.sub("", BOX.sub("", text)))


def _drop_lines(text: str, simple: str) -> str:
    """Drop headings, rules, fences and tables, and make sentences of bullets."""
    lines: list[str] = []
    item = False  # whether the line before is a bullet's
    for line in (" ".join(line.split()) for line in text.split("\n")):
        line = _drop_hashtags(line.removeprefix("> "))
        bullet = BULLET.match(line)
        if not line or FENCE.match(line) or RULE.match(line):
            continue
        if (heading := HEADING.match(line)) or TABLE.match(line):
            cells = line.strip("|").split("|") if heading is None else [*heading.groups("")]
            lines += [cell.strip() for cell in cells if find_beginning(cell, simple) is not None]
            lines += [f"{cell.rstrip(':')}:" for cell in cells if NOTES_HEAD.match(cell)]
            item = False
            continue
        if bullet:
            line = line[bullet.end() :]
        if item:
            lines[-1] = _end_item(lines[-1], ";" if bullet else ".")
        lines.append(line)
        item = bullet is not None
    if item:
        lines[-1] = _end_item(lines[-1], ".")
    return "\n".join(lines)


def _drop_hashtags(line: str) -> str:
    words = line.split(" ")
    while words and HASHTAG.match(words[-1]):
        words.pop()
    return " ".join(words)


def _end_item(line: str, mark: str) -> str:
    ends = line.rstrip("\"'*`_) ")[-1:] in (".", ",", ";", ":", "!", "?", "")
    return line if ends else line + mark


def _drop_lead(text: str, simple: str) -> str:
    """Cut what stands before the template caption, where it only leads to it."""
    span = find_beginning(text, simple)
    if span is None or span[0] == 0:
        return text
    lead, rest = text[: span[0]], text[span[0] :]
    bare = lead.rstrip("\"'*`({[ ")
    own_line = bare.endswith("\n") or not bare
    chat = CHAT_LEAD.match(bare) is not None and bare.rstrip()[-1:] in ".!?"
    leads = own_line or chat or bare.rstrip().endswith(":") or THIS_IS.match(bare) is not None
    if refuses(DISCLAIMER.sub("", lead.replace("I'm", "I am"))) or not leads:
        return text
    if lead.rstrip().endswith('"'):  # then the caption ends where the quote does
        closing = CLOSING.search(rest, span[1] - span[0])
        if closing is not None:
            return rest[: closing.end()].rstrip('"')
    return rest


def _drop_chatter(text: str, simple: str) -> str:
    """Cut what a chat says about a caption after it."""
    span = find_beginning(text, simple)
    start = span[1] if span else 0
    found = CHATTER.search(text, start)
    if found is not None:
        text = text[: found.start()]
    text = text.rstrip()
    count = WORD_COUNT.search(text, max(start, len(text) - COUNT_LETTERS))
    if count is not None:
        text = text[: count.start()] + ("." if text[count.start()] in ".!?" else "")
    return text


def _close_spaces(text: str) -> str:
    """Make white space single, and none before punctuation or within empty brackets."""
    text = re.sub(r"[(\[]\s?[)\]]", "", " ".join(text.split()))
    return " ".join(re.sub(r" ([,.;:!?])(?![\w.])", r"\1", text).split())


def _drop_quotes(text: str) -> str:
    """Drop quotes and braces around the whole, and a quote without its other half."""
    text = text.strip("*`# ").rstrip("{}").strip()
    pairs = (('"', '"'), ("'", "'"), ("[", "]"), ("(", ")"))
    for opening, closing in pairs:
        inside = text[1:-1]
        if text[:1] == opening and text[-1:] == closing and opening not in inside:
            text = inside.strip()
        elif closing in "])" and text[-1:] == closing and opening not in text:
            text = text[:-1].strip()
    if text.count('"') % 2:
        text = _drop_odd_quote(text)
    if re.match(r"'\w", text) and not re.search(r"\w'(?!\w)", text[1:]):
        text = text[1:]
    if re.search(r"[.!?]'$", text) and not re.search(r"(?<!\w)'\w", text):
        text = text[:-1]
    return text.strip()


def _drop_odd_quote(text: str) -> str:
    if text.startswith('"'):
        return text[1:]
    place = text.rfind('"')
    return " ".join((text[:place] + text[place + 1 :]).split())
