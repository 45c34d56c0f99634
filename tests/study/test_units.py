import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.main import get_command

from medart_cli.cli import app
from medart_cli.errors import ConfigError, Stopped
from medart_cli.outlook import Outlook
from medart_cli.study import units
from medart_cli.study.arms import ARMS, Arm
from medart_cli.study.options import StudyConfig
from medart_cli.study.units import (
    Plan,
    check_commands,
    check_units,
    list_commands,
    list_comparisons,
    read_unit,
    run_unit,
    run_units,
    write_script,
)


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_plan()


def make_plan(*arms, classes=True, **options):
    config = StudyConfig(data="x", out=Path("out"), seeds=2, seed=5, **options)
    arms = list(arms) or [ARMS[name] for name in ("before", "lora", "simple")]
    return Plan(config, arms, (Path("images"), Path("tests")), classes)


def value(words, option):
    return words[words.index(option) + 1]


def test_an_arm_is_trained_drawn_measured_and_used(plan):
    commands = list_commands(plan, ARMS["lora"], 5)
    assert [words[0] for words in commands] == ["finetune", "sample", "evaluate", "classify"]
    finetune, sample, evaluate, classify = commands
    assert finetune[1] == "out/data/train.jsonl" and value(finetune, "--hldf-every") == "0"
    assert sample[1] == value(finetune, "--out") == "out/lora/seed-5/run"
    assert value(sample, "--from") == "out/data/captions-own-5.jsonl"
    assert evaluate[1:3] == ["out/data/test.jsonl", value(sample, "--out")]
    assert value(classify, "--synthetic") == value(sample, "--out")
    assert {value(words, "--seed") for words in commands} == {"5"}


def test_before_fine_tuning_the_base_draws_at_the_size_of_the_others():
    plan = make_plan(finetune="--base tiny --resolution 64")
    sample = list_commands(plan, ARMS["before"], 5)[0]
    assert sample[:2] == ["sample", "tiny"] and value(sample, "--resolution") == "64"
    drawn = list_commands(plan, ARMS["lora"], 5)[1]
    assert value(drawn, "--from") == value(sample, "--from")  # the same captions, and noises


def test_simple_captions_are_trained_on_and_drawn(plan):
    finetune, sample, *rest = list_commands(plan, ARMS["simple"], 5)
    assert finetune[1] == "out/data/simple.jsonl"
    assert value(sample, "--from") == "out/data/captions-simple-5.jsonl"
    assert value(rest[-1], "--test") == "out/data/test.jsonl"


def test_an_arms_own_options_come_after_those_of_all():
    arm = Arm("mine", "mine", ("--rank", "4"), sample=("--steps", "9"))
    plan = make_plan(arm, finetune="--rank 2", sample="--steps 3")
    finetune, sample, *_ = list_commands(plan, arm, 5)
    for words, option in ((finetune, "--rank"), (sample, "--steps")):
        assert words.index(option) < len(words) - words[::-1].index(option) - 1
    check_commands(plan)  # and the last counts, as everywhere on a command line


def test_without_labels_no_classifier_is_trained(plan):
    names = [words[0] for words in list_commands(make_plan(classes=False), ARMS["lora"], 5)]
    assert names == ["finetune", "sample", "evaluate"]


def test_all_arms_of_a_seed_are_compared_in_one_report(plan):
    (seed, words), (other, _) = list_comparisons(plan)
    assert (seed, other) == (5, 6)
    names = [f"out/{name}/seed-5/images" for name in ("before", "lora", "simple")]
    assert words[2:5] == names
    assert not list(list_comparisons(make_plan(ARMS["lora"])))


def test_what_a_command_would_refuse_is_refused_with_its_arm():
    arm = Arm("mine", "mine", ("--rankk", "4"))
    with pytest.raises(ConfigError, match="arm mine: medart finetune: No such option: --rankk"):
        check_commands(make_plan(ARMS["lora"], arm))
    with pytest.raises(ConfigError, match="arm lora: medart sample: --steps must be 1 or more"):
        check_commands(make_plan(ARMS["lora"], sample="--steps 0"))
    with pytest.raises(ConfigError, match="--evaluate --x 'y: cannot be split into options"):
        check_commands(make_plan(ARMS["lora"], evaluate="--x 'y"))


