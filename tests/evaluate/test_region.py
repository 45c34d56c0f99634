import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from typer.testing import CliRunner

from medart_cli.cli import app
from medart_cli.evaluate import region as module
from medart_cli.evaluate.answers import answer_sets
from medart_cli.evaluate.region import MaskedRegion, find_region
from tests.evaluate.test_masks import build_set

SIDE, COUNT = 64, 24
CONFIG = SimpleNamespace(workers=2)
AXIS = np.arange(SIDE)


def draw_lesion(seed, redder=0.0):
    """A lesion on skin, and its mask; `redder` in the lesion, and the skin less, mean unchanged."""
    random = np.random.default_rng(seed)
    x, y = random.integers(26, 38, 2)
    marked = np.hypot(AXIS[:, None] - y, AXIS - x) < 11
    pixels = random.normal(130, 8, (SIDE, SIDE, 3)) + random.normal(0, 4, 3)
    pixels[marked] -= 20
    pixels[marked, 0] += redder
    pixels[~marked, 0] -= redder * marked.mean() / (1 - marked.mean())
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)), marked


def save_lesions(folder, first, redder=0.0, masks=True):
    folder.mkdir()
    rows = []
    for seed in range(first, first + COUNT):
        image, marked = draw_lesion(seed, redder)
        image.save(folder / f"{seed}.png")
        rows.append({"file_name": f"{seed}.png", "label": ("a", "b")[seed % 2]})
        if masks:
            Image.fromarray(marked).save(folder / f"{seed}-mask.png")
            rows[-1]["mask"] = f"{seed}-mask.png"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Real images with masks, drawn ones as real, and with lesions of another color; a network."""
    folder = tmp_path_factory.mktemp("region")
    torch.manual_seed(0)
    small = {"input_size": (3, 32, 32)}
    model = timm.create_model("test_resnet", num_classes=2, pretrained_cfg_overlay=small)
    save_for_hf(model, folder / "network", safe_serialization=True)
    save_lesions(folder / "real", 0)
    save_lesions(folder / "alike", 100, masks=False)
    save_lesions(folder / "redder", 200, 60.0, masks=False)
    return folder


def evaluate(work, out, *options, real="real"):
    words = [work / real, work / "alike", work / "redder", "--out", work / out, "--no-copies",
             "--features", work / "network", "--workers", 0, "--device", "cpu", "--bootstrap", 20,
             "--floor-repeats", 2, "--cache", work / "cache", *options]  # fmt: skip
    ended = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    assert ended.exit_code == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def report(work):
    ended = evaluate(work, "report")
    facts = json.loads((work / "report" / "metrics.json").read_text(encoding="utf-8"))
    return SimpleNamespace(folder=work / "report", facts=facts, said=ended.stderr)


def parts_of(report, name):
    """The colors of a set: of the whole image, in the region, and around it."""
    items = [report.facts["color"]]
    items += [report.facts["region"]["parts"][it]["color"] for it in ("region", "surround")]
    return [next(it for it in item if it["set"] == name) for item in items]


def read_pixels(folder, first):
    paths = [folder / f"{seed}.png" for seed in range(first, first + COUNT)]
    return np.stack([np.asarray(Image.open(path)) for path in paths]) / 255


def test_gaps_in_the_region_and_around_it_are_those_of_plain_arithmetic(work, report):
    mean = np.mean([draw_lesion(seed)[1] for seed in range(COUNT)], axis=0)
    found = report.facts["region"]
    assert (found["masks"], found["unused"]) == (COUNT, 0)
    assert found["covered"] == pytest.approx(mean.mean())
    real, drawn = read_pixels(work / "real", 0), read_pixels(work / "redder", 200)
    for name, weights in (("region", mean), ("surround", 1 - mean)):
        part = found["parts"][name]
        assert part["marked"] == pytest.approx((weights * mean).sum() / weights.sum())
        item = next(it for it in part["color"] if it["set"] == "redder")
        for channel, color in enumerate(("red", "green", "blue")):
            first, second = (
                np.average(it[..., channel].reshape(COUNT, -1), axis=1, weights=weights.ravel())
                for it in (real, drawn)
            )
            measure = item["mean"][color]
            assert measure["value"] == pytest.approx(second.mean() - first.mean(), abs=1e-5)
            assert measure["interval"][0] < measure["value"] < measure["interval"][1]
            ratio = item["variety"][color]["value"]
            assert ratio == pytest.approx(second.std(ddof=1) / first.std(ddof=1), rel=1e-4)


def test_lesions_of_another_color_are_seen_where_the_mean_of_the_whole_image_is_right(report):
    whole, inside, around = (it["mean"]["red"] for it in parts_of(report, "redder"))
    assert whole["beyond_floor"] is False and abs(whole["value"]) < 0.01
    assert inside["beyond_floor"] is True and inside["value"] > 0.08
    assert around["beyond_floor"] is True and around["value"] < -0.01
    assert all(it["beyond_floor"] == [] for it in parts_of(report, "alike"))
    line = "redder, in the masked region: colors differ more than those of two sets from the same"
    assert (
        line in report.said and "alike, around the masked region: colors differ no" in report.said
    )
    _, look, _ = answer_sets(report.facts)["redder"]
    assert "in the masked region too much red" in look.text
    assert "around the masked region too little red" in look.text
    _, look, _ = answer_sets(report.facts)["alike"]
    assert "the same source, also in the masked region and around the masked region" in look.text


def test_both_parts_have_all_that_the_whole_image_has(report):
    whole, inside, around = parts_of(report, "redder")
    assert whole.keys() == inside.keys() == around.keys()
    assert inside["labels"].keys() == around["labels"].keys() == {"a", "b"}
    assert inside["energy"]["floor"] and inside["variety_note"] is None


def test_the_page_and_the_tables_show_both_parts_and_where_they_are(report):
    page = (report.folder / "report.html").read_text(encoding="utf-8")
    for name in ("inside: red", "around it: saturation", "inside: a", "around it: b"):
        assert f">{name}<" in page
    assert f"The mean of {COUNT} masks of the {COUNT} real images" in page
    assert "<dfn>Masked region</dfn>" in page
    rows = (report.folder / "tables" / "region-1.csv").read_text().splitlines()
    assert rows[0].startswith("Masked region,mean gap,by chance") and len(rows) == 9
    assert (report.folder / "tables" / "region-variety-2.csv").is_file()
    with Image.open(report.folder / "region.png") as picture:
        levels = np.asarray(picture)[..., 0]
    assert levels[128, 128] > 250 and levels[0, 0] == 0


def test_every_key_of_the_region_is_documented(report):
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`(\w+)`", page.split("from evaluate")[1].split("## ")[0]))
    found = report.facts["region"]
    assert {"region", *found, *found["parts"], *found["parts"]["region"]} <= known


def test_a_real_set_without_masks_has_the_report_that_it_always_had(work, report):
    rows = [json.loads(row) for row in (work / "real" / "metadata.jsonl").read_text().splitlines()]
    (work / "plain").mkdir()
    for row in rows:
        shutil.copy(work / "real" / row["file_name"], work / "plain")
        del row["mask"]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (work / "plain" / "metadata.jsonl").write_text(lines)
    ended = evaluate(work, "plain-report", real="plain")
    facts = json.loads((work / "plain-report" / "metrics.json").read_text())
    assert facts.keys() == report.facts.keys() - {"region"}
    for key in ("comparisons", "color", "diversity", "failures", "format"):
        assert facts[key] == report.facts[key]
    assert "mask" not in ended.stderr
    assert "asked region" not in (work / "plain-report" / "report.html").read_text()
    assert {it.name for it in (work / "plain-report").rglob("region*")} == set()
    assert "finished" in evaluate(work, "plain-report", real="plain").stderr


def test_other_masks_make_another_report_and_other_features(work, report):
    assert "already finished" in evaluate(work, "report").stderr
    path = work / "real" / "0-mask.png"
    before, cached = path.read_bytes(), {*(work / "cache" / "features").iterdir()}
    try:
        Image.new("L", (SIDE, SIDE), 255).save(path)
        again = evaluate(work, "report")
    finally:
        path.write_bytes(before)
    assert "finished" not in again.stderr
    assert len({*(work / "cache" / "features").iterdir()} - cached) == 2
    changed = json.loads((work / "report" / "metrics.json").read_text())
    assert changed["region"]["covered"] > report.facts["region"]["covered"]
    assert changed["color"] == report.facts["color"]


def save_masks(folder, *shapes):
    """An image for each mask, white where that is marked."""
    for number, marked in enumerate(shapes):
        Image.new("RGB", (SIDE, SIDE), "gray").save(folder / f"{number}.png")
        Image.fromarray(marked).save(folder / f"{number}-mask.png")
    return [f"{number}-mask.png" for number in range(len(shapes))]


def mark(rows, columns=slice(None), shape=(SIDE, SIDE)):
    marked = np.zeros(shape, dtype=bool)
    marked[rows, columns] = True
    return marked


def test_the_region_is_the_mean_of_the_masks_that_there_are(tmp_path, said):
    first, second = mark(slice(10, 40)), mark(slice(20, 50), slice(5, 30))
    names = save_masks(tmp_path, first, second, first)
    found = find_region(CONFIG, build_set(tmp_path, [*names[:2], None]), tmp_path / "cache")
    np.testing.assert_allclose(found.mean, (first * 1.0 + second) / 2)
    assert (found.masks, found.unused) == (2, 0)
    assert said == ["real: 2 of 3 images have a mask, which covers 33 % of the middle square on "
                    "average"]  # fmt: skip
    assert find_region(CONFIG, build_set(tmp_path, [None, None]), tmp_path / "cache") is None


def test_masks_that_cannot_be_used_are_counted_and_told_in_one_line(tmp_path, said):
    good = mark(slice(10, 40))
    names = save_masks(tmp_path, good)
    found = find_region(CONFIG, build_set(tmp_path, [*names, "gone.png", 5]), tmp_path / "cache")
    np.testing.assert_array_equal(found.mean, good)
    assert (found.masks, found.unused) == (1, 2)
    assert said[0] == (
        "real: 2 of 3 masks cannot be used, such as m:1: mask gone.png: No such file or "
        "directory; the region is the mean of the others"
    )


@pytest.mark.parametrize(("marked", "told"), [
    (mark(slice(0)), "marks nothing; leave it out"),
    (mark(slice(9), shape=(SIDE, SIDE + 1)),
     "has 65 x 64 pixels and its image 64 x 64; save both at one size"),
], ids=["empty", "size"])  # fmt: skip
def test_without_a_mask_that_can_be_used_there_is_no_region(tmp_path, said, marked, told):
    real = build_set(tmp_path, save_masks(tmp_path, marked))
    assert find_region(CONFIG, real, tmp_path / "cache") is None
    assert said == [f"real: 1 of 1 masks cannot be used, such as m:0: mask 0-mask.png: {told}; "
                    "colors in the masked region are not measured"]  # fmt: skip


def test_masks_outside_the_middle_square_mark_nothing_there(tmp_path, said):
    wide = (SIDE, 2 * SIDE)
    names = save_masks(tmp_path, mark(slice(None), slice(9), wide), mark(slice(None), 60, wide))
    for name in ("0.png", "1.png"):
        Image.new("RGB", wide[::-1], "gray").save(tmp_path / name)
    found = find_region(CONFIG, build_set(tmp_path, names), tmp_path / "cache")
    assert found.masks == 2 and found.mean.max() == 0.5
    assert "1 of 2 masks lie outside the middle square of their images" in said[0]
    assert find_region(CONFIG, build_set(tmp_path, names[:1]), tmp_path / "cache") is None
    assert said[-1].endswith("colors in the masked region are not measured")


def test_a_mask_is_read_once_and_again_with_another_image(tmp_path, monkeypatch):
    names = save_masks(tmp_path, mark(slice(10, 40)), mark(slice(20, 50)))
    real, cache = build_set(tmp_path, names), tmp_path / "cache"
    first = find_region(CONFIG, real, cache)
    read, taken = module.read_mask, []
    monkeypatch.setattr(module, "read_mask", lambda *args: taken.append(args) or read(*args))
    np.testing.assert_array_equal(find_region(CONFIG, real, cache).mean, first.mean)
    assert taken == []
    find_region(CONFIG, build_set(tmp_path, names, [b"a" * 32, b"b" * 32]), cache)
    assert len(taken) == 2


def test_around_masks_of_the_whole_image_there_is_nothing():
    everywhere = MaskedRegion(np.ones((64, 64)), 3, 0)
    assert [*everywhere.extractors] == ["region"]
    some = MaskedRegion(np.full((64, 64), 0.25), 3, 0).extractors
    assert [*some] == ["region", "surround"]
    assert some["region"].fingerprint != some["surround"].fingerprint
