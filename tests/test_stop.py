import os
import signal
import time

import pytest

from medart_cli import stop
from medart_cli.errors import Stopped


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    stop.listen()
    yield
    stop.listen()  # forget what came
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_stops_without_a_signal():
    assert stop.check() is None
    assert not stop.received()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
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
