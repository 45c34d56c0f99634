import os
import signal
import threading
import time

import pytest

from medart_cli import stop
from medart_cli.ahead import map_ahead
from medart_cli.errors import Stopped


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("ahead", [1, 2, 100])
def test_results_come_in_the_order_of_the_items(threads, ahead):
    def square(item):
        time.sleep(0.002 * (5 - item))  # the first takes longest
        return item * item

    found = map_ahead(square, iter(range(6)), threads=threads, ahead=ahead)
    assert list(found) == [0, 1, 4, 9, 16, 25]


def test_no_item_is_taken_before_there_is_room_for_its_result():
    taken = []
    items = (taken.append(item) or item for item in range(50))
    found = map_ahead(str, items, threads=2, ahead=3)
    assert taken == []
    assert [next(found), next(found)] == ["0", "1"]
    assert taken == [0, 1, 2, 3, 4]


def test_an_error_is_raised_when_its_turn_comes_and_ends_the_threads():
    before = threading.active_count()
    found = map_ahead(lambda item: 1 // item, [2, 1, 0, 1], threads=2, ahead=4)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert threading.active_count() == before


def test_a_loop_that_is_left_ends_the_threads_and_what_was_not_begun_is_not_done():
    before, done = threading.active_count(), []

    def work(item):
        time.sleep(0.01)
        done.append(item)

    found = map_ahead(work, range(100), threads=2, ahead=50)
    next(found)
    found.close()
    assert threading.active_count() == before
    assert len(done) < 10


@pytest.mark.parametrize("threads", [0, 2])
def test_a_stop_signal_is_heard_before_the_next_result(threads, monkeypatch):
    monkeypatch.setattr(stop, "_received", [])
    found = map_ahead(str, range(10), threads=threads, ahead=4)
    next(found)
    stop._note(signal.SIGTERM, None)
    with pytest.raises(Stopped, match="SIGTERM"):
        next(found)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
def test_threads_hold_no_open_files():
    found = map_ahead(str, range(10), threads=4, ahead=8)
    before = len(os.listdir("/proc/self/fd"))
    next(found)
    assert len(os.listdir("/proc/self/fd")) == before
    found.close()
