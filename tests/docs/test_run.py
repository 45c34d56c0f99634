"""`medart docs`: pages in the terminal."""

import json
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs"


def test_the_list_has_a_line_for_each_page(medart):
    code, output, errors = medart("docs")
    assert code == 0 and str(PAGES) in errors
    names = [line.split()[0] for line in output.splitlines()]
    assert names[0] == "index" and {*names} == {path.stem for path in PAGES.glob("*.md")}
    assert all(len(line.split()) > 3 for line in output.splitlines())


@pytest.mark.parametrize("name", ["study", "study.md", "STUDY"])
def test_a_pipe_gets_a_page_as_it_is_written(medart, name):
    code, output, errors = medart("docs", name)
    assert (code, errors) == (0, "")
    assert output == (PAGES / "study.md").read_text(encoding="utf-8")


def test_a_program_gets_the_page_and_its_folder(medart):
    code, output, _ = medart("docs", "data", "--json")
    answer = json.loads(output)
    assert (code, answer["folder"]) == (0, str(PAGES))
    assert answer["result"].startswith("# Privacy")


@pytest.mark.parametrize(
    ("name", "said"),
    [("trubleshooting", "there is troubleshooting\n"), ("xyz", "there is index, example, ")],
)
def test_a_wrong_name_is_one_line_with_close_ones(medart, name, said):
    code, output, errors = medart("docs", name)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"medart docs: PAGE {name}: no such page; ") and said in errors


def test_options_of_work_are_refused(medart):
    code, _, errors = medart("docs", "study", "--seed", 3)
    assert code == 2 and "--seed: has no effect here" in errors
