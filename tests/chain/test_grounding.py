"""Flags of captions that name wrong colors: how often on real images, and where a reader sees them.

The colors of the dermoscopic images were read off by eye, from other images than those on which
medart_cli/caption/grounding.py was made: class and number of the image, colors that are there,
colors that are not. A caption is written from either through the whole command.
"""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from medart_cli.cli import app
from tests.small import build_base
from tests.stub_server import prompt_of, serve

DATA = Path(__file__).parents[2] / "../shared/data"
FOLDERS = {"m": "melanoma", "n": "nevus", "k": "seborrheic_keratosis"}
SKIN = """
m 0014156 pink|green yellow purple orange
m 0014507 pink red|green yellow blue
m 0000288 brown orange white|green
m 0013672 pink brown|green blue purple
m 0014922 brown black pink|green blue purple
m 0001103 gray black blue|green red orange
m 0000165 black red pink|green blue yellow purple
m 0013740 tan brown pink|green blue
m 0013198 purple pink red brown|green yellow orange
m 0014327 brown gray pink|green yellow blue
m 0001118 brown blue|green purple pink
m 0014486 brown pink|green blue yellow
m 0000410 brown tan gray|red purple pink orange
m 0015219 black red pink brown|green blue yellow
m 0014092 brown|green blue yellow purple white
m 0014897 black gray pink|green blue yellow orange
m 0011163 brown red|blue green purple
n 0013031 tan brown gray|green blue purple red
n 0012878 pink purple|green orange
n 0011088 brown pink|blue purple white
n 0014903 brown black pink red|green blue yellow purple
n 0012905 brown|green black
n 0012205 brown|green blue purple yellow
n 0000089 brown black pink|green blue purple
n 0013229 orange brown green|blue purple red
n 0013326 tan brown black|red green
n 0014475 brown gray|green yellow blue purple
n 0011157 brown tan|red blue purple pink
n 0000262 brown gray|green yellow red orange
n 0002616 tan red|green blue purple black
n 0006940 blue tan|green red purple
n 0010320 tan|green blue purple
k 0014806 black gray pink|green blue yellow orange
k 0013580 brown orange|green yellow
k 0014625 tan pink|green red black
k 0013458 brown purple|green white
k 0013397 brown purple pink|green yellow
k 0014169 pink red white|green blue purple
k 0012773 gray purple|green orange red
k 0014723 red brown black|green blue yellow
k 0013684 red brown pink|green blue
k 0014770 black brown pink|green yellow purple orange
k 0014596 tan brown|green red purple blue
k 0014573 tan|green red purple
k 0013980 purple pink|green yellow
k 0012880 pink brown|green blue yellow
k 0012986 pink brown|green blue yellow purple
k 0013400 purple pink|green yellow
"""
# Of each class of stained blood cells: a nucleus is purple whatever the cell.
BLOOD = {
    "basophil": ("purple", "green brown"), "eosinophil": ("purple pink", "green yellow"),
    "erythroblast": ("purple", "orange green"), "lymphocyte": ("purple", "yellow red"),
    "monocyte": ("purple", "brown orange"), "neutrophil": ("purple pink", "orange yellow"),
    "platelet": ("purple", "brown red"),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("models") / "base"))


def answer(body):
    """Word the colors that the row's column names."""
    prompt = prompt_of(body)
    simple = prompt.split('exactly with: "')[1].split('"')[0]
    words = prompt.split("Colors: ")[1].split(".")[0].split()
    return f"{simple}, with {' and '.join(words)} areas and an irregular outline."


def caption(manifest, base, *options):
    with serve(answer) as stub:
        asked = ("--endpoint", stub.url, "--base", base, "--context", "Colors: {colors}.")
        done = CliRunner().invoke(app, ["caption", str(manifest), *asked, *map(str, options)])
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    return rows, done


def count_flagged(folder, base, images, root):
    manifest = folder / "metadata.jsonl"
    lines = [{"file_name": name, "label": "lesion", "colors": colors} for name, colors in images]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, _ = caption(manifest, base, "--root", root, "--review", 0)
    assert all(row["caption"]["status"] == "ok" for row in rows)
    return sum(bool(row["caption"].get("flags")) for row in rows) / len(rows)


@pytest.mark.skipif(not DATA.is_dir(), reason="the images are not on this machine")
def test_wrong_colors_of_real_dermoscopic_images_are_flagged_and_right_ones_are_not(tmp_path, base):
    root = DATA.resolve() / "isic2017_dermoscopy"
    parts = [line.split("|") for line in SKIN.split("\n") if line]
    heads = [head.split() for head, _ in parts]
    names = [f"{FOLDERS[kind]}/ISIC_{number}.jpg" for kind, number, *_ in heads]
    right = [" ".join(head[2:]) for head in heads]
    wrong = [word for _, word in parts]
    assert len(names) == 48
    assert count_flagged(tmp_path, base, zip(names, right, strict=True), root) <= 0.05
    assert count_flagged(tmp_path, base, zip(names, wrong, strict=True), root) >= 0.9


@pytest.mark.skipif(not DATA.is_dir(), reason="the images are not on this machine")
def test_wrong_colors_of_real_blood_cells_are_flagged_and_right_ones_are_not(tmp_path, base):
    root = DATA.resolve() / "pbc_blood_cells"
    names = {kind: sorted((root / kind).iterdir())[:7] for kind in BLOOD}
    for which, low, high in ((0, 0.0, 0.02), (1, 0.9, 1.0)):
        images = [(f"{kind}/{path.name}", BLOOD[kind][which])
                  for kind, paths in names.items() for path in paths]  # fmt: skip
        assert low <= count_flagged(tmp_path, base, images, root) <= high


def test_a_flag_stands_in_manifest_table_and_page_until_a_person_has_seen_the_text(tmp_path, base):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64), (110, 70, 45)).save(tmp_path / name)
    manifest, table = tmp_path / "metadata.jsonl", tmp_path / "captions.csv"
    lines = [("a.png", "brown", 1), ("b.png", "green", 2)]
    manifest.write_text("".join(
        json.dumps({"file_name": name, "label": "polyp", "colors": colors, "count": count}) + "\n"
        for name, colors, count in lines
    ))  # fmt: skip
    rows, done = caption(manifest, base, "--export", table, "--audit", 2, "--json")
    flag = "says green, but hardly any of the image is"
    assert ["flags" in row["caption"] for row in rows] == [False, True]
    assert rows[1]["caption"]["flags"] == [flag]
    with table.open(encoding="utf-8-sig", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [it["flags"] for it in cells] == ["", flag]
    page = (tmp_path / "review.html").read_text("utf-8")
    assert f"<th scope='row'>{flag}</th><td>1</td>" in page and page.index(
        ">2. b.png"
    ) < page.index(">1. a")
    audit = json.loads(done.stdout)["audit"]
    assert (audit["color_texts"], audit["color_absent"], audit["color_absent_other"]) == (
        2, 0.5, 0.5
    )  # fmt: skip
    assert "2 of the texts name colors" in page
    cells[1]["text"] = cells[1]["text"].replace("green", "brown")
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, cells[0])
        writer.writeheader()
        writer.writerows(cells)
    rows, _ = caption(manifest, base, "--texts", table)
    assert "flags" not in rows[1]["caption"] and rows[1]["caption"]["status"] == "edited"
