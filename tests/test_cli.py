import inspect
import json
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields

import pytest

from medart_cli import cli
from medart_cli import options as config
from medart_cli.caption.options import CaptionConfig
from medart_cli.cli import COMMANDS, app, read_options
from medart_cli.errors import ConfigError
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.options import DEFAULT_CAPTIONER

HEAVY = {
    "torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "timm", "numpy",
    "cleanfid", "sklearn", "matplotlib", "PIL", "safetensors", "huggingface_hub", "pydicom",
}  # fmt: skip
QUICK = ("--resolution", 16, "--steps", 1, "--hldf-every", 0, "--preview-every", 0, "--quiet")


def test_help_loads_no_heavy_library():
    code = "import sys, medart_cli.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stdout.split())


def test_python_m_medart_cli_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "medart_cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("medart 0.")
    assert done.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(medart, name):
    code, output, _ = medart(name, "--help")
    assert code == 0
    commands = {command.name: command for command in app.registered_commands}
    _, *parameters = inspect.signature(commands[name].callback).parameters.values()
    for parameter in parameters:
        information = parameter.annotation.__metadata__[0]
        assert information.help, parameter.name
    assert "Common" in output


def test_config_has_no_text_annotations():
    assert not any(isinstance(field.type, str) for field in fields(FinetuneConfig))


def test_the_result_alone_is_on_standard_output(medart, images, small_base, tmp_path):
    run = tmp_path / "run"
    code, output, _ = medart("finetune", images, "--base", small_base, "--out", run, *QUICK)
    assert (code, output) == (0, f"{run}\n")
    code, output, _ = medart(
        "sample", run, "--prompt", "a", "--out", tmp_path / "s", "--json", "-q"
    )
    assert (code, json.loads(output)["images"]) == (0, 1)


def test_defaults_then_config_then_command_line(medart, images, small_base, tmp_path):
    settings = tmp_path / "mine.toml"
    settings.write_text(f'base = "{small_base}"\nrank = 4\nlearning-rate = 0.5\nflip = true\n')
    run = tmp_path / "run"
    code, _, errors = medart(
        "finetune", images, "--config", settings, "--rank", 2, "--out", run, *QUICK
    )
    assert code == 0, errors
    used = tomllib.loads((run / "settings.toml").read_text())
    assert (used["rank"], used["learning_rate"], used["flip"]) == (2, 0.5, True)
    assert used["batch_size"] == 1


def test_the_settings_of_a_run_make_the_same_run_again(medart, images, small_base, tmp_path):
    medart("finetune", images, "--base", small_base, "--out", tmp_path / "one", "--rank", 3, *QUICK)
    code, _, errors = medart(
        "finetune", "--config", tmp_path / "one/settings.toml", "--out", tmp_path / "two"
    )
    assert code == 0, errors
    one, two = (tomllib.loads((tmp_path / name / "settings.toml").read_text()) for name in
                ("one", "two"))  # fmt: skip
    assert {**one, "out": ""} == {**two, "out": ""}
    drawn = ("sample", tmp_path / "one", "--prompt", "a", "--out", tmp_path / "syn", "--quiet")
    assert medart(*drawn)[0] == 0
    again = ("sample", "--config", tmp_path / "syn/settings.toml", "--out", tmp_path / "syn2")
    assert medart(*again)[0] == 0
    names = [tmp_path / folder / "000000.png" for folder in ("syn", "syn2")]
    assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize("recipe", ["paper", "low-memory"])
def test_a_packaged_recipe_names_options_that_exist_with_values_that_work(recipe):
    table = config.read_settings(recipe)
    built = FinetuneConfig(data="data", out=None, **table)
    assert all(getattr(built, name) == value for name, value in table.items())


def test_the_paper_recipe_has_the_papers_captioner_for_caption_alone():
    table = config.read_settings("paper", CaptionConfig)
    assert table == {
        "model": "llava-hf/llama3-llava-next-8b-hf", "temperature": 0.8, "top_k": 50,
        "top_p": 0.9, "max_new_tokens": 150,
    }  # fmt: skip
    built = CaptionConfig(images="images", config="paper", **table)
    assert built.settings()["model"] == table["model"] != DEFAULT_CAPTIONER
    assert not {"caption", "model"} & config.read_settings("paper", FinetuneConfig).keys()


