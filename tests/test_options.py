from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from medart_cli import cli
from medart_cli.data import output as report
from medart_cli.demo.options import DemoConfig
from medart_cli.errors import ConfigError
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.finetune.hldf import choose_every, count_passes, plan_hldf
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.options import (
    FEATURES,
    SETTINGS_FILES,
    complete_config,
    complete_features,
    complete_profile,
    list_options,
    read_settings,
)
from medart_cli.sample.options import SampleConfig


def test_a_notebook_hears_the_same_sentence_as_the_command_line():
    with pytest.raises(ConfigError, match="^--batch-size must be 1 or more, got 0$"):
        FinetuneConfig(data="d", out=Path("o"), batch_size=0)
    with pytest.raises(ConfigError, match="^--out: missing"):
        SampleConfig(run="r", prompt=["a"])


def test_settings_are_flat_and_leave_unset_options_out():
    settings = FinetuneConfig(data="d", out=Path("run"), target=["to_q"]).settings()
    assert settings["out"] == "run"
    assert settings["target"] == ["to_q"]
    assert "steps" not in settings
    assert "config" not in settings
    assert all(isinstance(value, str | int | float | list) for value in settings.values())


def test_paths_are_texts_in_settings_within_lists_too():
    config = EvaluateConfig(real="a", synthetic=["b"], out=Path("o"), synthetic_root=[Path("r")])
    assert config.settings()["synthetic_root"] == ["r"]


def test_a_config_cannot_be_changed_afterwards():
    config = FinetuneConfig(data="d", out=Path("o"))
    with pytest.raises(AttributeError):
        config.rank = 3


COMMANDS = ("caption", "finetune", "sample", "evaluate", "classify", "reader")
NEEDED = {
    "caption": {"images": "d"},
    "finetune": {"data": "d", "out": Path("o")},
    "sample": {"run": "r", "prompt": ["a"], "out": Path("o")},
    "evaluate": {"real": "a", "synthetic": ["b"], "out": Path("o")},
    "classify": {"data": "a", "out": Path("o")},
    "reader": {"real": "a", "synthetic": ["b"], "out": Path("o")},
}
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
VALUES = {int: st.integers(0, 10**6), float: st.floats(0, 1e6), str: TEXTS, bool: st.booleans()}


def values_of(kind):
    """Draw values of an option's type, without None."""
    kinds = [item for item in (get_args(kind) or (kind,)) if item is not type(None)]
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is list:
        return st.lists(values_of(get_args(kind)[0]), min_size=1, max_size=3)
    if kind is Path:
        return TEXTS.map(Path)
    return VALUES[kind] if kind in VALUES else st.one_of(*map(values_of, kinds))


def options_of(stage):
    kinds = get_type_hints(cli.COMMANDS[stage])
    options = {field.name for field in fields(cli.COMMANDS[stage])}
    names = sorted(options - NEEDED[stage].keys() - {"config", "shard"})
    return st.lists(st.sampled_from(names), max_size=4, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({name: values_of(kinds[name]) for name in chosen})
    )


@pytest.mark.parametrize("stage", COMMANDS)
def test_settings_written_by_a_run_are_read_back_the_same(stage, tmp_path, monkeypatch):
    read = []
    module = import_module(f"medart_cli.{stage}.run")
    monkeypatch.setattr(module, "run", lambda config: read.append(config) or {"result": ""})

    @settings(max_examples=20, deadline=None)
    @given(options_of(stage))
    def round_trip(options):
        try:
            config = cli.COMMANDS[stage](**NEEDED[stage], **options)
        except ConfigError:
            return
        file = tmp_path / SETTINGS_FILES[stage == "caption"]
        file.write_text(tomli_w.dumps(config.settings()), encoding="utf-8")
        for place in (file, tmp_path):
            with pytest.raises(SystemExit) as ended:
                cli.main([stage, "--config", str(place)])
            assert ended.value.code == 0
            assert read[-1].settings() == config.settings()

    round_trip()
    assert len(read) >= 3


