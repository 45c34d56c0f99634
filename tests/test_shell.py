import os
import signal

import pytest

from medart_cli import cli, stop
from medart_cli.doctor.options import DoctorConfig
from medart_cli.errors import (
    ConfigError,
    MissingModelError,
    RunError,
    Stopped,
    TooManyFailuresError,
)
from medart_cli.shell import complete, type_command, word_command


def test_a_command_is_told_of_device_network_and_failures():
    config = DoctorConfig(device="cpu", offline=True, max_failures=2)
    told = ["--offline", "--device", "cpu", "--max-failures", "2"]
    assert complete(["sample", "x"], config) == ["sample", "x", *told]
    assert complete(["sample", "x"], DoctorConfig()) == ["sample", "x"]


def test_it_is_shown_as_a_shell_takes_it():
    assert word_command(["sample", "my run"]) == "medart sample 'my run'"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (75, Stopped),
        (130, KeyboardInterrupt),
        (1, RunError),
        (2, ConfigError),
        (3, TooManyFailuresError),
        (4, MissingModelError),
        (139, RunError),
    ],
)
def test_how_a_command_ends_decides_how_the_caller_ends(code, error, monkeypatch):
    monkeypatch.setattr(cli, "call", lambda words: code)
    with pytest.raises(error):
        type_command(["sample"], DoctorConfig())


def test_a_signal_before_the_command_listens_stops_it_and_the_caller(monkeypatch, medart):
    """Reading options and importing the command takes a while, and a scheduler asks once."""
    started = cli.start_log
    monkeypatch.setattr(cli, "start_log", lambda **_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr("medart_cli.sample.run.run", lambda _: stop.check() or {"result": "done"})
    words = ["sample", "x", "--prompt", "a", "--out", "y"]
    stop.listen()
    with pytest.raises(Stopped):
        type_command(words, DoctorConfig())
    monkeypatch.setattr(cli, "start_log", started)
    code, output, _ = medart(*words)
    assert (code, output) == (0, "done\n")  # and a command of its own begins anew


def test_it_is_as_quiet_or_verbose_as_the_caller(monkeypatch):
    taken = []
    monkeypatch.setattr(cli, "call", lambda words: taken.append(words) or 0)
    type_command(["sample"], DoctorConfig(quiet=True))
    type_command(["sample"], DoctorConfig(verbose=True))
    assert taken == [["sample", "--quiet"], ["sample", "--verbose"]]


@pytest.mark.parametrize("quiet", [True, False])
def test_what_it_printed_is_only_logged(quiet, monkeypatch, capsys):
    monkeypatch.setattr("medart_cli.sample.run.run", lambda _: {"result": "the/images"})
    type_command(["sample", "x", "--prompt", "a", "--out", "y"], DoctorConfig(quiet=quiet))
    printed = capsys.readouterr()
    assert printed.out == "" and ("the/images" in printed.err) is not quiet
