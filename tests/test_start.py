"""What has little to do starts at once: refused requests, finished outputs, template captions.

torch, diffusers and transformers take seconds to load, and are loaded by whoever needs them.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.jobs import COMMANDS, build_parts, command

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "sklearn", "matplotlib")
CALL = """
import json, sys
from medart_cli.cli import call
code = call(sys.argv[1:])
print(json.dumps([code, [name for name in %r if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return build_parts(tmp_path_factory.mktemp("parts"))


def call(*words):
    """Run a command in a process of its own; return exit code, heavy libraries, standard error."""
    done = subprocess.run(
        [sys.executable, "-c", CALL % (HEAVY,), *map(str, words)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    return code, loaded, done.stderr


REFUSED = {
    "caption": ["caption", "nowhere"],
    "finetune": ["finetune", "nowhere", "--out", "run"],
    "sample": ["sample", "nowhere", "--prompt", "a", "--out", "syn"],
    "evaluate": ["evaluate", "nowhere", "elsewhere", "--out", "report"],
    "classify": ["classify", "nowhere", "--out", "clf"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_request_loads_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, loaded, err = call(*REFUSED[name])
    assert code in (2, 4) and "nowhere" in err
    assert loaded == []
    assert list(tmp_path.iterdir()) == []


def test_template_captions_load_nothing(parts, tmp_path):
    shutil.copytree(parts / "images", tmp_path / "images")
    code, loaded, err = call("caption", tmp_path / "images", "--style", "simple")
    assert (code, loaded) == (0, []), err
    assert (tmp_path / "images" / "metadata.jsonl").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_finished_command_that_is_called_again_loads_nothing(name, parts, tmp_path, medart):
    words = command(name, parts, tmp_path)
    code, _, err = medart(*words, "--json")
    assert code == 0, err
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = [word for word in words if word != "--quiet"]
    code, loaded, err = call(*again)
    assert (code, loaded) == (0, []), err
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    changed = {path.name for path in after if after[path] != before[path]}
    assert changed <= {"sample.json"}  # says how many images this call drew: none


@pytest.mark.parametrize("name", ("caption", "sample"))
def test_joining_the_parts_of_a_job_array_loads_nothing(name, parts, tmp_path, medart):
    words = command(name, parts, tmp_path)
    for part in ("1/2", "2/2"):
        code, _, err = medart(*words, "--shard", part)
        assert code == 0, err
    code, loaded, err = call(*words)
    assert (code, loaded) == (0, []), err


CHANGES = {
    "finetune": ("run/transformer/adapter_model.safetensors", "run/README.md"),
    "evaluate": ("report/metrics.json", "report/report.html"),
    "classify": ("clf/model.safetensors", "clf/regimes/real/seed-0.json"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_gone_from_a_finished_output_is_made_again(name, parts, tmp_path, medart):
    words = command(name, parts, tmp_path)
    code, _, err = medart(*words)
    assert code == 0, err
    for lost in CHANGES[name]:
        (tmp_path / lost).unlink()
        code, _, err = medart(*words)
        assert code == 0, err
        assert (tmp_path / lost).is_file()


@pytest.mark.parametrize("name", CHANGES)
def test_other_images_are_not_taken_for_the_finished_ones(name, parts, tmp_path, medart):
    own = shutil.copytree(parts, tmp_path / "parts")
    words = command(name, own, tmp_path)
    assert medart(*words)[0] == 0
    image = next((own / "images" / "nevus").glob("*.png"))
    shutil.copyfile(parts / "synthetic" / "nevus" / image.name, image)
    code, out, err = medart(*words, "--json")
    if name == "evaluate":  # a report is measured anew; the other two belong to their images
        assert code == 0 and "frechet" in out
    else:
        assert code == 2 and "was written with other images" in err or "other data" in err
