from collections import Counter

import pytest

from medart_cli.caption import rules
from medart_cli.caption.refusals import (
    EARLY,
    FIRST,
    HINTS,
    OTHER_HINT,
    Refusals,
    refuse_templates,
)
from medart_cli.errors import RunError


def test_a_run_in_which_most_first_answers_fail_for_one_reason_stops():
    refusals = Refusals(0.5)
    for number in range(FIRST - 1):
        faults = ["names another class: BE"] if number < 11 else []
        refusals.note(f"text {number}\nof a model", faults)
    with pytest.raises(RunError) as error:
        refusals.note("text", [])
    told = str(error.value)
    assert "11 of the first 20 answers are refused: each names another class, such as" in told
    assert '"text 0 of a model" (names another class: BE); ' in told and "--classes" in told
    assert "--max-refused 1 goes on" in told
    refusals.note("text", ["names another class: BE"])  # those that follow are not judged


@pytest.mark.parametrize("share", [0.5, 1])
def test_that_all_are_refused_is_said_at_once_and_once(share, said):
    refusals = Refusals(share)
    for number in range(EARLY):
        assert not said
        refusals.note("text", ["gives advice: a" if number % 3 else "repeats itself"])
    assert len(said) == 1
    assert said[0].startswith("all of the first 10 answers are refused: most often it gives advice")
    assert said[0].endswith(HINTS[rules.GIVES_ADVICE])
    refusals.finish()
    assert len(said) == 1


def test_one_answer_that_is_taken_lets_a_run_go_on_without_a_word(said):
    refusals = Refusals(0.5)
    for number in range(FIRST):
        faults = [] if number == EARLY - 1 else [f"reason {number % 3}"]
        refusals.note("text", faults)
    assert not said


def test_a_run_whose_answers_are_all_refused_stops_whatever_the_reasons(said):
    refusals = Refusals(0.5)
    for number in range(FIRST - 1):
        refusals.note("text", [f"reason {number % 4}"])
    with pytest.raises(RunError, match="all of the first 20 answers are refused: most often it"):
        refusals.note("text", ["reason 0"])


def test_template_captions_alone_are_no_success():
    faults = Counter({"gives advice": 7, "repeats itself": 9})
    with pytest.raises(RunError, match="all 12 texts are the template caption.* it repeats its"):
        refuse_templates(Counter(simple=12, rejected=3), faults)
    for statuses in (Counter(simple=12, ok=1), Counter(simple=EARLY - 1), Counter(simple=40)):
        refuse_templates(statuses, faults)  # one was taken; too few; most by --style simple
    refuse_templates(Counter(simple=12), Counter())


@pytest.mark.parametrize("share", [0.5, 1])
def test_a_share_that_is_allowed_stops_nothing(share, said):
    refusals = Refusals(share)
    for number in range(FIRST):
        refusals.note("text", ["repeats itself"] if number % 2 or share == 1 else [])
    refusals.finish()
    assert len(said) == (share == 1)  # that all are refused is said, and stops nothing


def test_two_reasons_are_not_added_and_too_long_is_none():
    refusals = Refusals(0.5)
    for number in range(FIRST):
        fault = ("repeats itself", "gives advice: x", "too long")[number % 3]
        refusals.note("text", ["too long", fault])


def test_a_short_run_is_judged_at_its_end(said):
    refusals = Refusals(0.5)
    for faults in (["gives advice: a"], ["gives advice: b"], []):
        refusals.note("x" * 500, faults)
    refusals.finish()
    told = said() if callable(said) else "\n".join(said)
    assert "2 of the first 3 answers are refused: each gives advice" in told
    assert "x" * 200 + " ..." in told and "x" * 201 not in told


def test_hints_are_of_reasons_that_there_are():
    reasons = {value for value in vars(rules).values() if isinstance(value, str)}
    assert {*HINTS} <= reasons and OTHER_HINT not in HINTS.values()
