"""The demo itself, with fewer images and steps; its full length is in docs/benchmarks.md."""

import json
import shlex

import pytest

from medart_cli.demo import run as demo

ARMS = """[lora]
[score]
title = "HLDF, color score"
finetune = "--hldf-every 2 --hldf-steps 3"
"""


@pytest.fixture
def short(monkeypatch, tmp_path):
    values = {
        "TRAIN": 4, "TEST": 3, "SEEDS": 1, "ARMS_FILE": ARMS, "SAMPLE": "--steps 2 --batch-size 12",
        "FINETUNE": "--base tiny --steps 2 --batch-size 2 --preview-every 0",
        "EVALUATE": "--features efficientnet-lite0 --bootstrap 20 --floor-repeats 2",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demo_is_a_study_and_its_page_is_the_studys(short, medart):
    code, out, err = medart("demo", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["result"] == "demo/report.html"
    assert [shlex.split(item["line"])[1] for item in facts["commands"]] == [
        "caption", "caption", "study",
    ]  # fmt: skip
    assert all("--offline" in shlex.split(item["line"]) for item in facts["commands"])
    for stage in ("caption", "study", "finetune", "sample", "evaluate", "classify"):
        assert f"$ medart {stage} " in err
    assert set(facts["arms"]) == {"lora", "score"} and 0 < facts["captions"]["all"] <= 1
    page = (short / "demo" / "report.html").read_text("utf-8")
    assert "HLDF, color score" in page and "demonstration models" in page
    assert sorted(path.name for path in (short / "demo").iterdir() if path.name[0] != ".") == [
        "demo.json", "methods.md", "pictures.png", "report.html", "settings.toml", "study.json",
        "table.csv", "table.md", "table.tex",
    ]  # fmt: skip


def test_nothing_is_claimed_that_the_study_calls_not_shown(short, medart):
    code, out, err = medart("demo", "--json")  # one seed shows nothing
    assert code == 0, err
    answers = {item["question"]: item["answer"] for item in json.loads(out)["verdicts"]}
    asked = [question for question in answers if "copy" not in question]
    assert len(asked) == 5
    assert all(answers[question] == "not shown" for question in asked)
    page = (short / "demo" / "report.html").read_text("utf-8")
    assert page.count("<td>? not shown</td>") == len(asked)
    for claim in ("improve", "better", "helps"):
        assert claim not in page.split("<section id='settings'>")[0]


def test_with_keep_everything_stays_says_what_it_is_and_the_commands_run_again(short, medart):
    code, out, err = medart("demo", "--keep", "kept", "--quiet")
    assert (code, out) == (0, "kept/report.html\n"), err
    work = short / "kept" / "work"
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


def test_the_demo_goes_on_in_a_kept_folder(short, medart, monkeypatch):
    typed = demo.Session.type

    def fail(session, *words):
        if words[0] == "study":
            raise KeyboardInterrupt
        typed(session, *words)

    monkeypatch.setattr(demo.Session, "type", fail)
    assert medart("demo", "--keep", "kept")[0] == 130
    captioned = (short / "kept/work/train/metadata.jsonl").read_bytes()
    monkeypatch.setattr(demo.Session, "type", typed)
    assert medart("demo", "--keep", "kept")[0] == 0
    assert (short / "kept/work/train/metadata.jsonl").read_bytes() == captioned


def test_a_stage_that_is_refused_ends_the_demo_with_its_reason(short, medart, monkeypatch):
    monkeypatch.setattr(demo, "ARMS_FILE", ARMS.replace("--hldf-steps 3", "--hldf-steps 0"))
    code, _, err = medart("demo")
    assert code == 2
    assert "arm score: medart finetune: --hldf-steps must be 1 or more, got 0" in err
    assert err.rstrip().endswith("medart demo: medart study ended with exit code 2, see above")
