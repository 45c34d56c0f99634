"""Separate what a model thinks from what it says; pure functions of text.

A reasoning model writes its thoughts between marks of its own, and thoughts quote the prompt: none
of them may become a caption. A mark may be missing at either end: the chat template has opened the
thought already, or the token limit has cut it before it closed.
"""

import re
from collections.abc import Sequence

_NAME = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|analysis|scratchpad)"
# Where a thought begins and where it ends, by family. The first line is `<think>` of Qwen, GLM,
# InternVL, DeepSeek and most others with its variants: `<thinking>`, `<seed:think>` (Seed-OSS),
# `<|begin_of_thought|>` (Open Thoughts), `<|START_THINKING|>` (Cohere), `[THINK]` (Mistral),
# `<reasoning>`; then Kimi-VL, Apertus, MedGemma, Gemma 4, Granite 3.2 and HuatuoGPT, which use
# plain words.
PAIRS: tuple[tuple[str, str], ...] = (
    (
        rf"<\|?(?:(?:begin|start)_(?:of_)?)?{_NAME}(?:_(?:begin|start))?(?:\s[^<>]*)?\|?>"
        r"|\[think(?:ing)?\]",
        rf"<\|?(?:/|end_(?:of_)?){_NAME}\|?>|<\|?{_NAME}_end\|?>|\[/think(?:ing)?\]",
    ),
    ("◁think▷", "◁/think▷"),
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    (r"<unused94>", r"<unused95>"),
    (r"<\|channel>", r"<channel\|>"),
    (r"here(?:'s| is) my thought process:", r"here(?:'s| is) my response:"),
    (r"^##\s*thinking\b:?", r"^##\s*final (?:response|answer)\b:?"),
)
_EMPTY = rf"<{_NAME}\s*/>"  # an empty thought in one mark
# What some models put around the answer itself: what stands before such a mark is not the answer.
_ANSWER = (
    r"<(?:answer|response|conclusion|final)>|<\|START_RESPONSE\|>|<\|begin_of_solution\|>"
    r"|<\|begin_of_(?:answer|response)\|>"
)
_AROUND = (
    r"</(?:answer|response|conclusion|final)>|<\|END_RESPONSE\|>|<\|end_of_solution\|>"
    r"|<\|end_of_(?:answer|response)\|>|<\|(?:begin|end)_of_box\|>"
)
# The messages of gpt-oss and Muse: `<|channel|>analysis<|message|>`, `to=self<|message|>`.
_FRAME = r"<\|(?:start|channel|message|end|return|eom|eot)\|>"
_CHANNEL = r"<\|(?:channel|message)\|>"
_MESSAGE = re.compile(
    r"(?:<\|channel\|>\s*(?P<channel>\w+)[^<]*)?(?:to=(?P<to>[\w.-]+))?\s*<\|message\|>"
    rf"(?P<said>.*?)(?={_FRAME}|\Z)",
    re.DOTALL,
)
# The same when a server has dropped the marks as special tokens; so too Gemma's `thought` line.
_BARE_CHANNELS = re.compile(
    r"\A\s*analysis(?=[A-Z\n]).*?(?:assistant\s*final\s*(.*))?\Z", re.DOTALL
)
_BARE_THOUGHT = re.compile(r"\A\s*thought\s*\n")
_FLAGS = re.IGNORECASE | re.DOTALL | re.MULTILINE


def strip_reasoning(text: str, *, opened: str = "", pairs: Sequence[tuple[str, str]] = ()) -> str:
    """Return an answer without its thoughts; empty where it holds nothing else.

    Args:
        text: The answer, with the marks of its thoughts in it.
        opened: The mark of a thought that the prompt ends with, from `find_opened`.
        pairs: More marks, patterns of beginning and end, such as `read_marks` gives.
    """
    text = re.sub(_EMPTY, "", text, flags=_FLAGS)
    if _BARE_THOUGHT.match(text):
        opened = opened or "<think>"
    if found := _BARE_CHANNELS.match(text):
        text = found[1] or ""
    marks = [*pairs, *PAIRS]
    text = _final_messages(opened + text)
    for begin, end in marks:
        text = _drop_closed(text, re.compile(begin, _FLAGS), re.compile(end, _FLAGS))
    for _, end in marks:  # a thought that began before the answer
        text = re.split(rf"(?:{end})", text, flags=_FLAGS)[-1]
    for begin, _ in marks:  # a thought that was cut
        text = re.split(rf"(?:{begin})", text, maxsplit=1, flags=_FLAGS)[0]
    text = re.split(_ANSWER, text, flags=_FLAGS)[-1]
    return re.sub(f"{_AROUND}|{_FRAME}", "", text, flags=_FLAGS).strip()


