import pytest

from medart_cli.caption import rules
from medart_cli.caption.refusals import FIRST, HINTS, OTHER_HINT, Refusals
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
def test_a_share_that_is_allowed_stops_nothing(share, said):
    refusals = Refusals(share)
    for number in range(FIRST):
        refusals.note("text", ["repeats itself"] if number < FIRST * share else [])
    refusals.finish()
    assert said() == "" if callable(said) else not said


def test_two_reasons_are_not_added_and_too_long_is_none():
    refusals = Refusals(0.5)
    for number in range(FIRST):
        refusals.note("text", ["too long", "repeats itself" if number % 2 else "gives advice: x"])


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
