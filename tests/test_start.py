"""What has little to do starts at once: refused requests, finished outputs, template captions.

torch, diffusers and transformers take seconds to load, and are loaded by whoever needs them.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib import resources

import pytest

from medart_cli.finetune.options import FinetuneConfig
from medart_cli.options import read_settings
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
    "reader": ["reader", "nowhere", "elsewhere", "--out", "kit"],
    "docs": ["docs", "nowhere"],
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
    "sample": ("syn/contact-sheet.png", "syn/sample.json", "syn/000003.png"),
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


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "sample"])
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


def test_a_device_that_is_not_there_is_refused_before_anything_is_wiped(parts, tmp_path, medart):
    words = command("sample", parts, tmp_path)
    assert medart(*words)[0] == 0
    before = sorted(path.name for path in (tmp_path / "syn").iterdir())
    code, _, err = medart(*words, "--overwrite", "--device", "cuda")
    assert code == 2 and "GPUs" in err
    assert sorted(path.name for path in (tmp_path / "syn").iterdir()) == before


def test_merged_weights_of_an_earlier_step_are_not_the_finished_ones(parts, tmp_path, medart):
    words = command("finetune", parts, tmp_path)
    weights = tmp_path / "run" / "merged" / "transformer" / "diffusion_pytorch_model.safetensors"
    assert medart(*words, "--merge")[0] == 0
    first = weights.read_bytes()
    assert medart(*words, "--steps", 8)[0] == 0
    assert medart(*words, "--steps", 8, "--merge")[0] == 0
    second = weights.read_bytes()
    assert second != first
    weights.unlink()
    assert medart(*words, "--steps", 8, "--merge")[0] == 0
    assert weights.read_bytes() == second


def test_a_base_that_was_moved_is_named_anew_in_a_finished_run(parts, tmp_path, medart):
    old = shutil.copytree(parts / "base", tmp_path / "old")
    words = command("finetune", parts, tmp_path)
    place = words.index(str(parts / "base"))
    words[place] = str(old)
    assert medart(*words)[0] == 0
    words[place] = str(old.rename(tmp_path / "new"))
    assert medart(*words)[0] == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["base"] == words[place]


@pytest.mark.parametrize("how", ["torn", "old"])
def test_an_odd_run_json_is_written_anew_and_not_believed(parts, tmp_path, medart, how):
    words = command("finetune", parts, tmp_path)
    assert medart(*words)[0] == 0
    place = tmp_path / "run" / "run.json"
    facts = json.loads(place.read_text())
    if how == "torn":
        place.write_text(place.read_text()[:-40])
    else:  # as an earlier version wrote it
        place.write_text(json.dumps({key: facts[key] for key in facts if key != "processes"}))
    code, _, err = medart(*words)
    assert code == 0, err
    assert json.loads(place.read_text())["processes"] == 1


def test_a_profile_that_was_edited_is_another_one(parts, tmp_path, medart):
    profile = tmp_path / "own.toml"
    text = (resources.files("medart_cli") / "profiles" / "dermoscopy.toml").read_text()
    profile.write_text(text)
    words = [*command("classify", parts, tmp_path), "--profile", str(profile)]
    assert medart(*words)[0] == 0
    words.remove("--quiet")
    assert "already finished" in medart(*words)[2]
    profile.write_text(text.replace("flips = true", "flips = false"))
    assert text != profile.read_text()
    assert "already finished" not in medart(*words)[2]


def test_settings_of_another_command_mean_what_they_say(tmp_path):
    file = tmp_path / "settings.toml"
    for name, loss in (("finetune", "published"), ("sample", None)):
        file.write_text(f"# Settings of medart {name}, in the form that its --config reads.\n")
        assert read_settings(str(file), FinetuneConfig).get("hldf_loss") == loss
