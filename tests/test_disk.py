"""A full disk and two runs on one output, for each of the commands that write an output."""

import errno
import os
import subprocess
from contextlib import chdir

import pytest

from medart_cli.data.lock import hold_lock
from tests.jobs import COMMANDS, build_parts, command, outcome
from tests.processes import elsewhere, largest_file
from tests.small_study import build_study, study_words

pytestmark = pytest.mark.charts

LOCKS = {
    "caption": "images/.metadata.jsonl.lock",
    "finetune": "run/.medart.lock",
    "sample": "syn/.medart.lock",
    "evaluate": "report/.medart.lock",
    "classify": "clf/.medart.lock",
    "reader": "kit/.medart.lock",
}
# Free room in KiB at which the disk is full at different places of each command's work.
ROOMS = {
    "caption": (8, 16, 24),
    "finetune": (8, 112, 320, 684),
    "sample": (8, 12, 24, 44),
    "evaluate": (8, 72, 200),
    "classify": (8, 572, 3500),
    "reader": (4, 8, 32),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return build_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Give a command a cache of its own, in any folder."""

    def place(folder):
        monkeypatch.setenv("MEDART_CACHE", str(folder))

    place(tmp_path / "cache")
    return place


@pytest.fixture
def disk(tmp_path):
    """A small disk; `disk(size)` changes its size, in KiB."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(size, *more):
        options = ["-o", f"{','.join(more)}size={size}k", "tmpfs", str(place)]
        return subprocess.run(["mount", "-t", "tmpfs", *options], capture_output=True, check=True)

    try:
        resize(1)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounts are not allowed here")
    yield place, lambda size: resize(size, "remount,")
    subprocess.run(["umount", str(place)], check=True)


def check_error(result, code, *texts):
    ended, output, errors = result
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert (ended, output, len(lines)) == (code, "", 1), errors
    for text in texts:
        assert text in lines[0]


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(
    medart, parts, caches, disk, tmp_path, stage
):
    place, resize = disk
    whole = tmp_path / "whole"
    whole.mkdir()
    assert medart(*command(stage, parts, whole))[0] == 0
    expected = outcome(whole)
    for number, room in enumerate(ROOMS[stage]):
        resize(64 * 1024)
        out = place / str(number)
        out.mkdir()
        words = command(stage, parts, out)
        used = sum(file.stat().st_blocks for file in place.rglob("*")) // 2
        resize(used + room)
        result = medart(*words)
        check_error(result, 1, str(out), "No space left on device")
        resize(64 * 1024)
        assert medart(*words)[0] == 0
        assert outcome(out) == expected, room
        assert not [path for path in out.rglob(".*") if path.name.endswith((".part", ".lock"))]


@pytest.mark.parametrize("stage", ["finetune", "evaluate"])
def test_a_full_disk_below_the_cache_is_one_error(medart, parts, caches, disk, tmp_path, stage):
    place, resize = disk
    resize(20)
    caches(place / "cache")
    words = command(stage, parts, tmp_path)
    check_error(medart(*words), 1, str(place), "No space left on device")
    assert not list(place.rglob(".*.part"))
    resize(1024)
    assert medart(*words)[0] == 0


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_used_up_quota_is_one_error_and_the_run_goes_on_later(
    medart, parts, caches, tmp_path, stage
):
    words = command(stage, parts, tmp_path)
    with largest_file({"sample": 900}.get(stage, 1500)):
        result = medart(*words)
    check_error(result, 1, os.strerror(errno.EFBIG))
    assert medart(*words)[0] == 0


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_second_run_on_the_output_is_refused(medart, parts, caches, tmp_path, stage):
    words = command(stage, parts, tmp_path)
    lock = tmp_path / LOCKS[stage]
    lock.parent.mkdir(exist_ok=True)
    with elsewhere(hold_lock, lock, lock.parent):
        check_error(medart(*words), 2, "in use by another medart run (process ")
        assert not (lock.parent / "settings.toml").exists()
    assert medart(*words)[0] == 0


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The words of a short study, whose output is the folder `study`."""
    parts = build_study(tmp_path_factory.mktemp("study"))
    words = study_words(parts, "study", "--seeds", 1, "--quiet", arms="lora")
    return [*words, "--classify", "none"]


def test_a_full_or_read_only_disk_ends_a_study_with_one_error_and_it_goes_on(
    medart, study, caches, disk, tmp_path
):
    place, resize = disk
    with chdir(tmp_path):
        assert medart(*study)[0] == 0
        expected = outcome(tmp_path / "study")
    with chdir(place):
        for room in (8, 24, 200, 600):  # its own lists, and the outputs of its commands
            resize(room)
            code, output, errors = medart(*study)
            first, *rest = [line for line in errors.splitlines() if line.startswith("medart ")]
            assert (code, output) == (1, "")
            assert "study/" in first and "No space left on device" in first
            assert all(line.endswith(" ended with exit code 1, see above") for line in rest)
        resize(64 * 1024)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        told = "study: no lock file can be created in "
        check_error(medart(*study), 2, told)
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        assert medart(*study)[0] == 0
    assert outcome(place / "study") == expected
    assert not [path for path in place.rglob(".*") if path.name.endswith((".part", ".lock"))]
