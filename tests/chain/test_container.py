"""The commands in what a bare container gives them.

That is: hardly any shared memory (here 1 MB; Docker gives 64), few open files, a user id without a
name, a home folder that is not there or cannot be written, and no locale.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medart_cli
from tests.jobs import COMMANDS, build_parts, command

LABELS = ("Nävus", "Größe")
# Arguments: an empty folder that becomes a home which cannot be written, then what to run.
BOX = """
mount -t tmpfs -o size=1m tmpfs /dev/shm && mount -t tmpfs -o ro,size=4k tmpfs "$1" || exit
shift
ulimit -n 64
exec unshare --user --map-user=12345 --map-group=12345 "$@"
"""
WITHOUT_BOX = 'shift; ulimit -n 64; exec "$@"'
LOOK = """
import os, pathlib, pwd, shutil
assert shutil.disk_usage("/dev/shm").total == 1 << 20
assert not os.access(os.environ["HOME"], os.W_OK)
del os.environ["HOME"]
try:
    print(pathlib.Path.home(), pwd.getpwuid(os.getuid()))
except RuntimeError as error:
    print(error)
"""
WORDS = {
    "caption": ("images", "--style", "simple"),
    "finetune": ("images", "--base", "tiny", "--out", "run", "--steps", 2, "--resolution", 32),
    "sample": ("run", "--from", "images", "--out", "syn", "--steps", 2, "--resolution", 32),
    "evaluate": ("images", "syn", "--features", "efficientnet-lite0", "--out", "report",
                 "--bootstrap", 20),
    "classify": ("images", "--synthetic", "syn", "--freeze", "--out", "clf", "--bootstrap", 100,
                 "--regimes", "real,mix"),
    "reader": ("images", "syn", "--out", "kit"),
}  # fmt: skip
EXPECTED = (
    "warning: tiny: is a demonstration model", "warning: HLDF runs only 0 times in 2 steps",
    "warning: Demonstration only: images or captions were made with demonstration models",
    "warning: images are not square", "warning: syn: its images have other shapes",
)  # fmt: skip


class Box:
    """A folder, and commands that run in it as in a container, as far as this machine allows it."""

    def __init__(self, folder):
        self.folder, self.home = folder, folder.parent / "home"
        self.home.mkdir(mode=0o500)
        self.prefix = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", BOX, "box"]
        try:
            self.whole = self.run("true").returncode == 0
        except FileNotFoundError:
            self.whole = False
        if not self.whole:
            self.prefix = ["bash", "-c", WITHOUT_BOX, "box"]

    def run(self, *words, home=True):
        variables = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LC_ALL": "C",
            "PYTHONPATH": Path(medart_cli.__file__).parents[1], "OMP_NUM_THREADS": 1,
            "MEDART_CACHE": self.folder / "cache", **({"HOME": self.home} if home else {}),
        }  # fmt: skip
        clean = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        return subprocess.run(
            [*self.prefix, str(self.home), *clean, *map(str, words)],
            capture_output=True, encoding="utf-8", cwd=self.folder, timeout=120,
        )  # fmt: skip


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = tmp_path_factory.mktemp("box") / "work"
    generator = np.random.default_rng(0)
    for index in range(16):
        place = folder / "images" / ("train" if index < 8 else "test") / LABELS[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.normal((200, 120, 110), 30, (32, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{index}é.png")
    return Box(folder)


@pytest.fixture(scope="module")
def results(box):
    """The commands, one after the other; those from evaluate on are without a home."""
    return {
        stage: box.run(
            sys.executable, "-m", "medart_cli", stage, *words,
            *(() if stage == "reader" else ("--device", "cpu")),  # which computes nothing
            home=stage in ("caption", "finetune", "sample"),
        )
        for stage, words in WORDS.items()
    }  # fmt: skip


def test_the_box_is_as_bare_as_it_should_be(box):
    if not box.whole:
        pytest.skip("no user namespaces here: only the limit of open files is tested")
    done = box.run(sys.executable, "-c", LOOK)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Could not determine home directory.\n"


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_command_ends_well_and_says_nothing_strange(results, stage):
    done = results[stage]
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    strange = ("Traceback", "Warning", "Error", "Errno", "warning:", "error", "failed", "atplotlib")
    assert [
        line for line in lines
        if any(word in line for word in strange) and not line.startswith(EXPECTED)
    ] == []  # fmt: skip
    assert len(done.stdout.splitlines()) == 1


def test_what_is_not_ascii_comes_through(box, results):
    for name, count in (("images", 16), ("syn", 8)):  # captions of test images are not drawn
        rows = (box.folder / name / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(row)["text"] for row in rows]
        assert len(texts) == count and all("Nävus" in text or "Größe" in text for text in texts)
    assert "Nävus" in results["evaluate"].stderr and "Größe" in results["classify"].stderr


def test_nothing_is_written_but_the_outputs_and_the_cache(box, results):
    found = {path.name for path in box.folder.iterdir()}
    assert found == {"images", "run", "syn", "report", "clf", "kit", "cache"}


@pytest.mark.parametrize("stage", COMMANDS)
def test_without_a_place_for_the_cache_one_line_says_what_to_set(
    medart, monkeypatch, tmp_path, tmp_path_factory, stage
):
    parts = tmp_path_factory.getbasetemp() / "container-parts"
    if not parts.exists():
        build_parts(parts)
    monkeypatch.delenv("MEDART_CACHE")
    monkeypatch.setenv("HOME", str(parts / "base" / "model_index.json"))  # no folder
    words = command(stage, parts, tmp_path)
    if stage == "classify":  # only then are features kept
        words = [stage, parts / "images", "--backbone", parts / "network", "--freeze", "--quiet"]
        words += ["--out", tmp_path / "clf"]
    code, output, errors = medart(*words)
    if stage in ("caption", "sample", "reader"):  # which have no use for it
        assert code == 0
        return
    [line] = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert (code, output) == (2, "")
    assert "medart's cache cannot be made (Not a directory); set MEDART_CACHE to" in line
    assert not list(tmp_path.iterdir())
