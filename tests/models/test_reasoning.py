import time

import pytest

from medart_cli.models.reasoning import (
    find_opened,
    has_reasoning,
    is_mark,
    is_opened_before,
    read_marks,
    strip_reasoning,
)

CAPTION = "A dermoscopic image of nevus, light brown with a regular border."
# A thought quotes the prompt, and with it the template caption: that is what makes it dangerous.
THOUGHT = 'The user wants: begin exactly with "A dermoscopic image of nevus". It is brown.\n\nOkay.'
WHOLE = {
    "Qwen, GLM, InternVL, DeepSeek": f"<think>\n{THOUGHT}\n</think>\n\n{CAPTION}",
    "an empty thought in one mark": f"<think/>{CAPTION}",
    "no thought in it": f"<think>\n\n</think>\n\n{CAPTION}",
    "GLM-4V": f"<think>{THOUGHT}</think><answer>{CAPTION}</answer>",
    "GLM-4.5V": f"<think>{THOUGHT}</think>\n<|begin_of_box|>{CAPTION}<|end_of_box|>",
    "thinking": f"<thinking>{THOUGHT}</thinking>{CAPTION}",
    "reasoning": f"<reasoning>{THOUGHT}</reasoning>\n{CAPTION}",
    "capitals": f"<THINK>{THOUGHT}</THINK> {CAPTION}",
    "closed by another name": f"<thinking>{THOUGHT}</think> {CAPTION}",
    "attributes": f'<think effort="high">{THOUGHT}</think> {CAPTION}',
    "Seed-OSS": f"<seed:think>{THOUGHT}</seed:think>{CAPTION}",
    "Mistral": f"[THINK]{THOUGHT}[/THINK]{CAPTION}",
    "Kimi-VL": f"◁think▷{THOUGHT}◁/think▷{CAPTION}",
    "MedGemma": f"<unused94>thought\n{THOUGHT}<unused95>{CAPTION}",
    "Gemma 4": f"<|channel>thought\n{THOUGHT}\n<channel|>{CAPTION}",
    "Gemma 4, empty": f"<|channel>thought\n<channel|>{CAPTION}",
    "Open Thoughts": f"<|begin_of_thought|>{THOUGHT}<|end_of_thought|>\n<|begin_of_solution|>"
    f"{CAPTION}<|end_of_solution|>",
    "Cohere": f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_RESPONSE|>{CAPTION}"
    "<|END_RESPONSE|>",
    "Apertus": f"<|inner_prefix|>{THOUGHT}<|inner_suffix|>{CAPTION}",
    "gpt-oss": f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final"
    f"<|message|>{CAPTION}<|return|>",
    "gpt-oss without its marks": f"analysis{THOUGHT}assistantfinal{CAPTION}",
    "Muse": f"to=self<|message|>{THOUGHT}<|eom|><|start|>assistant to=user<|message|>{CAPTION}",
    "Granite": f"Here is my thought process: {THOUGHT} Here is my response: {CAPTION}",
    "HuatuoGPT": f"## Thinking\n\n{THOUGHT}\n\n## Final Response\n\n{CAPTION}",
    "LLaVA-CoT": f"<SUMMARY>{THOUGHT}</SUMMARY><REASONING>{THOUGHT}</REASONING><CONCLUSION>"
    f"{CAPTION}</CONCLUSION>",
    "begun in the prompt": f"{THOUGHT}\n</think>\n\n{CAPTION}",
    "begun in the prompt, Mistral": f"{THOUGHT}[/THINK]{CAPTION}",
    "begun in the prompt, MedGemma": f"thought\n{THOUGHT}<unused95>{CAPTION}",
    "nested": f"<think>a <think>{THOUGHT}</think> b</think>{CAPTION}",
    "another thought behind it": f"<think>{THOUGHT}</think>{CAPTION}<think>{THOUGHT}</think>",
    "a cut thought behind it": f"{CAPTION} <think>{THOUGHT}",
    "names another family's mark": f"<think>no <|channel> here: {THOUGHT}</think>{CAPTION}",
}
CUT = {
    "Qwen": f"<think>\n{THOUGHT}",
    "MedGemma": f"<unused94>thought\n{THOUGHT}",
    "Gemma 4": f"<|channel>thought\n{THOUGHT}",
    "Gemma behind a server that drops special tokens": f"thought\n{THOUGHT}",
    "gpt-oss": f"<|channel|>analysis<|message|>{THOUGHT}",
    "gpt-oss without its marks": f"analysis{THOUGHT}",
    "Muse": f"to=self<|message|>{THOUGHT}<|eom|>",
    "Mistral": f"[THINK]{THOUGHT}",
    "Kimi-VL": f"◁think▷{THOUGHT}",
    "Granite": f"Here's my thought process: {THOUGHT}",
    "HuatuoGPT": f"## Thinking\n{THOUGHT}",
    "closed, and nothing behind it": f"<think>{THOUGHT}</think>\n",
    "an answer that was cut at once": f"<think>{THOUGHT}</think><answer>",
}


