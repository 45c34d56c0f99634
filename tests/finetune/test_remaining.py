import re

import pytest

from medart_cli.finetune import remaining as module
from medart_cli.finetune.remaining import Remaining


def run(every, first, total, seconds):
    """Note steps until something of the whole is said; return how many were noted."""
    pace = Remaining(every, first, total)
    for step in range(first + 1, total + 1):
        color = every > 0 and step % every == 0
        pace.note(step, seconds(step - first, color))


def steady(number, color):
    """Steps of 6 s, with HLDF of 60 s, but the first of the run."""
    return 500 if number == 1 else 60 if color else 6


def test_without_hldf_it_is_said_after_a_few_steps_and_once(said):
    run(0, 0, 1004, steady)
    assert len(said) == 1
    assert re.fullmatch(r"1000 steps left: about 100 min, done about .*\d\d:\d\d", said[0])


def test_both_kinds_of_steps_count_and_the_first_does_not(said):
    run(4, 0, 1004, steady)  # the fourth step is the first with HLDF
    assert said[0].startswith("999 steps left, 250 of them with HLDF: about 5 h 25 min, done about")
    assert len(said) == 1


def test_where_hldf_is_far_away_the_rest_is_said_before(said):
    run(500, 0, 1000, steady)
    assert said[0] == (
        "996 steps left, 2 of them with HLDF: about 99 min without these; the whole is said after "
        "the first of them"
    )
    assert said[1].startswith("500 steps left, 1 of them with HLDF: about 51 min, done about")
    assert len(said) == 2


def test_a_step_in_which_something_is_compiled_counts_for_nothing(said):
    pace = Remaining(0, 0, 105)
    pace.note(1, 900, compiled=True)
    for step in range(2, 6):
        pace.note(step, 50 if step == 2 else 6)
    assert said[0].startswith("100 steps left: about 10 min")


@pytest.mark.parametrize("every", [1, 2])
def test_hldf_at_each_step_or_each_other_is_measured_too(every, said):
    run(every, 10, 110, lambda number, color: 9 if number < 3 else 60 if color else 6)
    assert len(said) == 1 and " of them with HLDF: about " in said[0]
    assert said[0].startswith("98 steps left, 98 of" if every == 1 else "93 steps left, 47 of")


def test_a_short_rest_is_not_worth_a_line(said):
    run(2, 0, 12, lambda number, color: 0.5)
    assert not said
    assert module.WORTH_SECONDS == 60
