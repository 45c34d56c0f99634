import io
import logging
import sys

import pytest

from medart_cli import log as module
from medart_cli.log import lay_out, log, progress, start_log, table
from medart_cli.outlook import Outlook


def test_warnings_are_named_and_steps_are_not(capsys):
    start_log()
    log.info("training")
    log.warning("a row was left out")
    captured = capsys.readouterr()
    assert captured.err == "training\nwarning: a row was left out\n"
    assert captured.out == ""


def test_quiet_keeps_warnings_and_drops_the_rest(capsys):
    start_log(quiet=True)
    log.info("training")
    log.warning("careful")
    table("Scores", ["name"], [["x"]])
    assert capsys.readouterr().err == "warning: careful\n"
    start_log(verbose=True)
    assert log.isEnabledFor(logging.DEBUG)


def test_without_a_terminal_progress_is_a_plain_line_now_and_then(capsys, monkeypatch):
    start_log()
    now = iter([0.0, 0.0, 10.0, 40.0, 40.0, 45.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with progress("sample", 100, done=10) as bar:
        bar.advance()
        bar.advance({"loss": 0.25}, count=3)
        bar.advance()
    assert capsys.readouterr().err == "sample 14/100, 10 s each, 14 min left  loss 0.25\n"


def test_a_table_is_printed_on_standard_error(capsys):
    start_log()
    table("Scores", ["label", "n"], [["nevus", "12"]])
    captured = capsys.readouterr()
    assert "nevus" in captured.err
    assert captured.out == ""


NAMES = ("nevus [benign]", "lesion [", "odd [x] end", "[/II]", "[red]cell[/]", ":smile:", "{x} %s")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are_in_tables_and_lines(capsys, name):
    start_log()
    table(f"Title {name}", ["label", f"n {name}"], [[name, "12"], ["x", name]])
    log.info("label %s", name)
    log.warning("%s: skipped", name)
    text = capsys.readouterr().err
    assert f"Title {name}" in text and f"n {name}" in text
    assert text.count(name) == 6


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [True, False])
def test_names_are_printed_as_they_are_beside_bars(monkeypatch, name, terminal):
    screen = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(module, "LINE_EVERY", 0.0)
    start_log()
    with progress(f"read {name}", 2) as bar:
        bar.advance({f"loss {name}": 0.5})
    assert f"read {name}" in screen.getvalue() and f"loss {name} 0.5" in screen.getvalue()


def test_markdown_is_laid_out_for_a_terminal_and_for_nothing_else(monkeypatch):
    page = "# Title\n\n| a | b |\n|---|---|\n| **bold** | 2 |\n"
    for shown in (io.StringIO(), None):
        monkeypatch.setattr(sys, "__stdout__", shown)
        assert lay_out(page) == page
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "__stdout__", _Terminal())
    text = lay_out(page)
    assert "# Title" not in text and "**" not in text and "|---|" not in text
    assert "Title" in text and "bold" in text and "\x1b[" in text
    assert max(map(len, text.splitlines())) < 200  # readable lines on the widest terminal


def test_below_a_bar_stands_how_far_the_command_around_it_is(monkeypatch):
    screen = _Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    start_log()
    plan = Outlook("study", [("sample", "a"), ("sample", "b")], known={("sample", "a"): [6000]})
    with plan.shown(), plan.part(), progress("draw", 2) as bar:
        bar.advance()
    text = screen.getvalue()
    assert "draw" in text and "study part 1 of 2, about 3 h 20 min left" in text


def test_long_names_are_never_cut_so_that_two_look_alike(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    start_log()
    names = [f"{'runs/of/a/long/study/' * 4}seed-{seed}/images" for seed in (0, 1)]
    table("Scores", ["set", "n", "score"], [[name, "12", "0.5"] for name in names])
    lines = [line.split("│") for line in capsys.readouterr().err.splitlines()]
    printed = "".join(cells[1].strip() for cells in lines if len(cells) > 2)
    assert printed == "".join(names)