@pytest.mark.parametrize(
    ("command", "words", "option"),
    [
        ("finetune", "--out=x", "--out"),
        ("finetune", "--val-fraction 0.2", "--val-fraction: .* split val"),
        ("sample", "--count 3", "--count"),
        ("evaluate", "--training x", "--training"),
        ("classify", "--seed 3", "--seed"),
    ],
)
def test_what_the_study_sets_itself_is_refused_and_not_passed_over(command, words, option):
    with pytest.raises(ConfigError, match=f"arm lora: medart {command}: {option}"):
        check_commands(make_plan(ARMS["lora"], **{command: words}))


def test_a_settings_file_that_holds_out_images_is_refused(plan, tmp_path):
    (tmp_path / "own.toml").write_text("val_fraction = 0.2\n")
    with pytest.raises(ConfigError, match="--val-fraction: is the study's own to set"):
        check_commands(make_plan(ARMS["lora"], finetune="--config own.toml"))


def test_what_only_a_run_or_a_unit_needs_is_said_to_no_other_command(plan):
    given = "--member-count 9 --by=sex --classifier clf --captioner tiny --batch-size 2"
    own = make_plan(evaluate=given)
    check_commands(own)
    before, after = (list_commands(own, ARMS[name], 5) for name in ("before", "lora"))
    assert "--member-count" not in before[1] and value(after[2], "--member-count") == "9"
    assert "--by=sex" in before[1] and value(before[1], "--classifier") == "clf"
    for _, words in list_comparisons(own):
        assert value(words, "--batch-size") == "2"
        assert not {"9", "--by=sex", "clf", "--captioner", "tiny"} & {*words}


def test_a_comparison_of_other_arms_is_written_anew(plan):
    ((_, words),) = list(list_comparisons(plan))[:1]
    assert "--overwrite" not in words
    report = Path(value(words, "--out"))
    report.mkdir(parents=True)
    (report / "settings.toml").write_text(f"synthetic = {json.dumps(words[2:5])}\n")
    assert list(list_comparisons(plan))[0][1] == words
    fewer = make_plan(ARMS["before"], ARMS["lora"])
    assert "--overwrite" in list(list_comparisons(fewer))[0][1]