@pytest.mark.parametrize("family", WHOLE)
def test_of_an_answer_with_thoughts_the_answer_alone_stays(family):
    assert strip_reasoning(WHOLE[family]) == CAPTION
    assert has_reasoning(WHOLE[family])


@pytest.mark.parametrize("family", CUT)
def test_of_an_answer_that_is_only_thoughts_nothing_stays(family):
    assert strip_reasoning(CUT[family]) == ""
    assert has_reasoning(CUT[family])


@pytest.mark.parametrize(
    "text",
    [CAPTION, "", "I think that this is a nevus.", "Analysis: brown.", "The thought of it.",
     "A nevus < 3 mm > 2 mm, brown.", "An [arrow] points to it.", "analysis shows a nevus"],
)  # fmt: skip
def test_a_text_without_thoughts_stays_as_it_is(text):
    assert strip_reasoning(text) == text
    assert not has_reasoning(text)


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_end|>\n<|im_start|>assistant\n<think>\n", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("[/INST][THINK]", "[THINK]"),
        ("<|turn>model\n<|channel>thought\n<channel|>", ""),
        ("<|im_assistant|>assistant<|im_middle|>◁think▷", "◁think▷"),
    ],
)
def test_a_thought_that_the_prompt_opens_is_known(prompt, opened):
    assert find_opened(prompt) == opened
    if opened:  # and is a thought to its end, where nothing closes it
        assert strip_reasoning(THOUGHT, opened=opened) == ""
        assert strip_reasoning(THOUGHT) == THOUGHT


def test_an_answer_that_closes_what_it_has_not_opened_tells_of_the_prompt():
    assert is_opened_before(f"{THOUGHT}</think>{CAPTION}")
    assert is_opened_before(f"{THOUGHT}[/THINK]{CAPTION}")
    for text in (WHOLE["Qwen, GLM, InternVL, DeepSeek"], WHOLE["Granite"], CAPTION, THOUGHT):
        assert not is_opened_before(text)


def test_marks_among_special_tokens_are_known_and_other_special_tokens_are_not():
    marks = "<think> </think> [THINK] <unused94> <unused95> <|channel> <channel|> <|channel|>"
    marks += " <|message|> ◁/think▷ <|begin_of_box|> <|START_THINKING|> <|begin_of_solution|>"
    assert [mark for mark in marks.split() if not is_mark(mark)] == []
    others = "<s> </s> <pad> <image> <|im_end|> <|image_pad|> <unused93> [IMG] <|vision_start|>"
    assert [other for other in others.split() if is_mark(other)] == []


def test_the_marks_that_a_tokenizer_states_are_used():
    template = {
        "start_anchor": "<|im_start|>",
        "fields": {
            "reasoning_content": {"open": ["<<ponder>>", "<<muse>>"], "close": "<<said>>"},
            "thinking": {"open_pattern": r"\{\{\w+", "close_pattern": r"\w+\}\}"},
            "content": {"close": "<|im_end|>"},
            "reasoning": {"open": "<half>"},
        },
    }
    pairs = read_marks(template)
    assert len(pairs) == 2
    for text in (f"<<muse>>{THOUGHT}<<said>>{CAPTION}", f"{{{{on {THOUGHT} off}}}} {CAPTION}"):
        assert strip_reasoning(text, pairs=pairs) == CAPTION
        assert has_reasoning(text, pairs=pairs) and not has_reasoning(text)
    assert find_opened("<<ponder>>\n", pairs=pairs) == "<<ponder>>"
    for nothing in (None, {}, {"fields": None}, {"fields": {"thinking": None}}, "text"):
        assert read_marks(nothing) == []


def test_many_thoughts_that_do_not_end_take_no_time():
    begun = time.monotonic()
    assert strip_reasoning("Said. " + "<think>" * 50_000) == "Said."
    assert time.monotonic() - begun < 5
