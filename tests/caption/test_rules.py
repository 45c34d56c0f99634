import pytest

from medart_cli.caption.rules import (
    Rules,
    begins_with,
    covered,
    cut_caption,
    echoes,
    find_faults,
    named_classes,
    refuses,
    repeats,
    split_sentences,
    trim_caption,
    word_overlap,
)
from medart_cli.data.profiles import read_profile

SIMPLE = "A dermoscopic image of nevus"
INSTRUCTION = read_profile("dermoscopy").build_prompt({"label": "nevus"})
GOOD = (
    f"{SIMPLE}, showing a round lesion with an even brown network. Its border is regular. "
    "The surrounding skin is pale with a few dark hairs."
)


def rules(limit=120):
    return Rules(
        simple=SIMPLE,
        instruction=INSTRUCTION,
        label="nevus",
        others=["melanoma", "seborrheic keratosis"],
        forbidden=["biopsy", "treatment"],
        limit=limit,
        count_tokens=lambda text: len(text.split()) + 1,
    )


def test_a_good_caption_breaks_no_rule():
    assert find_faults(GOOD, rules()) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The lesion is round and brown.", "does not begin with the template caption"),
        (f"{SIMPLE}.", "says nothing beyond the template caption"),
        (f"{SIMPLE}. Use at most 70 words in all. Describe only what you see.", "echoes"),
        (f"{SIMPLE}. I cannot describe medical images.", "refuses to describe"),
        (f"{SIMPLE} with brown brown brown brown spots.", "repeats itself"),
        (f"{SIMPLE}, brown. It may be a melanoma.", "names another class"),
        (f"{SIMPLE}, brown. A biopsy is advised.", "contains a forbidden word"),
        (f"{SIMPLE}, " + ", ".join(f"spot number {index}" for index in range(60)), "too long"),
    ],
)
def test_each_rule_refuses_its_own_fault_and_no_other(text, fault):
    found = find_faults(text, rules())
    assert len(found) == 1 and fault in found[0]


@pytest.mark.parametrize(
    ("raw", "trimmed"),
    [
        (f'  "{SIMPLE},\n brown."  ', f"{SIMPLE}, brown."),
        (f"**Caption:** {SIMPLE}, brown.", f"{SIMPLE}, brown."),
        (f"Caption: '{SIMPLE}, brown.'", f"{SIMPLE}, brown."),
        (f'Sure! Here is one: "{SIMPLE}, brown."', f"{SIMPLE}, brown."),
        (f"This is {SIMPLE}, brown.", f"This is {SIMPLE}, brown."),
        ("a Dermoscopic IMAGE of nevus, brown.", f"{SIMPLE}, brown."),
        ("A photo of nevus", "A photo of nevus"),
        ("", ""),
    ],
)
def test_trimming_takes_away_what_stands_around_a_caption(raw, trimmed):
    assert trim_caption(raw, SIMPLE) == trimmed


def test_the_beginning_is_whole_words():
    assert begins_with("a dermoscopic image of NEVUS, brown", SIMPLE)
    assert begins_with(SIMPLE, SIMPLE)
    assert not begins_with("A dermoscopic image of nevuses", SIMPLE)


def test_an_echo_is_a_long_run_of_the_instruction_or_a_mark_of_the_chat():
    words = INSTRUCTION.split()
    assert echoes(f"{SIMPLE}. {' '.join(words[-9:])}", INSTRUCTION, SIMPLE)
    assert not echoes(f"{SIMPLE}. {' '.join(words[-4:])}", INSTRUCTION, SIMPLE)
    assert not echoes(GOOD, INSTRUCTION, SIMPLE)  # the simple caption stands in the instruction
    for mark in ("USER: what", "ASSISTANT: It", "<image>", "[/INST]", "<|eot_id|>"):
        assert echoes(f"{SIMPLE}, brown. {mark}", INSTRUCTION, SIMPLE)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot provide a diagnosis.",
        "I can\N{RIGHT SINGLE QUOTATION MARK}t see the image.",
        "I'm sorry, but I am unable to help.",
        "As an AI language model, ...",
        "It is impossible to determine the type.",
        "Please consult a dermatologist.",
        "Please provide the image.",
    ],
)
def test_refusals_are_seen_in_many_words(text):
    assert refuses(f"{SIMPLE}. {text}")


