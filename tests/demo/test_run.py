"""The demo itself, with fewer images and steps; its full length is in docs/benchmarks.md."""

import io
import json
import shlex
from contextlib import redirect_stderr, redirect_stdout

import pytest

from medart_cli.cli import call
from medart_cli.demo import run as demo

ARMS = """[lora]
[score]
title = "HLDF with the color score"
finetune = "--hldf-every 2 --hldf-steps 3"
"""


def shorten(monkeypatch, folder):
    values = {
        "TRAIN": 4, "TEST": 3, "SEEDS": 1, "ARMS_FILE": ARMS, "SAMPLE": "--steps 2 --batch-size 12",
        "FINETUNE": "--base tiny --steps 2 --batch-size 2 --preview-every 0",
        "EVALUATE": "--features efficientnet-lite0 --bootstrap 20 --floor-repeats 2 "
        "--member-count 2",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def short(monkeypatch, tmp_path):
    return shorten(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a demo, its summary, and what it said."""
    output, said = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(said):
        patch.setenv("MEDART_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        folder = shorten(patch, tmp_path_factory.mktemp("demo"))
        code = call(["demo", "--json"])
    assert code == 0, said.getvalue()
    return folder / "demo", json.loads(output.getvalue()), said.getvalue()


def test_the_demo_is_a_study_and_its_page_is_the_studys(done):
    folder, facts, err = done
    assert facts["result"] == "demo/report.html"
    assert [shlex.split(item["line"])[1] for item in facts["commands"]] == [
        "caption", "caption", "study",
    ]  # fmt: skip
    assert all("--offline" in shlex.split(item["line"]) for item in facts["commands"])
    for stage in ("caption", "study", "finetune", "sample", "evaluate", "classify"):
        assert f"$ medart {stage} " in err
    assert set(facts["arms"]) == {"lora", "score"} and 0 < facts["captions"]["all"] <= 1
    page = (folder / "report.html").read_text("utf-8")
    assert "HLDF with the color score" in page and "demonstration models" in page
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        "demo.json", "finished.json", "methods.md", "pictures.png", "report.html",
        "settings.toml", "study.json",
        "table.csv", "table.md", "table.tex",
    ]  # fmt: skip


def test_a_finished_demo_says_so_and_another_one_is_refused(done, medart, monkeypatch):
    folder, facts, _ = done
    shorten(monkeypatch, folder.parent)
    code, again, err = medart("demo", "--json")
    assert code == 0 and json.loads(again) == facts, err
    assert "demo: already finished" in err and "$ medart" not in err
    code, _, err = medart("demo", "--seed", 1)
    assert code == 2 and "seed was 0 and is now 1; use another folder\n" in err


def test_nothing_is_claimed_that_the_study_calls_not_shown(done):
    folder, facts, _ = done  # one seed shows nothing
    answers = {item["question"]: item["answer"] for item in facts["verdicts"]}
    asked = [question for question in answers if "copy" not in question]
    assert len(asked) == 5
    assert all(answers[question] == "not shown" for question in asked)
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("<td>? not shown</td>") == len(asked)
    for claim in ("improve", "better", "helps"):
        assert claim not in page.split("<section id='settings'>")[0]


def test_a_kept_demo_goes_on_and_all_of_it_says_what_it_is_and_runs_again(
    short, medart, monkeypatch
):
    typed = demo.Session.type

    def fail(session, *words):
        if words[0] == "study":
            raise KeyboardInterrupt
        typed(session, *words)

    with monkeypatch.context() as patch:
        patch.setattr(demo.Session, "type", fail)
        assert medart("demo", "--keep", "kept")[0] == 130
    work = short / "kept" / "work"
    captioned = (work / "train" / "metadata.jsonl").read_bytes()
    code, out, err = medart("demo", "--keep", "kept", "--quiet")
    assert (code, out) == (0, "kept/report.html\n"), err
    assert (work / "train" / "metadata.jsonl").read_bytes() == captioned
    rows = [json.loads(line) for line in (work / "train" / "metadata.jsonl").open()]
    assert all(
        row["caption"]["demonstration"] and row["caption"]["model"] == "tiny" for row in rows
    )
    unit = work / "study" / "lora" / "seed-0"
    drawn = [json.loads(line) for line in (unit / "images" / "metadata.jsonl").open()]
    assert all(row["demonstration"] and row["synthetic"] for row in drawn)
    for name in ("run/run.json", "report/metrics.json", "classifier/metrics.json"):
        assert json.loads((unit / name).read_text())["demonstration"], name
    assert json.loads((work / "study" / "study.json").read_text())["demonstration"]
    for name in ("run/README.md", "report/report.html", "classifier/report.html"):
        assert "demonstration models" in (unit / name).read_text(), name
    facts = json.loads((short / "kept" / "demo.json").read_text())
    for item in facts["commands"]:  # as a user would type them; all of it is done already
        code, _, err = medart(*shlex.split(item["line"])[1:])
        assert code == 0, (item["line"], err)


def test_a_stage_that_is_refused_ends_the_demo_with_its_reason(short, medart, monkeypatch):
    monkeypatch.setattr(demo, "ARMS_FILE", ARMS.replace("--hldf-steps 3", "--hldf-steps 0"))
    code, _, err = medart("demo")
    assert code == 2
    assert "arm score: medart finetune: --hldf-steps must be 1 or more, got 0" in err
    assert err.rstrip().endswith("medart demo: medart study ended with exit code 2, see above")
