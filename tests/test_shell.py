import pytest

from medart_cli import cli
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


def test_it_is_as_quiet_or_verbose_as_the_caller(monkeypatch):
    taken = []
    monkeypatch.setattr(cli, "call", lambda words: taken.append(words) or 0)
    type_command(["sample"], DoctorConfig(quiet=True))
    type_command(["sample"], DoctorConfig(verbose=True))
    assert taken == [["sample", "--quiet"], ["sample", "--verbose"]]
