import errno
import hashlib
import os
import time

import pytest

from medart_cli.data import hashes
from medart_cli.data.hashes import hash_all, hash_files, hash_records
from medart_cli.data.manifest import HashedRecord, Record
from medart_cli.errors import Stopped


def write(path, content, age=10):
    path.write_bytes(content)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.fixture(autouse=True)
def any_age_is_settled(monkeypatch):
    """A test cannot set a file's change time."""
    monkeypatch.setattr(hashes, "SETTLED", -10.0)


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read to be hashed, in order."""
    names, hash_waiting = [], hashes._hash_waiting

    def note(waiting, *others):
        names.extend(path.name for path in waiting)
        hash_waiting(waiting, *others)

    monkeypatch.setattr(hashes, "_hash_waiting", note)
    return names


def test_a_file_is_read_once_and_again_when_it_changed(tmp_path, read):
    files = [write(tmp_path / name, name.encode()) for name in ("a", "b")]
    cache = tmp_path / "cache"
    expected = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for _ in range(2):
        assert hash_files(files, cache=cache) == (expected, {})
    assert read == ["a", "b"]
    write(files[1], b"B")  # of the same size
    assert hash_files(files, cache=cache)[0][files[1]] == hashlib.sha256(b"B").hexdigest()
    assert read == ["a", "b", "b"]


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, read, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED", 2.0)
    path = write(tmp_path / "a", b"a", age=0)
    for _ in range(2):
        hash_files([path], cache=tmp_path / "cache")
    assert read == ["a", "a"]


def test_without_a_cache_nothing_is_written(tmp_path, read):
    path = write(tmp_path / "a", b"a")
    for _ in range(2):
        hash_files([path], cache=None)
    assert read == ["a", "a"]
    assert os.listdir(tmp_path) == ["a"]


def test_what_cannot_be_read_is_told(tmp_path):
    path, gone = write(tmp_path / "a", b"a"), tmp_path / "gone"
    found, faults = hash_files([path, gone], cache=tmp_path / "cache")
    assert list(found) == [path]
    assert faults[gone].errno == errno.ENOENT


def test_a_stop_keeps_what_was_hashed(tmp_path, read):
    files = [write(tmp_path / name, name.encode()) for name in ("a", "b", "c")]
    polls = iter(range(10))

    def poll():
        if next(polls) == 2:
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        hash_files(files, cache=tmp_path / "cache", poll=poll)
    hash_files(files, cache=tmp_path / "cache")
    assert read == ["a", "b", "c", "c"]


def test_a_torn_memory_is_made_anew_and_one_out_of_reach_is_left_alone(tmp_path, read, monkeypatch):
    path, cache = write(tmp_path / "a", b"a"), tmp_path / "cache"
    hash_files([path], cache=cache)
    place = next((cache / "hashes").iterdir())
    whole = place.read_text()
    place.write_text(whole[:-3])
    hash_files([path], cache=cache)
    assert place.read_text() == whole
    place.unlink()
    place.mkdir()  # reading it is an error that says nothing of the content
    with pytest.raises(OSError):
        hash_files([path], cache=cache)
    assert place.is_dir()


def test_of_files_that_are_all_needed_a_missing_one_is_an_error(tmp_path):
    there, gone = write(tmp_path / "a", b"a"), tmp_path / "b"
    assert hash_all([there], None) == {there: hashlib.sha256(b"a").hexdigest()}
    with pytest.raises(FileNotFoundError):
        hash_all([there, gone], None)


def test_records_keep_all_they_say_and_get_the_hash_of_their_file(tmp_path):
    write(tmp_path / "a.png", b"a")
    rows = [{"file_name": "a.png", "site": 7, "sha256": "f" * 64}, {"file_name": "gone.png"}]
    records = [Record(row, tmp_path, f"m.jsonl:{place}") for place, row in enumerate(rows, 1)]
    found, faults = hash_records([*records, records[0]], None)
    hashed = HashedRecord(rows[0], tmp_path, "m.jsonl:1", hashlib.sha256(b"a").hexdigest())
    assert found == [hashed, hashed]
    assert hashed.with_fields(text="b") == HashedRecord(
        rows[0] | {"text": "b"}, tmp_path, "m.jsonl:1", hashed.sha256
    )
    assert [*faults] == [tmp_path / "gone.png"]
