"""A finished output is known again, and nothing else is taken for one."""

import os

import pytest

from medart_cli.data.finished import (
    find_finished,
    forget_finished,
    hash_parts,
    note_finished,
    renew_times,
)


@pytest.fixture
def finished(tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").write_bytes(b"picture")
    (tmp_path / "metrics.json").write_text("{}")
    note_finished(tmp_path, hash_parts(["seed", 1]), {"result": "r", "n": 3})
    return tmp_path


def test_the_same_parts_give_the_summary_back(finished):
    assert find_finished(finished, hash_parts(["seed", 1])) == {"result": "r", "n": 3}
    (finished / ".medart.lock").write_text("")  # of a run that looks at it
    assert find_finished(finished, hash_parts(["seed", 1])) == {"result": "r", "n": 3}


def test_other_parts_or_another_order_are_something_else(finished):
    assert find_finished(finished, hash_parts(["seed", 2])) is None
    assert hash_parts(["a", "b"]) != hash_parts(["b", "a"]) != hash_parts(["ba"])
    assert hash_parts([{"a": 1, "b": 2}]) == hash_parts([{"b": 2, "a": 1}])


@pytest.mark.parametrize("change", ["gone", "cut", "more", "torn note", "no note"])
def test_an_output_that_is_not_whole_is_not_finished(finished, change):
    if change == "gone":
        (finished / "plots" / "a.png").unlink()
    elif change == "cut":
        (finished / "plots" / "a.png").write_bytes(b"pic")
    elif change == "more":
        (finished / "notes.txt").write_text("mine")
    elif change == "torn note":
        text = (finished / "finished.json").read_text()
        (finished / "finished.json").write_text(text[:-9])
    else:
        forget_finished(finished)
        forget_finished(finished)  # twice is no error
    assert find_finished(finished, hash_parts(["seed", 1])) is None


def write_at(path, time):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time, time))
    return path


def test_a_result_gets_a_new_time_only_where_something_read_is_newer(tmp_path):
    result = write_at(tmp_path / "out" / "result", 1000)
    source = write_at(tmp_path / "in" / "deep" / "a.png", 1000)
    renew_times([result, tmp_path / "lost"], [tmp_path / "in", result, tmp_path / "gone"])
    assert result.stat().st_mtime == 1000 and not (tmp_path / "lost").exists()
    write_at(source, 1001)
    renew_times([result], [tmp_path / "in"])
    assert result.stat().st_mtime > 1001
    write_at(source, 1 << 32)  # a file server's clock is ahead
    renew_times([result], [source])
    assert result.stat().st_mtime >= 1 << 32


def test_what_lies_among_what_is_read_but_is_not_read_counts_for_nothing(tmp_path):
    result = write_at(tmp_path / "metadata.jsonl", 1000)
    for name in ("review.html", ".hidden", ".cache/a.png", "run/report/metrics.json"):
        write_at(tmp_path / name, 2000)
    write_at(tmp_path / "run" / "run.json", 900)  # of a run that counts by its last file
    renew_times([result], [tmp_path], {".html"})
    assert result.stat().st_mtime == 1000
    inside = write_at(tmp_path / "report" / "metrics.json", 1000)
    write_at(tmp_path / "report" / "report.html", 2000)
    renew_times([inside], [tmp_path], {".html"})
    assert inside.stat().st_mtime == 1000
