import json
import re
from pathlib import Path

import numpy as np
import pytest

from medart_cli.data.account import Account
from medart_cli.data.manifest import Record
from medart_cli.data.subgroups import find_cut
from medart_cli.errors import ConfigError
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import ImageSet, describe_set, read_sets
from medart_cli.evaluate.subgroups import find_drawn, measure_shortfall
from medart_cli.metrics.color import CHANNELS
from medart_cli.metrics.reach import measure_reaches
from tests.evaluate.test_run import draw_picture, evaluate, keys_of, network, read_metrics

_ = network  # a fixture


def make_set(rows, keys=None):
    count = len(rows)
    records = [Record({"file_name": f"{i}.png", **row}, Path("d"), f"m:{i}")
               for i, row in enumerate(rows)]  # fmt: skip
    keys = np.array(keys or [bytes([1, i + 1]) * 16 for i in range(count)], dtype="S32")
    no = np.zeros(count, dtype=bool)
    return ImageSet("set", records, np.arange(count), {}, np.full(count, -1, dtype=np.int32),
                    no, no, keys, Account("set"))  # fmt: skip


REAL = make_set([{"sex": sex} for sex in "FMFM"])


def test_a_drawn_image_is_of_the_subgroup_that_its_row_names():
    cut = find_cut(REAL, "sex", "REAL")
    drawn = make_set([{"sex": "M"}, {"sex": "f"}, {}, {"sex": "other"}])
    codes, how = find_drawn(cut, drawn, [REAL])
    assert codes.tolist() == [1, 0, -1, -1] and how == "their rows"


def test_or_of_that_of_the_row_that_it_was_drawn_from():
    cut = find_cut(REAL, "sex", "REAL")
    sources = [{"sha256": REAL.keys[k].hex(), "image": "x.png"} for k in (3, 0)]
    drawn = make_set([{"source": source} for source in [*sources, {"sha256": "0" * 64}, {}]])
    codes, how = find_drawn(cut, drawn, [REAL])
    assert codes.tolist() == [1, 0, -1, -1] and how == "the rows that they were drawn from"
    assert find_drawn(cut, make_set([{"source": {"sha256": "zz"}}, {}]), [REAL])[1] is None


def test_a_report_is_another_where_a_value_of_the_key_is():
    other = make_set([{"sex": sex} for sex in "FMFF"], REAL.keys.tolist())
    assert describe_set(REAL) == describe_set(other)
    assert describe_set(REAL, ["sex"]) != describe_set(other, ["sex"])


def shortfall(real, synthetic, members, patients=None):
    groups = np.arange(len(real)) if patients is None else patients
    reaches = measure_reaches(
        real, synthetic, (groups, np.arange(len(synthetic))), np.random.default_rng(0), 4
    )
    return measure_shortfall(reaches, groups, (members, ~members), (2, 1))


def draw_halves(count, seed, apart=5.0):
    """Draw images of two subgroups that lie apart and differ in how much they vary."""
    x = np.random.default_rng(seed).normal(size=(count, 6))
    first = np.arange(count) % 2 == 0
    x[first] *= 2
    x[first, 0] += apart
    return x, first


def test_a_subgroup_that_varies_more_is_not_thought_to_be_missed():
    real, first = draw_halves(160, 0)
    gap = shortfall(real, draw_halves(160, 1)[0], first)
    assert not gap.is_shown and abs(gap.value) < 0.15


def test_a_subgroup_that_the_set_does_not_draw_is_found():
    real, first = draw_halves(160, 0, apart=12)
    drawn, own = draw_halves(300, 1, apart=12)
    gap = shortfall(real, drawn[~own], first)
    assert gap.is_shown and gap.value < -0.3 and gap.p_value < 0.01


def save_rows(folder, count, first, **keys):
    folder.mkdir()
    lines = []
    for index in range(count):
        draw_picture(first + index).save(folder / f"{index}.png")
        fields = {key: value(index) for key, value in keys.items()}
        lines.append(json.dumps({"file_name": f"{index}.png", **fields}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_subgroups_are_in_the_report_and_a_finished_one_knows_their_values(network, tmp_path):
    real = save_rows(tmp_path / "real", 44, 0, sex=lambda i: "FM"[i % 2] if i < 42 else None)
    drawn = save_rows(tmp_path / "syn", 24, 100, sex=lambda i: "FM"[i % 2])
    call = (network, real, drawn, "--by", "sex")
    out, small = tmp_path / "report", ("--bootstrap", "20", "--floor-repeats", "2", "--json")
    result = evaluate(*call, out=out, extra=small)
    assert result.exit_code == 0, result.stderr
    (item,) = read_metrics(out)["subgroups"]
    assert {name: it["images"] for name, it in item["groups"].items()} == {
        "F": 21, "M": 21, "unknown": 2
    }  # fmt: skip
    found = item["sets"]["syn"]
    assert found["drawn_by"] == "their rows" and found["groups"]["F"]["drawn"] == 12
    assert found["groups"]["F"]["distance"]["n_real"] == 21
    assert found["groups"]["unknown"]["distance"] is None
    whole = read_metrics(out)["comparisons"][0]["recall"]
    shares = [(item["groups"][name]["images"], it["recall"]["value"])
              for name, it in found["groups"].items()]  # fmt: skip
    assert sum(n * share for n, share in shares) / 44 == pytest.approx(whole)
    assert (found["gap"]["first"], found["gap"]["second"]) == ("F", "M")
    (line, small_line) = json.loads(result.stdout)["subgroups"]
    assert line.startswith("syn, by sex: ") and "too small to be compared: unknown" in small_line
    docs = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    section = docs.split("from evaluate")[1].split("## ")[0]
    known = set(re.findall(r"`(\w+)`", section)) | {"F", "M", "unknown", "syn", *CHANNELS}
    assert keys_of(item) - known == set()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Subgroups by sex" in page and "too small to be compared" in page
    assert "already finished" in evaluate(*call, out=out, extra=small).stderr
    path = tmp_path / "real" / "metadata.jsonl"
    path.write_text(path.read_text().replace('"M"', '"F"', 1))
    assert "already finished" not in evaluate(*call, out=out, extra=small).stderr


def test_what_makes_no_subgroups_is_refused_before_anything_is_read(sets_of_rows, tmp_path):
    drawn = save_rows(tmp_path / "syn", 2, 100)
    config = EvaluateConfig(real=sets_of_rows, synthetic=[drawn], out=tmp_path, by=["sexx"])
    with pytest.raises(ConfigError, match="^--by sexx: no row of real has .*; there are sex$"):
        read_sets(config)


@pytest.fixture
def sets_of_rows(tmp_path):
    return save_rows(tmp_path / "real", 4, 0, sex=lambda i: "FM"[i % 2])
