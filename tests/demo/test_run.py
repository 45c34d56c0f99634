"""The demo itself, with fewer images and steps; its full length is in docs/benchmarks.md."""

import json
import shlex

import pytest
from PIL import Image

from medart_cli.cli import COMMANDS
from medart_cli.data.manifest import write_manifest
from medart_cli.demo import run as demo
from medart_cli.demo.options import DemoConfig

STAGES_SHOWN = ("caption", "finetune", "sample", "evaluate", "classify")


@pytest.fixture
def short(monkeypatch, tmp_path):
    for name, value in {"TRAIN": 6, "TEST": 4, "FEW": 2, "SYNTHETIC": 2, "PICTURES": 4}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(
        demo,
        "FINETUNE",
        "--base tiny --steps 4 --batch-size 2 --learning-rate 5e-4 --preview-every 0",
    )
    monkeypatch.setattr(demo, "HLDF", "--hldf-every 2 --hldf-steps 3")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demo_runs_all_stages_and_ends_in_a_page(short, medart):
    code, out, err = medart("demo", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["result"] == "demo/report.html"
    commands = [shlex.split(item["line"]) for item in facts["commands"]]
    assert {words[1] for words in commands} == set(STAGES_SHOWN)
    assert all(f"$ {item['line']}" in err for item in facts["commands"])
    assert all(words[0] == "medart" and "--offline" in words for words in commands)
    assert set(facts["sets"]) == {"base", "lora", "hldf"}
    assert facts["sets"]["lora"] != facts["sets"]["hldf"]
    assert 0 < facts["captions"]["all"] <= 1
    page = (short / "demo" / "report.html").read_text()
    assert "LoRA + HLDF" in page and page.count("data:image/png") == 5
    assert sorted(path.name for path in (short / "demo").iterdir() if path.name[0] != ".") == [
        "demo.json", "pictures.png", "report.html", "settings.toml",
    ]  # fmt: skip


def test_with_keep_everything_stays_says_what_it_is_and_the_commands_run_again(short, medart):
    code, out, err = medart("demo", "--keep", "kept", "--quiet")
    assert (code, out) == (0, "kept/report.html\n"), err
    work = short / "kept" / "work"
    rows = [json.loads(line) for line in (work / "train" / "metadata.jsonl").open()]
    assert all(
        row["caption"]["demonstration"] and row["caption"]["model"] == "tiny" for row in rows
    )
    drawn = [json.loads(line) for line in (work / "synthetic" / "metadata.jsonl").open()]
    assert all(row["demonstration"] and row["synthetic"] for row in drawn)
    for name in ("lora-run/run.json", "report/metrics.json", "classifier/metrics.json"):
        assert json.loads((work / name).read_text())["demonstration"], name
    for name in ("lora-run/README.md", "report/report.html", "classifier/report.html"):
        assert "demonstration models" in (work / name).read_text(), name
    facts = json.loads((short / "kept" / "demo.json").read_text())
    for item in facts["commands"]:  # as a user would type them; all of it is done already
        code, _, err = medart(*shlex.split(item["line"])[1:])
        assert code == 0, (item["line"], err)


def test_the_demo_goes_on_in_a_kept_folder(short, medart, monkeypatch):
    typed = demo.Session.type

    def fail(session, line):
        if line.startswith("evaluate"):
            raise KeyboardInterrupt
        typed(session, line)

    monkeypatch.setattr(demo.Session, "type", fail)
    assert medart("demo", "--keep", "kept")[0] == 130
    drawn = (short / "kept/work/lora/000000.png").stat().st_mtime_ns
    monkeypatch.setattr(demo.Session, "type", typed)
    assert medart("demo", "--keep", "kept")[0] == 0
    assert (short / "kept/work/lora/000000.png").stat().st_mtime_ns == drawn


def test_a_stage_that_fails_ends_the_demo_with_its_reason(short, medart, monkeypatch):
    monkeypatch.setattr(demo, "HLDF", "--hldf-every 2 --hldf-steps 0")
    code, _, err = medart("demo")
    assert code == 1
    assert "medart finetune: --hldf-steps must be 1 or more, got 0" in err
    assert err.rstrip().endswith("medart demo: medart finetune ended with exit code 2, see above")


def test_the_page_shows_what_was_measured_and_escapes_it(tmp_path):
    (tmp_path / "test").mkdir()
    image = Image.new("RGB", (32, 32), "teal")
    image.save(tmp_path / "test" / "a.png")
    rows = [{"file_name": "a.png", "text": "A <b>spot</b> & a rim."}] * 5
    write_manifest(tmp_path / "test" / "metadata.jsonl", rows)
    measured = {"frechet": 41.52, "kernel": 0.0123, "variety": 0.9, "energy": 0.0051}
    gaps = {"mean_gap": 0.04, "spread_gap": 0.02}
    figures = {
        "seed": 3,
        "captions": {"all": 0.75},
        "sets": dict.fromkeys(demo.SETS, measured | gaps),
        "floor": {"frechet": 12.3, "energy": 0.001} | gaps,
        "ranking": {"order": ["hldf", "lora", "base"], "winner": None, "reason": "a < b"},
        "classifiers": {"real": 0.5, "mix": 0.625},
        "commands": [{"line": "medart sample '<x>'", "seconds": 1.4}],
        "seconds": 99.6,
    }
    page = demo.build_report(demo.Session(DemoConfig(), tmp_path), figures, image)
    assert page.count("<figcaption>A &lt;b&gt;spot&lt;/b&gt; &amp; a rim.</figcaption>") == 4
    assert "correct in 75% of 120 captions" in page and "winner: none (a &lt; b)." in page
    assert "<td>LoRA + HLDF</td><td>41.5</td><td>12</td><td>0.0400</td>" in page
    assert "<td>both</td><td>0.625</td>" in page and "was trained on 60 real" in page
    assert "&#39;&lt;x&gt;&#39;</td><td>1</td>" in page
    assert "<p class='note'>100 seconds in total, seed 3.</p>" in page


def test_the_demo_shows_every_stage():
    assert set(STAGES_SHOWN) < set(COMMANDS)
