"""The pages of real runs in a real browser: wide, narrow, in print, and for a screen reader."""

import base64
import re
import shutil
from importlib import resources

import pytest

from medart_cli.cli import call
from tests.browsers import OUTSIDE, open_browser
from tests.jobs import build_parts, command
from tests.small_study import build_study, study_words

pytestmark = pytest.mark.charts

WIDTHS = (1280, 400)
PAGES = ("evaluate", "evaluate-2", "classify", "study", "review", "kit")
AXE = "const done = arguments[0]; axe.run().then((it) => done(it.violations), done)"
# How far down the page its first answer ends, and whether anything is wider than the window.
FIRST = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Run the commands; return each one's page."""
    folder = tmp_path_factory.mktemp("pages")
    parts = build_parts(folder / "parts")
    shutil.copytree(parts / "synthetic", parts / "another")
    words = {name: command(name, parts, folder) for name in ("caption", "evaluate", "classify")}
    words["evaluate-2"] = [*words["evaluate"][:3], parts / "another", *words["evaluate"][3:]]
    words["evaluate-2"][words["evaluate-2"].index("--out") + 1] = folder / "report-2"
    words["reader"] = command("reader", parts, folder)
    words["study"] = study_words(
        build_study(folder / "study-parts"), folder / "study", "--quiet", arms="lora,score"
    )
    for stage, line in words.items():
        assert call([str(word) for word in line]) == 0, stage
    return {
        "evaluate": folder / "report" / "report.html",
        "evaluate-2": folder / "report-2" / "report.html",
        "classify": folder / "clf" / "report.html",
        "study": folder / "study" / "report.html",
        "review": folder / "images" / "review.html",
        "kit": next((folder / "kit").glob("*.html")),
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def visit(browser, pages):
    def go(name, width=1280):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get(pages[name].as_uri())
        return browser

    return go


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_nothing_comes_from_outside(visit, name):
    page = visit(name)
    page.execute_script((resources.files("axe_core_python") / "axe.min.js").read_text())
    found = page.execute_async_script(AXE)
    assert [(it["id"], [node["html"][:120] for node in it["nodes"]][:3]) for it in found] == []
    assert page.execute_script(OUTSIDE) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_its_window(visit, name, width):
    assert visit(name, width).execute_script(WIDE) <= 0


@pytest.mark.parametrize("name", ["evaluate", "evaluate-2", "classify", "study"])
def test_the_first_screen_answers(visit, name):
    place = ".answered" if name == "evaluate-2" else ".verdict"
    assert visit(name).execute_script(FIRST, place) < 900


@pytest.mark.parametrize("name", ["evaluate", "classify", "study"])
def test_a_page_is_printed_on_a_few_sheets(visit, name):
    told = visit(name).execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.7})
    sheets = len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(told["data"])))
    assert 1 <= sheets <= 6
