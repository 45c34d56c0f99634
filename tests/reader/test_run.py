import json
import re
from pathlib import Path

import pytest

from medart_cli.errors import ConfigError
from medart_cli.reader.options import ReaderConfig
from tests.jobs import draw_images


@pytest.fixture
def kit(medart, tmp_path):
    draw_images(tmp_path / "real", 0)
    draw_images(tmp_path / "syn", 1, synthetic=True)
    words = (tmp_path / "real", tmp_path / "syn", "--count", 6, "--out", tmp_path / "kit")
    code, output, errors = medart("reader", *words)
    assert (code, output) == (0, f"{tmp_path / 'kit/reader.html'}\n"), errors
    return tmp_path / "kit"


def key_of(kit):
    return json.loads((kit / "key.json").read_text("utf-8"))


def write_answers(kit, name, wrong=(), key=None):
    """Save answers as the page does: right but for those at some places."""
    answers = []
    for place, item in enumerate(key_of(kit)["images"]):
        others = {"real": "synthetic", "synthetic": "real"}
        said = others[item["kind"]] if place in wrong else item["kind"]
        answers.append({"image": item["image"], "answer": said, "confidence": 4, "seconds": 2.5})
    path = kit.parent / f"answers-{name}.json"
    key = key or key_of(kit)["kit"]
    facts = {"format": 1, "kit": key, "reader": name, "answers": answers}
    path.write_text(json.dumps(facts))
    return path


def keys_of(value):
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_answers_are_scored_as_a_shell_gives_them(medart, kit):
    files = [write_answers(kit, name, wrong) for name, wrong in
             (("ann", ()), ("ben", (0, 1)), ("cem", (2,)))]  # fmt: skip
    code, output, errors = medart("reader", kit, "--answers", *files)  # --answers *.json
    assert (code, output) == (0, f"{kit / 'results/results.html'}\n"), errors
    results = json.loads((kit / "results/results.json").read_text("utf-8"))
    assert [item["reader"] for item in results["readers"]] == ["ann", "ben", "cem"]
    values = [item["scores"]["accuracy"]["value"] for item in results["readers"]]
    assert values == pytest.approx([1, 10 / 12, 11 / 12])
    assert results["verdict"] == "told apart" and set(results["labels"]) == {"melanoma", "nevus"}
    page = (kit / "results/results.html").read_text("utf-8")
    assert "Readers can tell synthetic from real images" in page and "<script" not in page
    # One more reader, one at a time, from elsewhere: the results are made anew.
    one = [word for path in files[:2] for word in ("--answers", path)]
    code, output, _ = medart("reader", kit / ".." / kit.name, *one, "--json")
    assert (code, json.loads(output)["readers"]) == (0, 2)
    assert json.loads(output)["agreement"]["measure"] == "cohen"


def test_making_the_kit_again_leaves_results_alone(medart, kit, tmp_path):
    medart("reader", kit, "--answers", write_answers(kit, "ann"))
    words = (tmp_path / "real", tmp_path / "syn", "--count", 6, "--out", kit)
    code, _, errors = medart("reader", *words)
    assert code == 0 and "already finished" in errors
    assert (kit / "results/results.json").is_file()


def test_results_never_take_the_place_of_the_kit(medart, kit):
    words = ("--answers", write_answers(kit, "ann"), "--out", kit, "--overwrite")
    code, _, errors = medart("reader", kit, *words)
    assert code == 2 and "contains" in errors and (kit / "key.json").is_file()


def test_every_key_is_documented(medart, kit):
    files = [write_answers(kit, "ann"), write_answers(kit, "ben", (0, 1))]
    _, output, _ = medart("reader", kit, "--answers", *files, "--json")
    facts = [json.loads(output), key_of(kit), json.loads(files[0].read_text())]
    facts.append(json.loads((kit / "results/results.json").read_text("utf-8")))
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    section = "".join(page.split(head)[1].split("## ")[0]
                      for head in ("## Input data", "## A reader study"))  # fmt: skip
    known = set(re.findall(r"`(\w+)`", section))
    assert keys_of(facts) - {"melanoma", "nevus"} - known == set()


def test_answers_to_another_kit_are_refused_and_a_folder_that_is_none(medart, kit, tmp_path):
    other = write_answers(kit, "ann", key="other")
    code, output, errors = medart("reader", kit, "--answers", other, "--quiet")
    assert (code, output) == (2, "") and "holds answers to another kit" in errors
    code, _, errors = medart("reader", tmp_path / "real", "--answers", other, "--quiet")
    assert code == 2 and "is no reader study kit" in errors
    assert not (kit / "results").exists() and not (tmp_path / "real" / "results").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"real": "a"}, "needs REAL and one SYNTHETIC set, got 1"),
        ({"real": "a", "synthetic": ["b", "c"]}, "needs REAL and one SYNTHETIC set, got 3"),
        ({"real": "a", "synthetic": ["b"]}, "--out: missing"),
        ({"real": "-", "synthetic": ["-"], "out": Path("o")}, "only one of the sets can be -"),
        ({"real": "a", "answers": [Path("b")], "count": 9}, "--count: has no effect with --ans"),
        ({"real": "a", "answers": [Path("b")], "root": Path()}, "--root: has no effect with --ans"),
        (
            {"real": "a", "synthetic": ["b"], "out": Path("o"), "device": "cpu"},
            "--device: has no effect here",
        ),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(options, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        ReaderConfig(**options)
