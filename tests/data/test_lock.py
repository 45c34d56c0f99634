import errno
import fcntl
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from medart_cli.data.lock import check_lock, hold_lock
from medart_cli.errors import ConfigError
from tests.processes import as_user, elsewhere


@pytest.fixture
def file(tmp_path):
    return tmp_path / ".medart.lock"


def is_free(file, **options):
    try:
        with hold_lock(file, file.parent, **options):
            return True
    except ConfigError:
        return False


def test_the_second_run_is_refused_with_the_process_that_holds_it(file):
    with elsewhere(hold_lock, file, file.parent) as holder:
        with pytest.raises(ConfigError) as refused:
            hold_lock(file, file.parent).__enter__()
        with pytest.raises(ConfigError):
            check_lock(file, file.parent)
    text = str(refused.value)
    assert text.startswith(f"{file.parent}: in use by another medart run (process {holder} on ")
    assert text.endswith("; wait until it ends, or use another") and "\n" not in text
    assert refused.value.exit_code == 2


def test_the_file_goes_with_the_lock_and_the_next_run_begins(file):
    for _ in range(2):
        with hold_lock(file, file.parent):
            assert file.is_file()
        assert not file.exists()


def test_a_killed_process_leaves_a_file_that_is_in_nobodys_way(file):
    with elsewhere(hold_lock, file, file.parent) as holder:
        assert not is_free(file)
        os.kill(holder, signal.SIGKILL)
        while not is_free(file):  # the system ends the lock with the process
            time.sleep(0.001)
    check_lock(file, file.parent)
    assert not file.exists()


def test_processes_that_a_run_has_forked_do_not_keep_its_lock(file):
    with hold_lock(file, file.parent):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    with elsewhere(hold_lock, file, file.parent):  # while the child still lives
        assert not is_free(file)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_parts_share_an_output_and_each_is_at_work_once(file):
    with elsewhere(hold_lock, file, file.parent, part=1):
        with elsewhere(hold_lock, file, file.parent, part=2):
            assert is_free(file, part=3)
            assert not is_free(file, part=2)
            assert not is_free(file)  # the whole
        assert file.is_file()  # part 1 is still at work under it
        assert not is_free(file, part=1) and is_free(file, part=2)
    assert not file.exists()
    with elsewhere(hold_lock, file, file.parent):
        assert not is_free(file, part=1)


def test_other_ranks_leave_the_lock_to_the_first(file, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with elsewhere(hold_lock, file, file.parent):
        assert is_free(file)
    assert not file.exists()


def test_a_file_system_without_locks_is_a_warning(file, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert is_free(file)
    assert "no file locks" in caplog.text


@pytest.fixture
def shared(tmp_path):
    """A folder in which everyone may write, with a way to it."""
    if os.geteuid():
        pytest.skip("only root can be several users")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_the_lock_that_another_user_left_is_taken_over(shared, mode):
    file = shared / ".medart.lock"
    file.write_text(" (process 1 on elsewhere)")
    file.chmod(mode)
    with as_user(1):
        check_lock(file, shared)
        with hold_lock(file, shared):
            assert file.stat().st_uid == 1
    assert not file.exists()


def test_the_lock_that_another_user_holds_is_not(shared):
    file = shared / ".medart.lock"
    with elsewhere(hold_lock, file, shared) as holder, as_user(1):
        with pytest.raises(
            ConfigError, match=rf"in use by another medart run.*process {holder} on"
        ):
            hold_lock(file, shared).__enter__()
    assert not file.exists()


@pytest.mark.parametrize(("folder", "mode"), [(0o777, 0o600), (0o755, 0o644), (0o1777, 0o644)])
def test_a_lock_that_may_not_be_taken_over_names_its_user_and_what_to_do(shared, folder, mode):
    file = shared / ".medart.lock"
    file.touch()
    file.chmod(mode)
    shared.chmod(folder)
    for enter in (check_lock, lambda *places: hold_lock(*places).__enter__()):
        with as_user(1), pytest.raises(ConfigError) as refused:
            enter(file, shared)
        text = str(refused.value)
        assert text.startswith(f"{file}: is the lock file of user root on {shared}, and cannot be")
        assert "have the file removed" in text and "\n" not in text
    assert file.exists()


def test_a_folder_in_which_no_lock_can_be_made_is_a_wrong_request(shared):
    shared.chmod(0o755)
    with (
        as_user(1),
        pytest.raises(ConfigError, match="no lock file can be created in .*: Permission"),
    ):
        hold_lock(shared / ".medart.lock", shared).__enter__()


def test_a_lock_that_cannot_be_removed_at_the_end_is_in_nobodys_way(shared):
    file = shared / ".medart.lock"
    file.touch()
    file.chmod(0o666)
    shared.chmod(0o755)
    with as_user(1):
        assert is_free(file)
        assert is_free(file)
    assert file.exists()
