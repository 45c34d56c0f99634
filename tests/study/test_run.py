"""A whole study on small models; its statistics and words are in the other files."""

import csv
import io
import json
import os
import shlex
import signal
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest

from medart_cli.cli import call
from medart_cli.study import units
from tests.jobs import draw_images, outcome
from tests.small_study import build_study, study_words


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return build_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def done(parts, tmp_path_factory):
    """A study of four arms with two seeds, and what it said."""
    output, said = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(said):
        patch.setenv("MEDART_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        code = call(study_words(parts, parts / "out"))
    assert code == 0, said.getvalue()
    assert output.getvalue() == f"{parts / 'out' / 'report.html'}\n"
    return parts / "out", said.getvalue()


def test_a_study_ends_in_a_page_tables_and_verdicts(done):
    out, said = done
    facts = json.loads((out / "study.json").read_text("utf-8"))
    assert [arm["name"] for arm in facts["arms"]] == ["before", "lora", "score", "simple"]
    assert facts["reference"] == "lora" and facts["seeds"] == [0, 1]
    assert set(facts["differences"]) == {"before", "score", "simple"}
    questions = [item["question"] for item in facts["verdicts"]]
    assert len(questions) == len(set(questions)) == 9
    assert all(item["question"] in said for item in facts["verdicts"])
    page = (out / "report.html").read_text("utf-8")
    assert "simple captions" in page and page.count("data:image/jpeg") == 40
    with (out / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    means = {(row["arm"], row["measure"]): float(row["mean"]) for row in rows if row["mean"]}
    gap = next(row["difference"] for row in rows if row["measure"] == "color_distance")
    assert float(gap) == pytest.approx(facts["differences"]["before"]["color_distance"]["value"])
    for arm in facts["arms"]:
        for key, value in arm["mean"].items():
            assert means[arm["name"], key] == pytest.approx(value)
    assert "\\begin{tabular}" in (out / "table.tex").read_text("utf-8")


def test_the_figures_are_those_of_the_units_reports(done):
    out, _ = done
    facts = json.loads((out / "study.json").read_text("utf-8"))
    for arm in facts["arms"]:
        for place, seed in enumerate(facts["seeds"]):
            unit = out / arm["name"] / f"seed-{seed}"
            report = json.loads((unit / "report" / "metrics.json").read_text("utf-8"))
            assert arm["each"]["frechet"][place] == report["comparisons"][0]["frechet"]["value"]
            assert arm["each"]["color_energy"][place] == report["color"][0]["energy"]["value"]
            found = json.loads((unit / "classifier" / "metrics.json").read_text("utf-8"))
            score = found["regimes"]["mix"]["scores"]["balanced_accuracy"]["mean"]
            assert arm["each"]["accuracy_mix"][place] == score


def test_paired_differences_are_those_of_the_reports_of_all_arms(done):
    out, _ = done
    facts = json.loads((out / "study.json").read_text("utf-8"))
    for place, seed in enumerate(facts["seeds"]):
        report = json.loads((out / f"compare/seed-{seed}/metrics.json").read_text("utf-8"))
        values = [part["energy"]["value"] for part in report["color"]]
        energies = dict(zip(["before", "lora", "score", "simple"], values, strict=True))
        for name, found in facts["differences"].items():
            own, lora = (np.sign(energies[it]) * abs(energies[it]) ** 0.5 for it in (name, "lora"))
            assert found["color_distance"]["each"][place] == pytest.approx(own - lora, abs=1e-6)


def test_the_same_command_again_runs_no_unit_and_changes_no_file(done, parts, medart, monkeypatch):
    out, _ = done
    before = outcome(out)
    monkeypatch.setattr(units, "run_unit", lambda *_: pytest.fail("a unit was run again"))
    code, output, err = medart(*study_words(parts, out), "--json")
    assert code == 0, err
    assert json.loads(output)["result"] == str(out / "report.html")
    assert "8 units, 8 of them done" in err and "out: already finished; only its report" in err
    assert outcome(out) == before


def test_the_script_of_a_dry_run_is_what_the_study_does(done, parts, tmp_path, medart, monkeypatch):
    out, said = done
    code, output, err = medart(*study_words(parts, tmp_path / "dry"), "--dry-run")
    assert code == 0, err
    assert not (tmp_path / "dry" / "lora").exists()
    lines = [line for line in output.splitlines() if line.startswith("medart")]
    typed = [line[2:] for line in said.splitlines() if line.startswith("$ medart")]
    assert [line.replace(str(tmp_path / "dry"), str(out)) for line in lines[:-1]] == typed
    taken = []
    monkeypatch.setattr("medart_cli.study.run.run_units", lambda plan, _: taken.append(plan))
    monkeypatch.setattr("medart_cli.study.report.write_study", lambda *_: {"verdicts": []})
    assert medart(*shlex.split(lines[-1])[1:])[0] == 0  # and its last line is the study's own
    assert [arm.name for arm in taken[0].arms] == ["before", "lora", "score", "simple"]


def test_shards_do_the_units_between_them(done, parts, tmp_path, medart, monkeypatch):
    run = []
    monkeypatch.setattr(units, "run_unit", lambda plan, arm, seed, _: run.append((arm.name, seed)))
    for number in (1, 2, 3):
        code, output, err = medart(*study_words(parts, tmp_path / "s"), "--shard", f"{number}/3")
        assert (code, output) == (0, f"{tmp_path / 's'}\n"), err
    assert len(run) == len(set(run)) == 8


def test_another_option_of_a_command_is_another_study(done, parts, medart):
    out, _ = done
    words = study_words(parts, out, "--sample", "--steps 3 --batch-size 8")
    code, _, err = medart(*words)
    assert code == 2 and "was written with other settings: sample was" in err


def test_more_seeds_and_arms_are_added_to_a_study(done, parts, medart, monkeypatch):
    run = []
    monkeypatch.setattr(units, "run_unit", lambda plan, arm, seed, _: run.append((arm.name, seed)))
    words = study_words(parts, done[0], "--seeds", 3, "--shard", "1/1", arms="lora,dora")
    assert medart(*words)[0] == 0
    assert run == [("dora", 0), ("dora", 1), ("lora", 2), ("dora", 2)]


def test_arms_are_left_out_and_added_and_the_report_is_of_those_named(
    parts, tmp_path, medart, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for arms, folder in (("lora,before", "out"), ("lora", tmp_path / "out"),
                         ("before,lora,simple", "out")):  # fmt: skip
        code, output, err = medart(*study_words(parts, folder, "--seeds", 1, arms=arms))
        assert (code, output) == (0, f"{folder}/report.html\n"), err
        facts = json.loads((tmp_path / "out" / "study.json").read_text("utf-8"))
        assert ",".join(arm["name"] for arm in facts["arms"]) == arms
    assert "3 units, 2 of them done" in err


def test_an_arm_of_other_settings_is_refused_and_says_what_to_delete(
    parts, tmp_path, medart, monkeypatch
):
    monkeypatch.setattr(units, "type_command", lambda *_: None)
    file = tmp_path / "arms.toml"
    for rank, expected in ((4, 0), (2, 2)):
        file.write_text(f'[lora]\n[wide]\nfinetune = "--rank {rank} --hldf-every 0"\n')
        words = study_words(parts, tmp_path / "out", "--shard", "1/1", arms=file)
        code, _, err = medart(*words)
        assert code == expected, err
    assert "arm wide:" in err and "or delete" in err and "rank" in err


def test_a_row_without_a_label_is_refused_before_anything_runs(parts, tmp_path, medart):
    draw_images(tmp_path / "train", 5)
    rows = [
        {"file_name": f"{path.parent.name}/{path.name}", "label": path.parent.name * (place > 0)}
        for place, path in enumerate(sorted((tmp_path / "train").glob("*/*.png")))
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "train" / "metadata.jsonl").write_text(text)
    words = study_words(parts, tmp_path / "out", arms="lora")
    words[1] = str(tmp_path / "train")
    code, _, err = medart(*words)
    assert code == 2 and "no label, and a classifier needs one" in err
    assert not (tmp_path / "out").exists()


def test_a_stopped_study_resumes(parts, tmp_path, medart, monkeypatch):
    typed = units.type_command

    def stop_before(words, config):
        if words[0] == "evaluate":
            os.kill(os.getpid(), signal.SIGTERM)
        typed(words, config)

    monkeypatch.setattr(units, "type_command", stop_before)
    words = study_words(parts, tmp_path / "out", "--seeds", 1, arms="lora")
    assert medart(*words)[0] == 75
    monkeypatch.setattr(units, "type_command", typed)
    code, output, err = medart(*words)
    assert code == 0, err
    assert "1 units, 0 of them done" in err
    facts = json.loads((tmp_path / "out" / "study.json").read_text("utf-8"))
    assert facts["differences"] == {}
    about_weights = ("copy", "weights")  # their figures are of single units
    assert all("with one seed" in item["figures"] for item in facts["verdicts"]
               if not any(word in item["question"] for word in about_weights))  # fmt: skip


def test_an_option_that_a_command_refuses_is_refused_before_anything_runs(parts, tmp_path, medart):
    words = study_words(parts, tmp_path / "out", "--classify", "--freeze --epochs 3")
    code, _, err = medart(*words)
    assert code == 2
    assert "arm before: medart classify: --epochs: has no effect with --freeze" in err
    assert not (tmp_path / "out").exists()


def test_without_captions_the_arm_of_simple_ones_is_left_out(parts, tmp_path, medart, monkeypatch):
    run = []
    monkeypatch.setattr(units, "run_unit", lambda plan, arm, seed, _: run.append(arm.name))
    words = study_words(parts, tmp_path / "out", "--shard", "1/1", arms="lora,simple")
    words[1] = str(parts / "test")
    words[3] = str(parts / "images")
    code, _, err = medart(*words)
    assert code == 0 and "arm simple: is left out, since no image has a caption" in err
    assert set(run) == {"lora"}