def test_the_script_runs_in_a_shell(plan, tmp_path):
    script = write_script(plan, ["study", "my images"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "medart").write_text('#!/bin/sh\necho "$1" >> typed\n')
    (tmp_path / "bin" / "medart").chmod(0o755)
    (tmp_path / "study.sh").write_text(script)
    assert os.system(f"PATH={tmp_path}/bin:$PATH sh {tmp_path}/study.sh") == 0
    typed = (tmp_path / "typed").read_text().split()
    assert typed.count("finetune") == 4 and typed.count("evaluate") == 8
    assert typed[-1] == "study"


def do(words, _):
    out = Path(value(words, "--out"))
    out.mkdir(parents=True)
    (out / units.RESULTS[words[0]]).touch()


def test_a_unit_is_done_once_all_its_commands_are(plan, monkeypatch):
    monkeypatch.setattr(units, "type_command", do)
    arm = ARMS["lora"]
    assert read_unit(plan, arm, 5) is None
    run_one(plan, arm)
    found = read_unit(plan, arm, 5)
    assert set(found["seconds"]) == {"finetune", "sample", "evaluate", "classify"}
    file = Path("out/lora/seed-5/unit.json")
    assert json.loads(file.read_text()) == found
    other = make_plan(evaluate="--no-copies")
    assert read_unit(other, arm, 5) is None  # it was done otherwise
    file.write_text(file.read_text()[:20])
    assert read_unit(plan, arm, 5) is None


def test_a_unit_that_was_begun_is_not_done_but_known_by_its_arm(plan, monkeypatch):
    monkeypatch.setattr(units, "type_command", lambda *_: None)
    run_one(plan, ARMS["lora"])
    file = Path("out/lora/seed-5/unit.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"commands": [], "seconds": {}}))
    assert read_unit(plan, ARMS["lora"], 5) is None
    check_units(plan)
    other = replace(ARMS["lora"], finetune=("--rank", "4"))
    with pytest.raises(ConfigError, match=r"arm lora: out/lora/seed-5 .*: finetune was .* delete"):
        check_units(make_plan(other))
    check_units(make_plan(replace(ARMS["lora"], title="another title")))


def test_what_a_stopped_command_took_is_not_told_and_what_others_took_is_kept(plan, monkeypatch):
    arm, now = ARMS["lora"], [0.0]
    monkeypatch.setattr(units.time, "monotonic", lambda: now[0])

    def work(words, _):
        done = Path(value(words, "--out")).exists()
        Path(value(words, "--out")).mkdir(parents=True, exist_ok=True)
        now[0] += 0.1 if done else 60
        if words[0] == "evaluate" and not done:
            raise Stopped("stopped")
        Path(value(words, "--out"), units.RESULTS[words[0]]).touch()

    monkeypatch.setattr(units, "type_command", work)
    with pytest.raises(Stopped):
        run_one(plan, arm)
    assert read_unit(plan, arm, 5) is None
    run_one(plan, arm)
    took = {"finetune": 60, "sample": 60, "classify": 60}
    assert read_unit(plan, arm, 5)["seconds"] == took
    run_one(plan, arm)
    assert read_unit(plan, arm, 5)["seconds"] == took


def test_a_unit_whose_images_are_gone_is_not_done(plan, monkeypatch):
    monkeypatch.setattr(units, "type_command", do)
    run_one(plan, ARMS["lora"])
    Path("out/lora/seed-5/images/metadata.jsonl").unlink()
    assert read_unit(plan, ARMS["lora"], 5) is None


def run_one(plan, arm):
    parts = [(words[0], arm.name) for words in list_commands(plan, arm, 5)]
    run_unit(plan, arm, 5, Outlook("study", parts))


def test_it_says_how_far_it_is_and_when_it_ends(plan, monkeypatch, said):
    now = [0.0]
    monkeypatch.setattr(units.time, "monotonic", lambda: now[0])

    def work(words, config):
        do(words, config)
        now[0] += 600

    monkeypatch.setattr(units, "type_command", work)
    run_units(plan, (1, 1))
    lines = [line.strip() for line in said]
    assert lines[:2] == [
        "6 units, 0 of them done",
        "study part 1 of 24: before fine-tuning, seed 5",
    ]
    assert lines[2].startswith("study part 2 of 24, more than 50 min left: before")  # 5 x sample
    assert re.fullmatch(r"study part 22 of 24, about 30 min left, done about .*\d\d:\d\d: simple "
                        "captions, seed 6", lines[22]), lines  # fmt: skip
    assert lines[23].endswith(": all arms, seed 5")
    monkeypatch.setattr(units, "type_command", lambda *_: None)
    run_units(plan, (1, 1))
    assert said[-4] == "6 units, 6 of them done"
    assert said[-2].strip().startswith("study part 23 of 24, about 20 min left")


def test_real_images_that_are_synthetic_are_allowed_by_name(plan):
    arm = ARMS["lora"]
    assert not any("--allow-synthetic" in words for words in list_commands(plan, arm, 5))
    plan = make_plan(arm, ARMS["dora"], allow_synthetic=True)
    check_commands(plan)
    told = [words[0] for words in list_commands(plan, arm, 5) if "--allow-synthetic" in words]
    assert told == ["finetune", "evaluate", "classify"]
    assert all("--allow-synthetic" in words for _, words in list_comparisons(plan))


def test_where_no_copies_are_looked_for_the_base_has_no_training_images():
    plan = make_plan(evaluate="--no-copies")
    check_commands(plan)
    before, after = (list_commands(plan, ARMS[name], 5) for name in ("before", "lora"))
    assert "--training" not in before[1] and "--training" in after[2]


def test_options_that_the_study_sets_or_leaves_out_are_those_of_the_commands():
    for name, words in units.OWN_OPTIONS.items():
        assert {f"--{word}" for word in words.split()} <= options_of(name)
    assert units.OF_UNITS <= options_of("evaluate")


def options_of(name):
    return {it for item in get_command(app).commands[name].params for it in item.opts}
