"""A finished output is known again, and nothing else is taken for one."""

import pytest

from medart_cli.data.finished import find_finished, forget_finished, hash_parts, note_finished


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
