import os
import signal

import pytest
import torch
from safetensors.torch import save_file

from medart_cli.data.files import draft_of, named_errors, remove_drafts, write_changed


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a"
    with draft_of(path) as draft:
        draft.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a bug")])
def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(type(error)), draft_of(path, shared=True) as draft:
        draft.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_drafts_that_killed_processes_left_of_a_shared_file_are_removed(tmp_path):
    path = tmp_path / "a[1].jsonl"
    if os.fork() == 0:
        with draft_of(path, shared=True) as draft:
            draft.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    for other in ("a[1].jsonl", ".a[1].jsonl.sidecars", ".b.jsonl.host.7.part"):
        (tmp_path / other).touch()
    assert len(os.listdir(tmp_path)) == 4
    remove_drafts(path)
    assert sorted(os.listdir(tmp_path)) == [
        ".a[1].jsonl.sidecars", ".b.jsonl.host.7.part", "a[1].jsonl",
    ]  # fmt: skip


def test_errors_name_the_file_whatever_library_writes_it(tmp_path):
    path = tmp_path / "none" / "a"
    with pytest.raises(OSError, match="No such file") as raised, named_errors(path):
        save_file({"a": torch.ones(1)}, path)
    assert raised.value.filename == str(path)


def test_a_text_that_is_there_is_not_written_again(tmp_path):
    path = tmp_path / "a"
    write_changed(path, "é")
    os.utime(path, (1000, 1000))
    write_changed(path, "é")
    assert path.stat().st_mtime == 1000
    write_changed(path, "e")
    assert path.read_text() == "e" and path.stat().st_mtime > 1000