@pytest.mark.parametrize(
    "text", ["The border cannot be followed.", "No vessels are seen.", "I-shaped streaks.", GOOD]
)
def test_findings_in_the_negative_are_no_refusal(text):
    assert not refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "brown brown brown",
        "with dark spots with dark spots with dark spots",
        "It is brown. It has hair. It is brown.",
        "It shows a spot of a dark color and an even round border with hair. "
        "Also a spot of a dark color and an even round border with skin.",
        "aaaaaaaaaaaaaaaa",
        "!?!?!?!?!?!?!?!?!?!?!?!?!?",
    ],
)
def test_loops_are_repetition(text):
    assert repeats(text)


@pytest.mark.parametrize(
    "text", ["very very brown", "dark spots and light spots and gray spots", GOOD, ""]
)
def test_ordinary_texts_are_no_repetition(text):
    assert not repeats(text)


def test_a_class_is_found_in_any_form_of_writing_and_only_as_a_whole():
    others = ["seborrheic keratosis", "melanoma"]
    assert named_classes("like Melanomas", "nevus", others) == ["melanoma"]
    assert named_classes("a seborrheic_keratosis", "nevus", others) == ["seborrheic keratosis"]
    assert named_classes("with melanomatous spots", "nevus", others) == []


def test_a_class_inside_the_own_label_is_not_another_class():
    assert named_classes("a dysplastic nevus, brown", "dysplastic nevus", ["nevus"]) == []
    assert named_classes("a nevus, brown", "nevus", ["dysplastic nevus"]) == []
    assert named_classes("a dysplastic nevus", "nevus", ["dysplastic nevus"]) == []
    assert named_classes("polyps near polyps", "polyp", ["dyed lifted polyps"]) == []


def test_everyday_words_and_numbers_are_no_class():
    assert named_classes("in 1 of 2 areas of normal skin", "melanoma", ["normal", "1", "2"]) == []


def test_a_forbidden_word_in_the_simple_caption_is_the_label_s():
    held = rules()
    treated = Rules(**{**held.__dict__, "simple": "An image of skin after treatment"})
    assert find_faults("An image of skin after treatment, pale and smooth.", treated) == []


def test_an_over_long_caption_is_cut_after_the_last_sentence_that_fits():
    cut = cut_caption(GOOD, rules(limit=20))
    assert (
        cut
        == f"{SIMPLE}, showing a round lesion with an even brown network. Its border is regular."
    )
    assert rules(limit=20).fits(cut) and not rules(limit=20).fits(GOOD)


def test_nothing_is_cut_where_no_sentence_fits_or_none_says_more():
    assert cut_caption(GOOD, rules(limit=8)) is None
    assert cut_caption(f"{SIMPLE}. It is brown and round and has hair.", rules(limit=8)) is None
    assert cut_caption(f"{SIMPLE} without any end", rules(limit=50)) is None


def test_numbers_and_quotes_do_not_end_sentences_wrongly():
    assert split_sentences('It is 1.5 mm wide. "Round." Dark') == [
        "It is 1.5 mm wide.",
        '"Round."',
        "Dark",
    ]
    assert split_sentences("One. Two", whole=True) == ["One."]


def test_attributes_are_covered_by_beginnings_of_words():
    attributes = {"color": ["brown"], "border": ["border", "symmetr"], "hair": ["hair"]}
    assert covered("A brownish spot, symmetrical.", attributes) == ["color", "border"]
    assert covered("An asymmetrical chair.", attributes) == []


def test_word_overlap_is_a_share_of_both_texts():
    assert word_overlap("a brown spot", "a brown spot") == 1
    assert word_overlap("brown spot", "pale spot") == pytest.approx(1 / 3)
    assert word_overlap("brown", "pale") == 0
    assert word_overlap("", "") == 1
