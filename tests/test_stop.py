import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from medart_cli import stop
from medart_cli.errors import Stopped


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    stop.forget()
    stop.listen()
    yield
    stop.forget()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_stops_without_a_signal():
    assert stop.check() is None
    assert not stop.received()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_stops_at_the_next_check_and_not_before(name):
    os.kill(os.getpid(), signal.Signals[name])
    with pytest.raises(Stopped, match=f"stopped by {name}; run the same command again"):
        stop.check()


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    monkeypatch.setattr(stop, "AGAIN", 0.01)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.02)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_echo_of_a_ctrl_c_by_torchrun_is_no_second_one():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.received()


def test_a_second_ctrl_c_is_one_line_and_the_shells_code(medart, monkeypatch, images, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("medart_cli.sample.run.find_source", interrupt)
    code, output, errors = medart("sample", "tiny", "--prompt", "a", "--out", tmp_path / "syn")
    assert (code, output, errors.count("\n")) == (130, "", 1)
    assert errors.startswith("medart sample: interrupted; run the same command again to resume")


def start_and_signal(
    name, seconds, words=("sample", "nosuchrun", "--prompt", "a", "--out", "nowhere")
):
    """Start a command, send it a signal so long after its first line of code, see how it ends."""
    code = "import sys; print('up', flush=True); from medart_cli.__main__ import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "up\n"
    time.sleep(seconds)
    process.send_signal(name)
    output, errors = process.communicate()
    return process.returncode, output, errors


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5])
def test_ctrl_c_while_libraries_are_imported_is_one_line_at_once(seconds):
    began = time.monotonic()
    code, output, errors = start_and_signal(signal.SIGINT, seconds)
    if code != 4:  # it had not ended before
        assert (code, output) == (75, "")
        assert errors.startswith("medart: stopped by SIGINT before it began; run the same command")
        assert errors.count("\n") == 1
        assert time.monotonic() - began < seconds + 3
    assert seconds > 0.2 or code == 75


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGUSR1], ids=lambda name: name.name)
def test_a_scheduler_is_answered_just_so_at_once(name):
    code, output, errors = start_and_signal(name, 0.1)
    assert (code, output) == (75, "")
    assert errors.startswith(f"medart: stopped by {name.name} before it began; ")


def test_the_installed_command_begins_where_signals_are_answered():
    project = Path(__file__).parents[1] / "pyproject.toml"
    scripts = tomllib.loads(project.read_text())["project"]["scripts"]
    assert scripts == {"medart": "medart_cli.__main__:main"}


def test_under_nohup_a_lost_connection_stops_nothing():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.received()


@pytest.mark.parametrize("seconds", [0.5, 0.9, 1.5])
def test_ctrl_c_while_torch_is_loaded_is_one_line_at_once_and_nothing_is_lost(tmp_path, seconds):
    """The libraries of a command that has been checked are loaded while it listens already."""
    folder = tmp_path / "images" / "nevus"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32), "brown").save(folder / "a.png")
    out = tmp_path / "run"
    words = ["finetune", str(tmp_path / "images"), "--base", "tiny", "--out", str(out), "--offline"]
    began = time.monotonic()
    code, output, errors = start_and_signal(signal.SIGINT, seconds, words)
    assert (code, output) == (75, ""), errors
    assert "run the same command again" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert time.monotonic() - began < seconds + 3
    assert not (out / "run.json").exists()


def test_signals_are_answered_at_once_only_while_libraries_are_loaded():
    stop.listen()
    noting = signal.getsignal(signal.SIGINT)
    with stop.at_once():
        assert signal.getsignal(signal.SIGINT) is not noting
    assert signal.getsignal(signal.SIGINT) is noting
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stop.at_once():  # nobody listens: nothing changes
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
