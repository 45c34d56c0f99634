"""The Makefile of docs/cluster.md: make runs nothing twice, and passes nothing over."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.jobs import build_parts

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
TRAIN = "--base base --resolution 16 --steps 2 --hldf-every 0 --preview-every 0 --offline"
COMMANDS = {
    "images/metadata.jsonl": "caption images --model llava --base base --max-new-tokens 2 "
    "--attempts 1",
    "run/run.json": f"finetune images --out run {TRAIN}",
    "synthetic/metadata.jsonl": "sample run --from images --out synthetic --steps 2",
    "report/metrics.json": "evaluate test synthetic --run run --out report --features network "
    "--bootstrap 20 --floor-repeats 2 --member-count 4",
    "classifier/metrics.json": "classify images --synthetic synthetic --test test --freeze "
    "--out classifier --backbone network --bootstrap 100",
}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, models and the Makefile, and all that it makes."""
    folder = build_parts(tmp_path_factory.mktemp("make"))
    shutil.rmtree(folder / "synthetic")
    rules = re.search(r"```make\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]
    (folder / "Makefile").write_text(rules)
    return folder


@pytest.fixture
def run(place, medart, monkeypatch):
    monkeypatch.chdir(place)

    def run(target):
        code, _, err = medart(*COMMANDS[target].split(), "--device", "cpu")
        assert code == 0, err
        return err

    return run


def is_made(target="all"):
    """Ask make whether anything is to be done; nothing is run."""
    code = subprocess.run(["make", "--question", target], capture_output=True, check=False)
    assert code.returncode in (0, 1), code.stderr
    return code.returncode == 0


def times_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_makefile_is_that_of_the_commands_here(place):
    rules = (place / "Makefile").read_text()
    for target, words in COMMANDS.items():
        made = re.search(rf"^{re.escape(target)}:.*\n\tmedart (.*)", rules, re.MULTILINE)[1].split()
        assert made[:2] == words.split()[:2], target


def test_what_is_done_is_left_alone_and_what_is_older_than_its_input_is_renewed(place, run):
    for target in COMMANDS:
        assert not is_made(target)
        run(target)
        assert is_made(target), target
    assert is_made()

    before = times_of(place)
    for target in COMMANDS:
        assert "already finished" in run(target), target
    assert times_of(place) == before  # so nothing that depends on it runs either

    later = time.time_ns() + 2_000_000_000
    os.utime(next(iter(sorted(place.glob("images/*/*.png")))), ns=(later, later))
    for target in COMMANDS:
        assert not is_made(target), target
        assert "already finished" in run(target), target
        assert is_made(target), target
    assert is_made()


def test_what_nothing_is_made_from_renews_nothing(place, run):
    note = place / "run" / "notes.txt"
    note.write_text("of a user")
    later = time.time_ns() + 4_000_000_000
    os.utime(note, ns=(later, later))
    before = times_of(place)
    for target in ("run/run.json", "synthetic/metadata.jsonl"):
        run(target)
    assert times_of(place) == before