def test_settings_from_before_there_was_a_score_mean_the_published_loss(tmp_path):
    old = tmp_path / "settings.toml"
    old.write_text(report._head("finetune") + "hldf_every = 500\n")
    assert read_settings(str(old), FinetuneConfig)["hldf_loss"] == "published"
    own = tmp_path / "own.toml"
    own.write_text("hldf_every = 500\n")  # somebody's own file means today's defaults
    assert "hldf_loss" not in read_settings(str(own), FinetuneConfig)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hldf_every": 0, "hldf_steps": 5}, "--hldf-steps: has no effect with --hldf-every 0"),
        ({"hldf_every": "0", "hldf_checkpoint": "step"}, "--hldf-checkpoint: has no effect with"),
        ({"method": "full", "target": ["to_q"]}, "--target: has no effect with --method full"),
        (
            {"train_text_encoder": False, "text_target": ["q"]},
            "--text-target: has no effect with --freeze-text-encoder",
        ),
        (
            {"method": "full", "train_text_encoder": False, "rank": 4},
            "--rank: has no effect where nothing gets",
        ),
        ({"use_cache": False, "cache": Path("c")}, "--cache: has no effect with --no-cache"),
        ({"learning_rate": 0}, "--learning-rate 0 would train nothing"),
        ({"hldf_every": "often"}, "--hldf-every must be 0 or more, or auto, got often"),
        ({"hldf_every": -1}, "--hldf-every must be 0 or more, or auto, got -1"),
    ],
)
def test_an_option_that_changes_nothing_is_refused_with_the_reason(options, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        FinetuneConfig(data="d", out=Path("o"), **options)


def test_what_a_recipe_says_for_other_cases_is_not_refused():
    """The ablation without HLDF is `--config paper --hldf-every 0`."""
    table = {**read_settings("paper"), "hldf_every": 0}
    FinetuneConfig(data="d", out=Path("o"), config="paper", **table)
    with pytest.raises(ConfigError, match="--hldf-steps: has no effect"):
        FinetuneConfig(data="d", out=Path("o"), config="paper", **{**table, "hldf_steps": 21})


def test_demo_refuses_options_that_it_has_no_use_for():
    for options in ({"precision": "bf16"}, {"max_failures": 3}):
        with pytest.raises(ConfigError, match="has no effect here"):
            DemoConfig(**options)


def test_how_one_call_was_to_talk_is_no_setting_of_the_next():
    config = FinetuneConfig(data="d", out=Path("o"), json=True, quiet=True, overwrite=True)
    assert config.settings().keys().isdisjoint({"json", "quiet", "verbose", "overwrite"})


def test_a_color_loss_costs_what_the_method_page_counts():
    plans = {loss: plan_hldf(FinetuneConfig(data="d", out=Path("o"), hldf_loss=loss))
             for loss in ("published", "score")}  # fmt: skip
    assert [count_passes(plans[loss]) for loss in ("published", "score")] == [120, 72]
    assert [choose_every(plans["published"], total) for total in (4, 900, 10_000, 10**6)] == [
        1, 45, 500, 500,
    ]  # fmt: skip
    assert choose_every(plans["score"], 10**6) == 300  # 72 of 120 passes, as much oftener


@pytest.mark.parametrize(
    ("complete", "start", "found"),
    [
        (complete_profile, "der", ["dermoscopy"]),
        (complete_config, "", ["low-memory", "paper"]),
        (complete_features, "d", ["dinov2"]),
        (complete_profile, "own", ["own.toml"]),
        (complete_config, "my/o", ["my/own.toml"]),
        (complete_profile, "nothing", []),
    ],
)
def test_a_shell_is_offered_packaged_names_and_settings_files(
    complete, start, found, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    for name in ("own.toml", "my/own.toml", "notes.txt"):
        (tmp_path / name).write_text("")
    offered = complete(start)
    assert [name for name in offered if start or "own" not in name and name != "my"] == found


def test_the_networks_that_are_offered_are_known():
    from medart_cli.models.backbone import EMBEDDED_BACKBONE, SHORT_NAMES

    assert {*FEATURES} == {"inception", EMBEDDED_BACKBONE, *SHORT_NAMES}


@pytest.mark.parametrize("kind", cli.COMMANDS.values(), ids=lambda kind: kind.__name__)
def test_every_number_states_its_bounds(kind):
    for name, notes in list_options(kind):
        hint = get_type_hints(kind)[name]
        if {int, float} & {hint, *get_args(hint)}:
            assert notes[0].min is not None, name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch-size", "0"], "medart finetune: --batch-size must be 1 or more, got 0\n"),
        (["--learning-rate", "nan"], "--learning-rate must be 0 or more, got nan"),
        (["--caption-dropout", "2"], "--caption-dropout must be 1 or less, got 2"),
        (["--rank", "many"], "medart finetune: --rank many: must be a whole number\n"),
        (["--method", "none"], "medart finetune: --method none: not one of lora, dora, "),
    ],
)
def test_a_wrong_value_is_one_line_and_code_2(medart, words, said):
    code, out, err = medart("finetune", "images", "--out", "run", *words)
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('method = "lorra"', "--method lorra: not one of lora, dora, "),
        ('batch_size = "many"', "--batch-size many: must be a whole number"),
        ("batch_size = 0", "--batch-size must be 1 or more, got 0"),
        ('learning_rate = "fast"', "--learning-rate fast: must be a number"),
    ],
)
def test_a_wrong_value_in_a_file_names_the_file(medart, tmp_path, line, said):
    file = tmp_path / "settings.toml"
    file.write_text(line + "\n")
    code, out, err = medart("finetune", "images", "--out", "run", "--config", file)
    assert (code, out) == (2, "")
    assert err.startswith(f"medart finetune: --config {file}: {said}") and err.count("\n") == 1


def test_a_folder_or_page_without_settings_is_refused_and_a_recipe_is_no_folder(
    medart, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "paper", "other/paper"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "README.md").write_text("# of a user")
    words = ("finetune", "images", "--out", "run", "--config")
    for place, said in (
        ("empty", "no output of medart"),
        ("README.md", "no model card of medart"),
        ("other/paper", "no output of medart"),
        ("lost", "no such file"),
    ):
        code, _, err = medart(*words, place)
        assert code == 2 and f"--config {place}: {said}" in err and err.count("\n") == 1
    assert cli.read_options([*words, "paper"]).hldf_loss == "published"


def test_what_a_command_reads_and_what_it_ends_with_is_known_by_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("images", "classes.toml", "run.toml"):
        (tmp_path / name).touch()
    options = {"data": "images", "out": Path("run"), "config": "run.toml", "base": "lost"}
    config = FinetuneConfig(**options, classes=Path("classes.toml"), root=Path("."))
    assert [str(path) for path in config.list_sources()] == ["run.toml", "images", "classes.toml"]
    assert config.list_results("run") == [Path("run/run.json")]
    assert FinetuneConfig(**options, dry_run=True).list_results("") == []
    part = SampleConfig(run="run", prompt=["a"], out=Path("o"), shard="1/2")
    assert part.list_results("o") == []