def test_a_run_with_the_default_captioner_names_it_in_its_settings():
    named = {"model": DEFAULT_CAPTIONER}
    assert named.items() <= CaptionConfig(images="images").settings().items()
    for other in ({"endpoint": "http://localhost"}, {"style": "simple"}):
        assert "model" not in CaptionConfig(images="images", **other).settings()


def test_the_paper_recipe_is_the_papers_setting():
    table = config.read_settings("paper")
    published = {
        "hldf_steps": 20, "hldf_every": 500, "rank": 8, "learning_rate": 1e-4, "batch_size": 1,
        "epochs": 15.0, "optimizer": "adamw8bit", "resolution": 512, "hldf_guidance": 4.5,
        "train_text_encoder": True, "caption_dropout": 0.0, "precision": "bf16",
        "hldf_loss": "published",
    }  # fmt: skip
    assert {name: table[name] for name in published} == published


def test_options_are_read_as_a_command_line_is_without_running_it(tmp_path):
    words = ["sample", "tiny", "--prompt", "a", "--prompt", "b", "--out", str(tmp_path / "out")]
    settings = read_options(words)
    assert (settings.prompt, settings.steps) == (["a", "b"], 20)
    assert not (tmp_path / "out").exists()
    file = tmp_path / "settings.toml"
    file.write_text("steps = 7\n")
    assert read_options([*words, "--config", str(file)]).steps == 7


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--stepss", "3"], "No such option: --stepss"),
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--steps", "many"], "--steps many: must be a whole number"),
        (["--split", "test"], "--split: needs --from, which is missing"),
        (["--config", "gone"], "--config gone: no such file; packaged recipes: "),
    ],
)
def test_options_that_cannot_be_read_are_refused_as_on_a_command_line(more, told):
    with pytest.raises(ConfigError, match=told):
        read_options(["sample", "tiny", "--prompt", "a", "--out", "x", *more])


@pytest.mark.parametrize(
    "words",
    [
        ["caption", "images"],
        ["finetune", "images", "--out", "run"],
        ["sample", "run", "--from", "images", "--out", "syn"],
        ["sample", "run", "--prompt", "a", "--out", "syn"],
        ["evaluate", "images", "syn", "--out", "report"],
        ["reader", "images", "syn", "--out", "kit"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_names_what_comes_next_so_that_it_can_be_pasted(words, caplog, monkeypatch):
    monkeypatch.setattr(cli.log, "propagate", True)
    with caplog.at_level("INFO", logger=cli.log.name):
        cli.say_next(read_options(words), "there")
    [line] = [line for line in caplog.messages if line.startswith("next: medart ")]
    read_options(shlex.split(line.removeprefix("next: medart ")))
    caplog.clear()
    with cli.inside_another(), caplog.at_level("INFO", logger=cli.log.name):
        cli.say_next(read_options(words), "there")
    assert caplog.messages == []


def test_images_to_test_on_are_never_proposed_to_train_a_classifier_on():
    words = ["evaluate", "unseen", "syn", "--training", "images", "--out", "report"]
    _, proposed = read_options(words).suggest("report")
    classify = read_options(proposed)
    assert (classify.data, classify.synthetic, classify.test) == ("images", "syn", "unseen")


def test_only_files_that_are_there_are_named_to_look_at(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(cli.log, "propagate", True)
    settings = read_options(["evaluate", "images", "syn", "--out", "report"])
    with caplog.at_level("INFO", logger=cli.log.name):
        cli.say_next(settings, str(tmp_path))
        assert not any(line.startswith("look at") for line in caplog.messages)
        (tmp_path / "report.html").touch()
        cli.say_next(settings, str(tmp_path))
    assert f"look at: {tmp_path / 'report.html'}" in caplog.messages


def test_without_a_word_it_shows_its_help_and_has_failed(medart):
    code, out, err = medart()
    assert (code, out) == (2, "")
    assert "COMMAND [ARGS]" in err and "finetune" in err and "see --help" not in err
