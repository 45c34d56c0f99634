import json

import pytest
from PIL import Image

from medart_cli.data.lock import hold_lock
from medart_cli.data.output import Output, check_output, first_change, open_output, write_json
from medart_cli.errors import ConfigError
from medart_cli.finetune.curve import plot_losses
from tests.processes import elsewhere

pytestmark = pytest.mark.charts

NONE = frozenset()


def test_a_new_folder_a_continued_one_and_a_refused_one(tmp_path):
    out = tmp_path / "a" / "run"
    assert opened(Output(out, "sample", {"rank": 8}, NONE, False)) is False
    (out / "result").write_text("kept")
    assert opened(Output(out, "sample", {"rank": 8}, NONE, False)) is True
    with pytest.raises(ConfigError, match="rank was 8 and is now 4; use another folder"):
        opened(Output(out, "sample", {"rank": 4}, NONE, False))
    assert check_output(Output(out, "sample", {"rank": 4}, NONE, True)) is False
    assert (out / "result").read_text() == "kept"
    assert opened(Output(out, "sample", {"rank": 4}, NONE, True)) is False
    assert [path.name for path in out.iterdir()] == ["settings.toml"]


def test_a_run_that_was_killed_at_its_very_beginning_is_in_nobodys_way(tmp_path):
    (tmp_path / ".settings.toml.part").write_text("# Sett")
    (tmp_path / ".medart.lock").write_text(" (process 1 on a)")
    shard = tmp_path / ".settings.toml.node7.123.part"
    shard.write_text("# Sett")
    assert opened(Output(tmp_path, "sample", {}, NONE, False, part=1)) is False
    assert shard.exists()  # of another shard that may be at it
    assert opened(Output(tmp_path, "sample", {}, NONE, False)) is True
    assert [path.name for path in tmp_path.iterdir()] == ["settings.toml"]


def test_a_second_run_on_a_folder_is_refused_and_changes_nothing(tmp_path):
    first = Output(tmp_path, "sample", {"seed": 1}, NONE, False)
    with elsewhere(hold_lock, tmp_path / ".medart.lock", tmp_path):
        for output in (first, Output(tmp_path, "sample", {"seed": 1}, NONE, True)):
            with pytest.raises(ConfigError, match=f"^{tmp_path}: in use by another medart run"):
                opened(output)
            with pytest.raises(ConfigError, match="in use by another medart run"):
                check_output(output)
        assert [path.name for path in tmp_path.iterdir()] == [".medart.lock"]
    assert opened(first) is False


def opened(output):
    with open_output(output) as continued:
        return continued


def test_overwrite_never_removes_what_medart_did_not_write(tmp_path):
    (tmp_path / "thesis.doc").write_text("years of work")
    for settings in (None, "rank = 8\n", "# Settings of medart finetune, in the form"):
        if settings is not None:  # another tool's file, another stage's folder
            (tmp_path / "settings.toml").write_text(settings)
        with pytest.raises(ConfigError, match="was not written by medart sample"):
            opened(Output(tmp_path, "sample", {}, NONE, True))
    assert (tmp_path / "thesis.doc").read_text() == "years of work"


def test_a_hub_id_or_standard_input_lies_in_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = ["-", "PixArt-alpha/PixArt-XL-2-512x512", None]
    assert opened(Output(tmp_path, "sample", {}, NONE, False, inputs)) is False


@pytest.mark.parametrize("source", ["", "images", "images/a.jsonl"])
def test_overwrite_never_removes_what_the_command_reads(tmp_path, source):
    out = tmp_path / "out"
    opened(Output(out, "sample", {}, NONE, False))
    (out / "images").mkdir()
    (out / "images" / "a.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match="which this command reads"):
        opened(Output(out, "sample", {}, NONE, True, inputs=[None, out / source]))
    assert (out / "images").is_dir()


def test_the_first_change_is_named_and_ignored_ones_are_not():
    old, new = {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": 4}
    assert first_change(old, new, frozenset("b")) == "c was 3 and is now not set"
    assert first_change(old, old, NONE) is None
    assert first_change({"_rows": "ab", "b": 1}, {"_rows": "cd", "b": 2}, NONE) == (
        "b was 1 and is now 2"
    )
    assert first_change({"_rows": "ab"}, {"_rows": "cd"}, NONE) == "its rows changed"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert json.loads(path.read_text()) == {"n": 1}


def test_the_loss_curve_is_a_picture(tmp_path):
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5, "color_loss": 0.1}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot_losses(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert Image.open(tmp_path / "loss.png").size == (840, 600)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "loss.png", "loss.svg", "metrics.jsonl",
    ]  # fmt: skip
