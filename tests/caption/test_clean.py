import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medart_cli.caption.clean import find_beginning, trim_caption
from medart_cli.caption.rules import find_faults, find_flags
from medart_cli.data.profiles import read_profile
from tests.caption.test_rules import FIELDS, GOOD, SIMPLE, rules


@pytest.mark.parametrize(
    ("raw", "trimmed"),
    [
        (f'  "{SIMPLE},\n brown."  ', f"{SIMPLE}, brown."),
        (f"**Caption:** {SIMPLE}, brown.", f"{SIMPLE}, brown."),
        (f'Sure! Here is one: "{SIMPLE}, brown."', f"{SIMPLE}, brown."),
        (f"Red: {SIMPLE}, brown.", f"{SIMPLE}, brown."),
        (f"It looks like {SIMPLE}, brown.", f"It looks like {SIMPLE}, brown."),
        (f"It is no {SIMPLE}, brown.", f"It is no {SIMPLE}, brown."),
        ("a Dermoscopic IMAGE of nevus, brown.", f"{SIMPLE}, brown."),
        ("A dermoscopic image of the nevus's border", f"{SIMPLE}'s border"),
        ("A dermoscopic, image of: nevus (brown)", f"{SIMPLE} (brown)"),
        (f"{SIMPLE} (brown", f"{SIMPLE} (brown"),
        (f"{SIMPLE}, brown (see text).", f"{SIMPLE}, brown (see text)."),
        (f'{SIMPLE} with a "veil', f"{SIMPLE} with a veil"),
        (f"{SIMPLE}, a spot's edge and dots' rims.", f"{SIMPLE}, a spot's edge and dots' rims."),
        (f"{SIMPLE}, 24 dots [1] and rows [2, 3] .", f"{SIMPLE}, 24 dots and rows."),
        (f"{SIMPLE}, of 12 words", f"{SIMPLE}, of"),
        (f"{SIMPLE}, 3*4 and a_b, c__d.", f"{SIMPLE}, 3*4 and a_b, c__d."),
        (f"{SIMPLE}, see [the atlas](https://example.org/a).", f"{SIMPLE}, see the atlas."),
        (f"{SIMPLE}, 1.5 mm .5 x", f"{SIMPLE}, 1.5 mm .5 x"),
        (f"{SIMPLE}, a &lt; b &amp; c.", f"{SIMPLE}, a < b & c."),
        (f"{SIMPLE} with:\n* dots\n* lines,\n* hair\nIt is pale",
         f"{SIMPLE} with: dots; lines, hair. It is pale"),
        (f"| Part | Text |\n|---|---|\n| Caption | {SIMPLE}, brown. |\n| Color | brown |",
         f"{SIMPLE}, brown."),
        (f"{SIMPLE}, brown.\n## Color\nIt is pale.", f"{SIMPLE}, brown. It is pale."),
        (f"**{SIMPLE}, brown.**\n**It is pale.**", f"{SIMPLE}, brown. It is pale."),
        (f"{SIMPLE}, brown. The text is white.", f"{SIMPLE}, brown. The text is white."),
        ('{"caption": 3, "text": "Another text."}', "Another text."),
        ('{"a": [1, {"b": "x"}]}', '{"a": [1, {"b": "x"}]'),
        ("A photo of nevus", "A photo of nevus"),
        ("", ""),
    ],
)  # fmt: skip
def test_trimming_takes_away_what_stands_around_a_caption(raw, trimmed):
    assert trim_caption(raw, SIMPLE) == trimmed


def test_a_refusal_before_a_caption_is_not_taken_away():
    raw = f"I cannot see the image. Here is a caption anyway: {GOOD}"
    assert trim_caption(raw, SIMPLE) == raw


def test_the_beginning_may_differ_in_articles_case_and_punctuation_alone():
    template = "A microscopic image of a blood cell: basal cell"
    for text in ("A microscopic image of the blood cell, basal-cell, x", "microscopic image of "
                 "blood cell \N{EN DASH} Basal Cell x", f"{template} x"):  # fmt: skip
        span = find_beginning(text, template)
        assert span is not None and span[0] == 0 and text[span[1] :].strip(", ") == "x"
    for text in ("A microscopic image of blood cells: basal cell", "A microscopic image of basal "
                 "cell", "A microscopic image of a blood cell: basal", ""):  # fmt: skip
        assert find_beginning(text, template) is None
    assert find_beginning("An X", "A") is None and find_beginning("see a", "A") == (4, 5)


@pytest.mark.parametrize(("name", "label", "classes", "text", "_"), FIELDS)
def test_a_text_that_needs_no_cleaning_stays_as_it_is(name, label, classes, text, _):
    simple = read_profile(name).simple_caption(label)
    assert trim_caption(f"{simple}, {text}", simple) == f"{simple}, {text}"


BEFORE = ["", "Sure! ", "Sure! Here it is:\n\n", "**Caption:** ", "# Caption\n\n", "Assistant: ",
          "- ", "\n\n", "```\n", "> ", "Certainly.\n", "<answer>"]  # fmt: skip
AFTER = ["", "\n\n", " Let me know if you want more.", "\n\n(Word count: 24)", "</s>", "\n```",
         "\nNote: I am an AI.", "\n\n---\n", "</answer>", " I hope this helps!",
         '\n{"score": 1}']  # fmt: skip
QUOTES = ['"', "'", "**", "\N{LEFT DOUBLE QUOTATION MARK}", "", "`", "*"]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(BEFORE),
    st.sampled_from(QUOTES),
    st.lists(st.sampled_from(AFTER), max_size=3),
    st.sampled_from(["", " #nevus #skin"]),
)
def test_what_stands_around_a_caption_goes_in_any_combination(before, quote, after, tags):
    closing = (
        "\N{RIGHT DOUBLE QUOTATION MARK}" if quote == "\N{LEFT DOUBLE QUOTATION MARK}" else quote
    )
    raw = f"{before}{quote}{GOOD}{closing}{''.join(after)}{tags}"
    assert trim_caption(raw, SIMPLE) == GOOD


PIECES = [SIMPLE, GOOD, *BEFORE, *AFTER, *"{}[]()<>*_`|#\"'\n:;,.- \\", '{"a": "', "<box>",
          "</box>", "[1, 2]", "(1,2),", "consistent with ", "should be ", "45-year-old ", "病", "ö",
          "\x00"]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_any_text_is_cleaned_and_judged_without_an_error(raw):
    text = trim_caption(raw, SIMPLE)
    assert text == " ".join(text.split()) and text.isprintable()
    find_flags(text, rules())
    if not find_faults(text, rules()):
        assert text.startswith(SIMPLE)


@pytest.mark.parametrize(
    "piece",
    ["a ", "{", "[", "(", "<", "*", "`", "\n", "| ", "- a\n", "# a\n", '"', "'", ".", SIMPLE,
     "<box>", "<p", "1, ", "[1,", "(1,2)", "_", "consistent with ", "should be a ", '{"a":',
     "Note: ", "no ", "12 words ", "#a ", "January ", "aitis ", "x" * 29 + " ", "melanoma ",
     "the ", "a-", "[a](", "male ", "45 year ", "&amp;", "</s> ", "mm "],
)  # fmt: skip
def test_a_text_of_100_kilobytes_takes_no_time(piece):
    text = f'{SIMPLE}, "{piece * (100_000 // len(piece))}'
    started = time.process_time()
    cleaned = trim_caption(text, SIMPLE)
    find_faults(cleaned, rules())
    find_flags(cleaned, rules())
    assert time.process_time() - started < 3  # a fifth of it; quadratic regular expressions: hours
