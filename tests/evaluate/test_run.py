import base64
import hashlib
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageEnhance
from timm.models import save_for_hf
from typer.testing import CliRunner

from medart_cli.cli import app
from medart_cli.evaluate import colors as evaluate_colors
from medart_cli.evaluate import networks
from medart_cli.evaluate import pictures as evaluate_pictures
from medart_cli.evaluate.colors import measure_variety
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.metrics import copies
from medart_cli.metrics.features import load_inception

SMALL = {"input_size": (3, 32, 32)}  # of timm's models

COUNT = 12  # images a set


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A folder as `medart classify` writes it: a small network of random weights."""
    folder = tmp_path_factory.mktemp("clf")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2, pretrained_cfg_overlay=SMALL)
    save_for_hf(model, folder, safe_serialization=True)
    return str(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "evaluate-cache"
    monkeypatch.setenv("MEDART_CACHE", str(folder))
    return folder


def draw_picture(seed, loud=1.0):
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(60, 180, (7, 7, 3), dtype=np.uint8))
    image = noise.resize((48, 48), Image.Resampling.BICUBIC)
    return ImageEnhance.Color(image).enhance(loud)


def save_set(folder, first, *, labels=("nevus", "melanoma"), loud=1.0):
    for index in range(COUNT):
        place = folder / labels[index % len(labels)]
        place.mkdir(parents=True, exist_ok=True)
        draw_picture(first + index, loud).save(place / f"{first + index}.png")
    return str(folder)


@pytest.fixture
def sets(tmp_path):
    return save_set(tmp_path / "real", 0), save_set(tmp_path / "syn", 100)


def evaluate(network, *arguments, out, extra=("--bootstrap", "20", "--floor-repeats", "2")):
    options = [
        "--features",
        network,
        "--workers",
        "0",
        "--device",
        "cpu",
        "--out",
        str(out),
        *extra,
    ]
    return CliRunner().invoke(app, ["evaluate", *arguments, *options])


def read_metrics(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def test_the_report_holds_all_measures_and_needs_nothing_from_outside(
    network, sets, tmp_path, charts
):
    out = tmp_path / "report"
    result = evaluate(network, *sets, out=out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}\n"
    facts = read_metrics(out)
    assert [item["label"] for item in facts["comparisons"]] == [None, "melanoma", "nevus"]
    labels = {"melanoma": 6, "nevus": 6}
    assert facts["sets"][0] == {"name": "real", "n": 12, "patients": None, "labels": labels}
    assert facts["features"][0]["frechet"] == "Frechet distance"
    assert facts["copies"][0]["n"] == 12 and facts["ranking"] is None
    assert facts["settings"]["real"] == sets[0] and facts["versions"]["torch"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//|/|\.)", page)
    assert page.count("<script") == 1 and "@import" not in page  # it enlarges pictures
    pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) >= 6 and all(base64.b64decode(item) for item in pictures)
    for name in ("distances-1.png", "colors.png"):
        with Image.open(out / name) as plot:
            assert min(plot.size) > 100


def keys_of(value):
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_every_key_of_the_metrics_is_documented(network, sets, tmp_path):
    second = save_set(tmp_path / "second", 300)
    result = evaluate(network, *sets, second, out=tmp_path / "r", extra=("--json",))
    facts = read_metrics(tmp_path / "r")
    names = {item["name"] for item in facts["sets"]} | {"nevus", "melanoma"}
    names |= {"red", "green", "blue", "saturation"} | set(facts["copies"][0]["thresholds"])
    facts.pop("settings"), facts.pop("versions")
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    section = "".join(page.split(head)[1].split("## ")[0]
                      for head in ("## Input data", "from evaluate"))  # fmt: skip
    known = set(re.findall(r"`(\w+)`", section))
    assert (keys_of(facts) | keys_of(json.loads(result.stdout))) - names - known == set()


def test_a_report_from_before_captions_could_be_asked_for_is_made_again(network, sets, tmp_path):
    out = tmp_path / "r"
    assert evaluate(network, *sets, out=out).exit_code == 0
    settings = (out / "settings.toml").read_text(encoding="utf-8")
    assert "captions = 200\n" in settings
    (out / "settings.toml").write_text(settings.replace("captions = 200\n", ""), encoding="utf-8")
    again = evaluate(network, *sets, out=out)
    assert again.exit_code == 0, again.stderr


def test_a_finished_report_of_another_format_is_measured_again(
    network, sets, tmp_path, monkeypatch
):
    out = tmp_path / "r"
    with monkeypatch.context() as older:
        older.setattr("medart_cli.evaluate.sets.REPORT_FORMAT", 1)
        assert evaluate(network, *sets, out=out).exit_code == 0
        assert "finished" in evaluate(network, *sets, out=out).stderr
    page = out / "report.html"
    older_page = page.read_bytes()[:-1] + b"~"  # as long: only its format tells
    page.write_bytes(older_page)
    assert evaluate(network, *sets, out=out).exit_code == 0
    assert page.read_bytes() != older_page


def test_a_class_that_repeats_a_few_images_is_named_as_collapsed(network, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.evaluate.test_run.COUNT", 48)
    real, syn = save_set(tmp_path / "real", 0), save_set(tmp_path / "syn", 100)
    paths = sorted((tmp_path / "syn" / "nevus").iterdir())
    for index, path in enumerate(paths[2:]):
        shutil.copy(paths[index % 2], path)
    result = evaluate(network, real, syn, out=tmp_path / "r", extra=("--bootstrap", "0", "--json"))
    assert result.exit_code == 0, result.stderr
    found = read_metrics(tmp_path / "r")["diversity"][0]
    assert found["collapsed"] == ["nevus"] == json.loads(result.stdout)["sets"]["syn"]["alike"]
    assert found["labels"]["melanoma"]["diversity_collapsed"] is False
    assert "mode collapse, synthetic images are alike in: nevus" in result.stderr


def test_the_same_command_again_gives_the_same_figures(network, sets, tmp_path):
    first = evaluate(network, *sets, out=tmp_path / "a", extra=("--bootstrap", "20"))
    again = evaluate(
        network, *sets, out=tmp_path / "b", extra=("--bootstrap", "20", "--batch-size", "5")
    )
    assert first.exit_code == again.exit_code == 0
    one, two = read_metrics(tmp_path / "a"), read_metrics(tmp_path / "b")
    for key in ("comparisons", "color", "copies"):
        assert one[key] == two[key]


def test_the_batch_size_changes_no_figure_beyond_rounding(network, sets, tmp_path):
    values = []
    for size in ("1", "7"):
        extra = ("--bootstrap", "0", "--batch-size", size, "--cache", str(tmp_path / size))
        evaluate(network, *sets, out=tmp_path / f"r{size}", extra=extra)
        values.append(read_metrics(tmp_path / f"r{size}")["comparisons"][0]["frechet"]["value"])
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_planted_copies_are_listed_and_fail_the_run_after_the_report(network, sets, tmp_path):
    shutil.copy(f"{sets[0]}/nevus/0.png", f"{sets[1]}/nevus/copy.png")
    out = tmp_path / "report"
    result = evaluate(network, *sets, out=out, extra=("--bootstrap", "0", "--fail-on-copies", "0"))
    assert result.exit_code == 1
    facts = read_metrics(out)["copies"][0]
    assert facts["identical_files"] == 1
    assert "syn: 1 of 13 images are near-copies of real ones, more" in result.stderr
    pairs = [json.loads(line) for line in (out / "copies.jsonl").read_text().splitlines()]
    assert len(pairs) == facts["copies"]
    assert [(pair["file_name"], pair["nearest"]) for pair in pairs if pair["identical"]] == [
        ("nevus/copy.png", "nevus/0.png")
    ]
    assert (out / "report.html").is_file()


def test_a_set_of_copies_is_not_praised_but_suspected(network, sets, tmp_path):
    for path in Path(sets[0]).rglob("*.png"):
        place = tmp_path / "copier" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(place / path.name, compress_level=1)  # other bytes
    out = tmp_path / "r"
    extra = ("--no-copies", "--bootstrap", "0", "--json")
    result = evaluate(network, *sets, str(tmp_path / "copier"), out=out, extra=extra)
    assert result.exit_code == 0, result.stderr
    assert "copier: suspected of copies (all images together" in result.stderr
    assert "syn: suspected" not in result.stderr
    summary = json.loads(result.stdout)["sets"]
    assert summary["syn"]["closer"] == [] and "all images together" in summary["copier"]["closer"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<th scope='row'>copier !</th>" in page and "copier: suspected of copies" in page


def test_an_over_saturated_set_is_caught_by_the_colors_and_loses_the_ranking(
    network, sets, tmp_path
):
    loud = save_set(tmp_path / "loud", 100, loud=4.0)
    out = tmp_path / "report"
    result = evaluate(network, *sets, loud, out=out, extra=("--no-copies", "--bootstrap", "50"))
    assert result.exit_code == 0, result.stderr
    facts = read_metrics(out)
    beyond = {item["set"]: item["beyond_floor"] for item in facts["color"]}
    assert "saturation mean" in beyond["loud"] and "saturation mean" not in beyond["syn"]
    assert facts["ranking"]["order"] == ["syn", "loud"] and facts["copies"] == []
    assert facts["ranking"]["n"] == COUNT


def shift(image, amount):
    return Image.fromarray((np.asarray(image, dtype=np.int16) + amount).clip(0, 255).astype("u1"))


def save_tinted(folder, first, spread, *, count=60):
    """Pictures whose brightness varies from one to the next; nevi always as real ones do."""
    random = np.random.default_rng(first)
    for index in range(count):
        label = ("nevus", "melanoma")[index % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        amount = (20 if label == "nevus" else spread) * random.normal()
        shift(draw_picture(first + index), amount).save(folder / label / f"{first + index}.png")
    return str(folder)


def test_a_set_of_pictures_that_are_all_alike_is_said_to_have_collapsed(network, tmp_path):
    real = save_tinted(tmp_path / "real", 0, 20)
    varied = save_tinted(tmp_path / "varied", 100, 20)
    alike = save_tinted(tmp_path / "alike", 200, 1)
    out = tmp_path / "report"
    result = evaluate(network, real, varied, alike, out=out, extra=("--no-copies",))
    assert result.exit_code == 0, result.stderr
    found = {item["set"]: item for item in read_metrics(out)["color"]}
    assert found["varied"]["collapsed"] == []
    assert found["alike"]["collapsed"] == ["melanoma"]
    melanoma = found["alike"]["labels"]["melanoma"]["variety"]["red"]
    low, high = melanoma["interval"]
    assert low < melanoma["value"] < high < 0.7
    assert melanoma["floor"][0] < 1 < melanoma["floor"][1]
    assert found["alike"]["labels"]["melanoma"]["variety_collapsed"] is True
    energy = found["alike"]["labels"]["melanoma"]["energy"]
    assert energy["value"] > energy["floor"][1]
    assert "alike: from image to image colors vary" in result.stderr
    assert "color variety has collapsed in: " in result.stderr
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "color variety has collapsed in: " in page
    assert re.search(
        r"alike: recall \(real images with a synthetic neighbor\) 0\.\d\d \(at n = 30 .*?\); mel",
        page,
    )
    assert "melanoma *" in page and "nevus *" not in page


def test_too_few_images_have_no_variety(network, tmp_path):
    real, few = (save_tinted(tmp_path / name, 0, 20, count=4) for name in ("real", "few"))
    result = evaluate(network, real, few, out=tmp_path / "report", extra=("--no-copies",))
    assert result.exit_code == 0, result.stderr
    found = read_metrics(tmp_path / "report")["color"][0]
    assert found["variety"] is None and found["collapsed"] == []
    assert "n = 4: color variety needs 5 images" in result.stderr


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"bootstrap": 0}, "no interval or no halves"),
        ({"one_patient": True}, "no interval or no halves"),
        ({"count": 15}, "n = 15: a collapse of color variety is only tested from 20 images on"),
    ],
    ids=str,
)
def test_without_what_a_verdict_needs_nothing_is_said_to_have_collapsed(change, note, tmp_path):
    count = change.get("count", 60)
    generator = np.random.default_rng(0)
    shares = generator.random((2 * count, 4, 256))
    real, alike = (shares / shares.sum(2, keepdims=True)).reshape(2, count, 1024)
    real = np.roll(real.reshape(count, 4, 256), 40, axis=2).reshape(count, 1024)
    real[::2] = np.roll(real[::2].reshape(-1, 4, 256), 60, axis=2).reshape(-1, 1024)
    groups = np.zeros(count) if change.get("one_patient") else np.arange(count)
    config = EvaluateConfig(
        real="r", synthetic=["s"], out=tmp_path, bootstrap=change.get("bootstrap", 100)
    )
    both = groups.astype(int), np.arange(count)
    found = measure_variety(real, alike, groups=both, config=config)
    assert found["variety_collapsed"] is None and note in found["variety_note"]


def test_sets_of_more_images_than_are_compared_in_pairs_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_colors, "ENERGY_LIMIT", 20)
    shares = np.random.default_rng(0).random((100, 4, 256))
    colors = (shares / shares.sum(2, keepdims=True)).reshape(100, 1024)
    config = EvaluateConfig(real="r", synthetic=["s"], out=tmp_path)
    groups = np.arange(60), np.arange(40)
    found = measure_variety(colors[:60], colors[60:], groups=groups, config=config)
    assert found["energy"]["floor"][0] < found["energy"]["floor"][1]


def test_a_set_of_other_labels_is_not_said_to_have_collapsed_as_a_whole(network, tmp_path):
    real = save_tinted(tmp_path / "real", 0, 60)
    other = save_tinted(tmp_path / "other", 100, 60)
    shutil.rmtree(Path(other) / "melanoma")
    evaluate(network, real, other, out=tmp_path / "report", extra=("--no-copies",))
    found = read_metrics(tmp_path / "report")["color"][0]
    assert found["variety_collapsed"] is None
    assert found["variety_note"] == "the sets differ in their labels"
    assert found["labels"]["nevus"]["variety_collapsed"] is False


def test_sets_of_one_source_are_hardly_ever_said_to_have_collapsed(tmp_path):
    random = np.random.default_rng(0)
    config = EvaluateConfig(real="r", synthetic=["s"], out=tmp_path)
    collapsed = 0
    for seed in range(40):
        n = (20, 40)[seed % 2]
        centers = random.integers(60, 190, (60 + n, 4))
        shares = np.zeros((60 + n, 4, 256))
        np.put_along_axis(shares, centers[..., None], 1, axis=2)
        colors = shares.reshape(-1, 1024)
        groups = np.arange(60), np.arange(n)
        found = measure_variety(colors[:60], colors[60:], groups=groups, config=config)
        collapsed += found["variety_collapsed"]
    assert collapsed <= 1


def test_sets_that_are_alike_get_no_winner(network, sets, tmp_path):
    third = save_set(tmp_path / "third", 200)
    result = evaluate(network, *sets, third, out=tmp_path / "report")
    ranking = read_metrics(tmp_path / "report")["ranking"]
    assert result.exit_code == 0 and ranking["winner"] is None
    assert ranking["reason"] == "no set is nearer than all others by more than chance"
    assert "winner: none" in result.stderr and "(below zero is nearer): " in result.stderr
    assert ranking["reference"] == "real" and ranking["n_reference"] == COUNT
    (pair,) = ranking["pairs"]
    assert set(pair["color"]) == {"mean", "spread", "histogram", "energy", "root"}
    for measure in pair["color"].values():
        assert measure["interval"][0] < measure["value"] < measure["interval"][1]
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert ">Which set is nearest</h2>" in page and "syn less third: nevus" in page


def test_a_set_of_copies_cannot_win_and_held_out_images_are_the_reference(network, tmp_path):
    real = save_tinted(tmp_path / "real", 0, 20, count=40)
    honest = save_tinted(tmp_path / "honest", 100, 20, count=40)
    far = save_set(tmp_path / "far", 200, loud=4.0)
    for path in Path(real).rglob("*.png"):
        place = tmp_path / "copier" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(place / path.name, compress_level=1)
    sets = real, honest, str(tmp_path / "copier"), far
    result = evaluate(network, *sets, out=tmp_path / "r", extra=("--bootstrap", "0"))
    assert result.exit_code == 0, result.stderr
    facts = read_metrics(tmp_path / "r")
    ranking = facts["ranking"]
    assert [item["excess"] for item in facts["copies"]] == [False, True, False]
    assert ranking["winner"] == "honest" and set(ranking["left_out"]) == {"copier"}
    assert "40 of its 40 images being near-copies" in ranking["left_out"]["copier"]
    extra = ("--bootstrap", "0", "--no-copies", "--overall", "--holdout")
    for count, reference in ((20, "holdout"), (19, "real")):
        holdout = save_tinted(tmp_path / str(count) / "holdout", 300, 20, count=count)
        out = tmp_path / f"r{count}"
        assert evaluate(network, *sets, out=out, extra=(*extra, holdout)).exit_code == 0
        assert read_metrics(out)["ranking"]["reference"] == reference


def test_sets_of_two_images_have_no_ranking_and_say_so(network, sets, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(2):
            draw_picture(index).save(tmp_path / name / f"{index}.png")
    few = str(tmp_path / "a"), str(tmp_path / "b")
    result = evaluate(network, sets[0], *few, out=tmp_path / "r", extra=("--bootstrap", "0"))
    assert result.exit_code == 0, result.stderr
    ranking = read_metrics(tmp_path / "r")["ranking"]
    assert ranking["winner"] is None and "pairs" not in ranking
    assert ranking["reason"] == "fewer than three images or patients in a, b"


def test_labels_that_are_not_shown_and_twins_among_real_images_are_counted_on_the_page(
    network, sets, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluate_pictures, "MOST_LABELS", 1)
    with Image.open(f"{sets[0]}/nevus/0.png") as image:
        image.save(f"{sets[0]}/nevus/again.png", compress_level=1)
    out = tmp_path / "report"
    assert evaluate(network, *sets, out=out, extra=("--bootstrap", "0")).exit_code == 0
    assert read_metrics(out)["copies"][0]["real_twins"] == 2
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "2 real images look like duplicates or retakes of another" in page
    assert "1 more labels are not shown." in page and "<h3>nevus</h3>" not in page


def test_the_summary_as_json(network, sets, tmp_path):
    result = evaluate(network, *sets, out=tmp_path / "r", extra=("--json", "--bootstrap", "0"))
    summary = json.loads(result.stdout)
    assert summary["result"] == str(tmp_path / "r") and summary["failures"] == 0
    facts = read_metrics(tmp_path / "r")
    assert summary["sets"]["syn"]["frechet"] == facts["comparisons"][0]["frechet"]["value"]


def test_few_real_images_cannot_tell_copies_from_chance(network, sets, tmp_path):
    out = tmp_path / "report"
    options = ("--bootstrap", "0", "--fail-on-copies", "0.5")
    result = evaluate(network, *sets, out=out, extra=options)
    assert result.exit_code == 1
    assert (
        "--fail-on-copies: syn: the false-positive rate on unseen real images cannot be stated"
    ) in result.stderr
    assert "cannot be stated from 12 images (50 are needed): look at the pairs" in (
        (out / "report.html").read_text()
    )


def test_a_held_out_set_sets_the_threshold(network, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "LEAST_HELDOUT", COUNT)
    holdout = save_set(tmp_path / "holdout", 300)
    extra = ("--holdout", holdout, "--bootstrap", "0")
    result = evaluate(network, *sets, out=tmp_path / "r", extra=extra)
    assert result.exit_code == 0, result.stderr
    found = read_metrics(tmp_path / "r")["copies"][0]
    assert (found["calibration"], found["heldout"]) == ("held-out set", COUNT)
    assert found["false_alarms"] == pytest.approx(3 / 13)


def test_with_patients_all_is_by_patient_and_without_the_report_says_so(network, sets, tmp_path):
    result = evaluate(network, *sets, out=tmp_path / "unknown")
    assert "real: patients are unknown: each image counts as independent" in result.stderr
    names = sorted(Path(sets[0]).rglob("*.png"))
    rows = [
        {
            "file_name": str(path.relative_to(sets[0])),
            "label": path.parent.name,
            "group_id": row // 2,
        }
        for row, path in enumerate(names)
    ]
    manifest = Path(sets[0]) / "metadata.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = evaluate(network, *sets, out=tmp_path / "known")
    assert result.exit_code == 0, result.stderr
    assert "real: 12 images of 6 patients; by patient." in result.stderr
    one, two = (read_metrics(tmp_path / name) for name in ("unknown", "known"))
    assert [item["patients"] for item in two["sets"]] == [6, None]
    first, second = one["comparisons"][0], two["comparisons"][0]
    assert first["patients"] is None and second["patients"] == {"real": 6, "synthetic": 12}
    for name in ("frechet", "kernel"):  # what is measured stays what it was
        assert second[name]["value"] == pytest.approx(first[name]["value"])
    assert second["kernel"]["interval"] is None and second["kernel"]["by_patient"]["interval"]
    assert two["comparisons"][1]["kernel"]["by_patient"] is None  # of 3 patients
    page = (tmp_path / "known" / "report.html").read_text(encoding="utf-8")
    assert "by patient</span></td>" in page and "6 patients: intervals are by patient" in page


def test_labels_that_differ_are_said_and_left_out(network, sets, tmp_path):
    other = save_set(tmp_path / "other", 400, labels=("nevus", "wart"))
    result = evaluate(network, sets[0], other, out=tmp_path / "r", extra=("--bootstrap", "0"))
    assert result.exit_code == 0
    facts = read_metrics(tmp_path / "r")
    assert [item["label"] for item in facts["comparisons"]] == [None, "nevus"]
    assert facts["unmatched_labels"]["other"] == [
        "melanoma: 6 real and 0 synthetic images",
        "wart: 0 real and 6 synthetic images",
    ]


def test_an_unreadable_file_is_named_and_counted(network, sets, tmp_path):
    broken = tmp_path / "syn" / "nevus" / "broken.png"
    broken.write_bytes(b"no image at all")
    result = evaluate(network, *sets, out=tmp_path / "r", extra=("--bootstrap", "0"))
    assert result.exit_code == 3
    assert f"{broken}: is not an image" in result.stderr
    assert read_metrics(tmp_path / "r")["failures"][0]["file"] == str(broken)
    extra = ("--bootstrap", "0", "--max-failures", "1")
    assert evaluate(network, *sets, out=tmp_path / "r", extra=extra).exit_code == 0


def test_pictures_of_one_color_and_of_mixed_sizes_have_measures(network, sets, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for index in range(4):
        Image.new("L", (20 + 9 * index, 30), 128).save(plain / f"{index}.png")
    result = evaluate(network, sets[0], str(plain), out=tmp_path / "r")
    assert result.exit_code == 0, result.stderr
    found = read_metrics(tmp_path / "r")["comparisons"][0]
    assert found["frechet"]["value"] > 0 and found["precision"] is None


def test_synthetic_rows_among_the_real_ones_are_refused(network, sets, tmp_path):
    rows = [{"file_name": "nevus/0.png"}, {"file_name": "melanoma/1.png", "synthetic": True}]
    manifest = tmp_path / "real" / "metadata.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = evaluate(network, *sets, out=tmp_path / "r")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        f"medart evaluate: {manifest}:2: a synthetic image in the real images, where real ones are "
        "expected; remove it, or use --allow-synthetic"
    )


def test_a_set_of_one_image_is_refused(network, sets, tmp_path):
    (tmp_path / "one").mkdir()
    draw_picture(0).save(tmp_path / "one" / "a.png")
    result = evaluate(network, sets[0], str(tmp_path / "one"), out=tmp_path / "r")
    assert result.exit_code == 2
    assert result.stderr.endswith("one: contains 1 image; metrics need 2 or more\n")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--bootstrap", "5"], "--bootstrap must be 0, or 20 or more, got 5"),
        (["--copy-rate", "1"], "--copy-rate must be between 0 and 1"),
        (["--no-copies", "--fail-on-copies", "0.1"], "--fail-on-copies needs --copies"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(network, sets, tmp_path, options, text):
    result = evaluate(network, *sets, out=tmp_path / "r", extra=options)
    assert result.exit_code == 2 and text in result.stderr and result.stderr.count("\n") == 1


def test_missing_inception_weights_are_exit_code_4(sets, tmp_path):
    result = evaluate("inception", *sets, out=tmp_path / "r")
    assert result.exit_code == 4
    assert "--inception" in result.stderr and not (tmp_path / "r").exists()


class StandIn(torch.nn.Module):
    """The interface of the Inception file that clean-fid uses, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 2048, 9, stride=60), torch.nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_inception_is_the_default_where_its_weights_are_and_gives_fid(sets, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    path = cache / "inception-2015-12-05.pt"
    torch.jit.script(StandIn()).save(str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(networks, "load_inception", partial(load_inception, sha256=sha256))
    built = networks.build_networks(
        EvaluateConfig(real="a", synthetic=["b"], out=tmp_path, device="cpu"), cache
    )
    assert [item.name for item in built.all] == [
        *("inception", "colors", "efficientnet-lite0", "efficientnet-lite0 middle", "layout"),
        *("efficientnet-lite0 mirrored", "efficientnet-lite0 middle mirrored"),
    ]
    options = ["--cache", str(cache), "--workers", "0", "--device", "cpu", "--bootstrap", "0"]
    command = ["evaluate", *sets, "--out", str(tmp_path / "r"), *options, "--no-copies"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    network = read_metrics(tmp_path / "r")["features"][0]
    assert (network["name"], network["frechet"], network["kernel"]) == ("inception", "FID", "KID")
    assert network["width"] == 2048 and "FID and KID (Inception)" in result.stderr


def test_a_report_of_other_settings_is_not_overwritten_unasked(network, sets, tmp_path):
    evaluate(network, *sets, out=tmp_path / "r", extra=("--bootstrap", "0"))
    result = evaluate(network, *sets, out=tmp_path / "r", extra=("--bootstrap", "20"))
    assert result.exit_code == 2 and "bootstrap was 0 and is now 20" in result.stderr
