"""Do synthetic images show class and caption: finetune's data, classify's folder, the captioner.

Phantoms stand for synthetic images: a set that shows its captions, and one of which each image
shows the next one's.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from medart_cli.data.page import DEMONSTRATION_NOTICE
from medart_cli.evaluate import captions
from medart_cli.tiny.dataset import choose_phantoms, write_phantoms

FAST = ("--features", "efficientnet-lite0", "--no-copies", "--bootstrap", "20", "--workers", "0")
FAST += ("--floor-repeats", "2", "--device", "cpu")


def draw_set(folder, shown, asked, seed):
    """Draw phantoms and say that they were drawn from the captions of others."""
    write_phantoms(folder, shown, seed=seed)
    manifest = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for index, (row, phantom) in enumerate(zip(rows, asked, strict=True)):
        row |= {"label": phantom.label, "prompt": phantom.caption(), "synthetic": True}
        row["source"] = {"image": f"{index:04d}.png"}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Real images with captions, sets drawn from these, and a classifier of other real images."""
    folder = tmp_path_factory.mktemp("contents")
    asked = choose_phantoms("base", per_label=2, seed=0)
    write_phantoms(folder / "real", asked, seed=0, captions=True)
    draw_set(folder / "good", asked, asked, 1)
    draw_set(folder / "swapped", asked[1:] + asked[:1], asked, 3)  # of another class each
    write_phantoms(folder / "train", choose_phantoms("base", per_label=8, seed=5), seed=5)
    return folder


@pytest.fixture(scope="module")
def classifier(folder, tmp_path_factory):
    from medart_cli.cli import call

    words = ["classify", folder / "train", "--test", folder / "real", "--freeze"]
    assert call([*map(str, words), "--out", str(folder / "clf"), "--device", "cpu"]) == 0
    return folder / "clf"


def read_metrics(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def test_drawn_images_that_show_something_else_are_found_and_a_good_set_is_not(
    folder, classifier, medart, tmp_path, monkeypatch
):
    sets = [folder / name for name in ("good", "swapped")]
    words = ("evaluate", folder / "real", *sets, "--classifier", classifier, "--captioner", "tiny")
    words += ("--profile", "phantom", "--out", tmp_path / "r", *FAST)
    code, out, err = medart(*words, "--json")
    assert code == 0, err
    summary, facts = json.loads(out)["sets"], read_metrics(tmp_path / "r")
    for name in ("shows_caption", "shows_class"):
        assert summary["good"][name] != "less" == summary["swapped"][name]
    assert "swapped: the synthetic images show their class less than real ones" in err
    told = "the synthetic images show less of what their captions say than real ones"
    assert f"swapped: {told}" in err
    assert "swapped: synthetic images show less than real ones of: color, size" in err
    assert facts["demonstration"] and facts["retelling"][0]["paired"]
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert DEMONSTRATION_NOTICE in page and "Do synthetic images show their captions?" in page
    assert "Do synthetic images show their class?" in page and ">Diversity</h2>" in page
    lines = (tmp_path / "r" / "captions.jsonl").read_text().splitlines()
    assert len(lines) == 4 * 18 and {*json.loads(lines[0])} == {
        "set", "file_name", "label", "text", "told"
    }  # fmt: skip
    check_documented(facts, summary)

    code, out, err = medart(*words)
    assert code == 0 and "already finished" in err
    monkeypatch.setattr(captions, "open_captioner", None)  # all are in the cache
    manifest = folder / "good" / "metadata.jsonl"
    before = manifest.read_text()
    manifest.write_text(before.replace("It is large", "It is red and large"))
    try:
        code, out, err = medart(*words)
    finally:
        manifest.write_text(before)
    assert code == 0 and "already finished" not in err


def keys_of(value):
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def check_documented(facts, summary):
    """Every key of what is new in metrics.json and of the summary is in docs/formats.md."""
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`(\w+)`", page.split("from evaluate")[1].split("\n## ")[0]))
    new = [facts[name] for name in ("diversity", "recognition", "retelling")]
    labels = {*facts["sets"][0]["labels"]}
    assert keys_of(new) - labels - known == set()
    assert keys_of(summary["good"]) - known == set()


def test_real_images_that_the_classifier_has_seen_are_no_reference(
    folder, classifier, medart, tmp_path
):
    words = ("evaluate", folder / "train", folder / "good", "--classifier", classifier)
    code, _, err = medart(*words, "--out", tmp_path / "r", *FAST)
    assert code == 0, err
    (found,) = read_metrics(tmp_path / "r")["recognition"]
    assert found["trained_on"] == {"real": 72, "drawn": 0} and found["n_real"] == 0
    assert found["verdict"] == "not shown" and found["labels"]["star patch"]["drawn"]
    assert "has seen all real images" in err
    # Others can be given as held-out ones.
    held = ("--holdout", folder / "real")
    code, _, err = medart(*words, *held, "--out", tmp_path / "h", *FAST)
    assert code == 0, err
    (found,) = read_metrics(tmp_path / "h")["recognition"]
    assert found["n_real"] == 18 and found["difference"]


def test_a_classifier_of_real_images_is_taken_from_its_regime_and_one_of_a_mix_is_warned_of(
    folder, classifier, medart, tmp_path
):
    mixed = tmp_path / "mixed"
    shutil.copytree(classifier, mixed)
    facts = json.loads((mixed / "metrics.json").read_text())
    facts["classifier"]["regime"] = "mix"
    (mixed / "metrics.json").write_text(json.dumps(facts))
    for name, regime in ((mixed, "mix"), (mixed / "regimes" / "real" / "model", "real")):
        words = ("evaluate", folder / "real", folder / "good", "--classifier", name)
        code, _, err = medart(*words, "--out", tmp_path / regime, *FAST)
        assert code == 0, err
        assert ("was trained with synthetic images (regime mix)" in err) == (regime == "mix")
        assert read_metrics(tmp_path / regime)["recognition"][0]["regime"] == regime


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--classifier", "nowhere"), "does not say which images it was trained on"),
        (("--captioner", "tiny", "--shard", "1/2"), "--captioner: has no effect with --shard"),
        (("--captions", "50"), "--captions: has no effect without --captioner"),
        (("--profile", "oct"), "--profile: has no effect without --captioner"),
        (("--captioner", "tiny", "--profile", "none"), "no such profile"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(folder, medart, tmp_path, options, why):
    words = ("evaluate", folder / "real", folder / "good", *options)
    code, _, err = medart(*words, "--out", tmp_path / "r", *FAST)
    assert code == 2 and why in err and not (tmp_path / "r").exists()


def test_labels_that_are_no_class_of_the_classifier_are_named(folder, classifier, medart, tmp_path):
    manifest = (folder / "good" / "metadata.jsonl").read_text()
    for name, label, code in (("some", "star patch", 0), ("all", "", 2)):
        place = tmp_path / name
        shutil.copytree(folder / "good", place)
        changed = manifest.replace(f'"label": "{label}', f'"label": "odd {label}')
        (place / "metadata.jsonl").write_text(changed)
        words = ("evaluate", folder / "real", place, "--classifier", classifier)
        found, _, err = medart(*words, "--out", tmp_path / f"r-{name}", *FAST)
        assert found == code, err
        if code:
            assert "no synthetic image has one as label" in err
        else:
            assert "images of odd star patch are left out" in err
            (item,) = read_metrics(tmp_path / f"r-{name}")["recognition"]
            assert item["other_labels"] == {"odd star patch": 2}
