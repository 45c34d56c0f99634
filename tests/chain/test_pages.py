"""The pages of real runs in a real browser: wide, narrow, in print, and for a screen reader."""

import base64
import re
import shutil
from importlib import resources

import pytest

from medart_cli.cli import call
from medart_cli.data.glossary import SHOWN_DATA, TAG, TERMS
from tests.browsers import OUTSIDE, Keys, open_browser, press
from tests.jobs import build_parts, command
from tests.reader.test_run import write_answers
from tests.small_study import build_study, study_words

pytestmark = pytest.mark.charts

WIDTHS = (1280, 400)
PAGES = ("evaluate", "evaluate-2", "classify", "study", "review", "kit", "readers", "run")
REPORTS = tuple(name for name in PAGES if name != "kit")  # which is worked on and tells nothing
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
        build_study(folder / "study-parts"), folder / "study", "--quiet", arms="lora,score",
        finetune="--preview-every 1 --preview-count 1",
    )  # fmt: skip
    for stage, line in words.items():
        assert call([str(word) for word in line]) == 0, stage
    kit = folder / "kit"
    answers = [str(write_answers(kit, name, wrong)) for name, wrong in (("a", ()), ("b", (0,)))]
    assert call(["reader", str(kit), "--answers", *answers, "--quiet"]) == 0
    return {
        "evaluate": folder / "report" / "report.html",
        "evaluate-2": folder / "report-2" / "report.html",
        "classify": folder / "clf" / "report.html",
        "study": folder / "study" / "report.html",
        "review": folder / "images" / "review.html",
        "kit": next(kit.glob("*.html")),
        "readers": kit / "results" / "results.html",
        "run": folder / "study" / "lora" / "seed-0" / "run" / "report.html",
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


@pytest.mark.parametrize("name", REPORTS)
def test_the_first_screen_says_what_was_compared_and_answers(visit, name):
    page = visit(name)
    compared = page.find_element("css selector", "main > h1 + .compared").text
    assert re.match(r"(Compared|Shown|Trained): .*\d+ .*images", compared)
    assert page.execute_script(FIRST, ".answered" if name == "evaluate-2" else ".verdict") < 800
    assert 1 <= len(page.find_elements("css selector", ".verdict li")) <= 3
    for link in page.find_elements("css selector", "main .mark ~ a"):  # all lead to a section
        assert page.find_elements("css selector", link.get_attribute("hash"))


@pytest.mark.parametrize("name", REPORTS)
def test_each_word_is_explained_before_or_in_the_section_where_it_first_stands(pages, name):
    parts = pages[name].read_text("utf-8").split("</style>")[1].split("<script>")[0]
    parts = SHOWN_DATA.sub(" ", parts).split("</section>")
    explained = set()
    for part in parts:
        explained |= set(re.findall(r"<dfn>(.*?)</dfn>", part))
        text = TAG.sub(" ", re.sub(r"<p class='words'>.*?</p>|<dl.*?</dl>", " ", part, flags=re.S))
        lacking = [term for term, pattern, _ in TERMS if pattern.search(text)]
        assert set(lacking) <= explained or "All that was found" in text
    assert explained


@pytest.mark.parametrize("name", REPORTS)
def test_images_of_a_model_are_called_synthetic_on_every_page(pages, name):
    text = TAG.sub(" ", SHOWN_DATA.sub(" ", pages[name].read_text("utf-8").split("</style>")[1]))
    noun = (
        r"drawn (images?|ones?|sets?|neighbors?)\b|\(drawn\)|\bn drawn\b|\d drawn\b|drawn and real"
    )
    assert re.findall(rf".{{30}}(?:{noun}).{{30}}", text, re.IGNORECASE | re.DOTALL) == []


@pytest.mark.parametrize("name", ["evaluate", "classify", "study", "review", "run"])
def test_every_picture_is_enlarged_by_keys_and_left_again(visit, name):
    page = visit(name)
    buttons = page.find_elements("css selector", "main button.enlarge")
    assert len(buttons) == len(page.find_elements("css selector", "main img")) > 0
    assert all(button.accessible_name.startswith("Enlarge: ") for button in buttons)
    page.execute_script("arguments[0].focus()", buttons[0])
    press(page, Keys.ENTER)
    shown = page.find_element("css selector", "#enlarged img")
    first = shown.get_attribute("src")
    assert shown.size["height"] > 400 and page.find_element("css selector", "#enlarged p").text
    press(page, Keys.ARROW_LEFT)
    assert (shown.get_attribute("src") == first) == (len(buttons) == 1)
    press(page, Keys.ESCAPE)
    assert page.find_elements("css selector", "dialog[open]") == []
    assert page.switch_to.active_element == buttons[0]


@pytest.mark.parametrize("name", ["evaluate", "classify", "study", "run", "readers"])
def test_a_page_is_printed_on_a_few_sheets(visit, name):
    told = visit(name).execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.7})
    sheets = len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(told["data"])))
    assert 1 <= sheets <= 4