def has_reasoning(text: str, *, pairs: Sequence[tuple[str, str]] = ()) -> bool:
    """Say whether an answer holds a mark of a thought, or of an answer that follows one."""
    if _BARE_THOUGHT.match(text) or _BARE_CHANNELS.match(text):
        return True
    marks = "|".join(
        [*(mark for pair in [*pairs, *PAIRS] for mark in pair), _EMPTY, _ANSWER, _CHANNEL]
    )
    return re.search(marks, text, flags=_FLAGS) is not None


def is_opened_before(text: str) -> bool:
    """Say whether an answer closes a thought that it has not opened: the prompt did."""
    for begin, end in PAIRS:
        found = re.search(end, text, flags=_FLAGS)
        if found and not re.search(begin, text[: found.start()], flags=_FLAGS):
            return True
    return False


def find_opened(prompt: str, *, pairs: Sequence[tuple[str, str]] = ()) -> str:
    """Return the mark of a thought that a prompt opens and does not close; empty if there is none.

    Args:
        prompt: What the chat template writes after the question.
        pairs: As in `strip_reasoning`.
    """
    for begin, end in [*pairs, *PAIRS]:
        *_, last = ["", *re.finditer(begin, prompt, flags=_FLAGS)]
        if isinstance(last, re.Match) and not re.search(end, prompt[last.end() :], flags=_FLAGS):
            return last[0]
    return ""


def is_mark(token: str) -> bool:
    """Say whether a special token of a tokenizer is a mark that these functions look for."""
    marks = [*(mark for pair in PAIRS for mark in pair), _ANSWER, _AROUND, _FRAME]
    return any(re.fullmatch(mark, token.strip(), flags=_FLAGS) for mark in marks)


def read_marks(template: object) -> list[tuple[str, str]]:
    """Return the marks that a tokenizer states itself, in its `response_template`.

    Args:
        template: As transformers keeps it: fields of an answer, each with what opens and closes it,
            as text or as pattern; anything else has no marks.
    """
    fields = template.get("fields") if isinstance(template, dict) else None
    pairs = []
    for name, field in (fields or {}).items():
        if not re.search("reason|think|thought", name) or not isinstance(field, dict):
            continue
        begin, end = (_read_pattern(field, side) for side in ("open", "close"))
        if begin and end:
            pairs.append((begin, end))
    return pairs


def _drop_closed(text: str, begin: re.Pattern[str], end: re.Pattern[str]) -> str:
    """Drop each thought that ends, in one pass: many that do not end would take one pass each."""
    kept, place = [], 0
    while (opening := begin.search(text, place)) and (closing := end.search(text, opening.end())):
        kept.append(text[place : opening.start()])
        place = closing.end()
    return "".join([*kept, text[place:]])


def _read_pattern(field: dict[str, object], side: str) -> str:
    pattern, literal = field.get(f"{side}_pattern"), field.get(side)
    if isinstance(pattern, str):
        return f"(?:{pattern})"
    texts = [literal] if isinstance(literal, str) else literal
    if not isinstance(texts, list):
        return ""
    return "|".join(re.escape(text.strip()) for text in texts if isinstance(text, str))


def _final_messages(text: str) -> str:
    """Return the messages of channels that are meant for the reader; other text as it is."""
    if not re.search(_CHANNEL, text):
        return text
    return " ".join(
        found["said"]
        for found in _MESSAGE.finditer(text)
        if found["channel"] in (None, "final") and found["to"] in (None, "user")
    )
