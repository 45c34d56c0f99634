import re
from datetime import datetime, timedelta

import pytest

from medart_cli import log, outlook
from medart_cli.outlook import Outlook, find_outlook, word_end, word_seconds


@pytest.fixture
def now(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(outlook.time, "monotonic", lambda: clock[0])
    return clock


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (119, "119 s"), (840, "14 min"), (7199, "2 h 0 min"), (11100, "3 h 5 min"),
     (47.99 * 3600, "47 h 59 min"), (172_800, "2 d 0 h"), (187_000, "2 d 4 h")],
)  # fmt: skip
def test_durations_are_said_as_a_person_would(seconds, words):
    assert word_seconds(seconds) == words


def test_an_end_on_another_day_has_its_date():
    later = datetime.now() + timedelta(days=3, seconds=1)
    assert word_end(3 * 86400 + 1).startswith(later.strftime("%a %d %b, "))
    assert re.fullmatch(r"(\w+ \d+ \w+, )?\d\d:\d\d", word_end(1))  # midnight may be near


def test_parts_take_what_those_of_their_kind_took_else_those_of_their_command(now):
    parts = [("finetune", "a"), ("sample", "a"), ("finetune", "b"), ("finetune", "a")]
    plan = Outlook("study", parts, done=2, known={("finetune", "b"): [300.0]})
    with plan.shown(), plan.part():
        assert plan.tell() == "study part 3 of 6, more than 15 min left"  # no sample yet
        now[0] = 100
        assert plan.tell() == "study part 3 of 6, more than 13 min left"
        now[0] = 1000
        assert plan.tell() == "study part 3 of 6, more than 10 min left"  # longer than expected
    with plan.part():
        now[0] = 1200
    with plan.part():
        told = plan.tell()
    assert told.startswith("study part 5 of 6, about 22 min left, done about ")  # 300 + 1000 s


def test_what_was_done_before_tells_nothing_and_a_fault_ends_no_part(now):
    plan = Outlook("study", [("sample", "a"), ("sample", "b")])
    with plan.part(whole=False):
        now[0] = 1
    with pytest.raises(KeyError), plan.part():
        raise KeyError
    assert plan.tell() == "study part 2 of 2"


def test_a_command_within_a_command_within_another_tells_of_both():
    with Outlook("demo", [("study", "")]).shown():
        find_outlook().number = 1
        with Outlook("study", [("sample", "a")]).shown():
            assert find_outlook().tell() == "demo part 1 of 1, study part 0 of 1"
    assert find_outlook() is None


def test_lines_of_progress_tell_of_the_whole(monkeypatch, said):
    monkeypatch.setattr(log, "LINE_EVERY", 0.0)
    plan = Outlook("study", [("sample", "a")])
    with plan.shown(), plan.part(), log.progress("draw", 2) as bar:
        bar.advance()
    assert said[0].startswith("draw 1/2, ") and said[0].endswith("; study part 1 of 1")
