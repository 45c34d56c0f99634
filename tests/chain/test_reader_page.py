"""A reader study in a real browser: answers by keyboard, kept, saved, and scored.

Needs Chromium and its driver (Debian: chromium, chromium-driver); skips itself without them.
"""

import json

import pytest

from tests.browsers import (
    NO_STORAGE,
    OUTSIDE,
    By,
    Keys,
    open_browser,
    press,
    save_file,
    text_of,
    wait_for,
)
from tests.jobs import draw_images


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def kit(medart, tmp_path, request):
    """A kit of its own for each test: the browser keeps answers by kit."""
    seed = len(request.node.name)
    draw_images(tmp_path / "real", 0)
    draw_images(tmp_path / "syn", 1, synthetic=True)
    words = (tmp_path / "real", tmp_path / "syn", "--count", 3, "--out", tmp_path / "kit")
    assert medart("reader", *words, "--seed", seed, "-q")[0] == 0
    return tmp_path / "kit"


def kinds_of(kit):
    key = json.loads((kit / "key.json").read_text("utf-8"))
    return {item["image"]: item["kind"] for item in key["images"]}


def shown(browser):
    pictures = browser.find_elements(By.CSS_SELECTOR, "#picture img")
    return [it.get_attribute("data-image") for it in pictures if it.is_displayed()]


def pressed(browser):
    found = browser.find_elements(By.CSS_SELECTOR, "[aria-pressed=true]")
    return [it.text for it in found]


def start(browser, name):
    field = browser.find_element(By.ID, "reader")
    field.clear()
    field.send_keys(name, Keys.ENTER)


def answer_all(browser, kinds, wrong=0, sure="4"):
    """Answer every image from the first one; some of them wrongly."""
    for number in range(len(kinds)):
        (name,) = shown(browser)
        is_real = (kinds[name] == "real") != (number < wrong)
        press(browser, "r" if is_real else "s", sure)


def look_at_all(browser):
    order = []
    for _ in browser.find_elements(By.CSS_SELECTOR, "#picture img"):
        order += shown(browser)
        press(browser, Keys.ARROW_RIGHT)
    loaded = "return [...document.images].map((it) => [it.naturalWidth, it.naturalHeight])"
    assert {tuple(size) for size in browser.execute_script(loaded)} == {(32, 32)}
    return order


def check_saved(path, kinds):
    saved = json.loads(path.read_text("utf-8"))
    assert {it["image"]: it["answer"] for it in saved["answers"]} == kinds
    assert {it["confidence"] for it in saved["answers"]} == {4} and saved["reader"] == "Ann B."
    assert all(0 <= it["seconds"] < 60 for it in saved["answers"])
    assert sum(it["seconds"] for it in saved["answers"]) > 0


def test_a_study_goes_from_the_keyboard_to_the_verdict(browser, kit, medart):
    kinds = kinds_of(kit)
    browser.get((kit / "reader.html").as_uri())
    assert browser.get_log("browser") == []  # the policy has refused nothing
    assert browser.execute_script(OUTSIDE) == []
    assert text_of(browser, "#counts") == "0 of 6 answered." and shown(browser) == []
    assert "treat this file as you treat the images" in text_of(browser, "footer")
    browser.find_element(By.ID, "start").click()
    assert "Enter your name or a code first" in text_of(browser, "#memory")

    start(browser, "Ann B.")
    order = list(kinds)  # the key has them in the order of the page
    assert look_at_all(browser) == order
    assert shown(browser) == order[:1]  # after the last the first that is open
    press(browser, "3")  # how sure of what?
    assert pressed(browser) == [] and shown(browser) == order[:1]
    press(browser, "r", "2")
    assert shown(browser) == order[1:2]
    press(browser, "s", Keys.ENTER)
    assert text_of(browser, "#counts") == "Image 3 of 6; 2 of 6 answered."
    press(browser, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert pressed(browser) == ["Real (r)", "2"]
    press(browser, "s")  # another answer takes the confidence of the first away
    assert pressed(browser) == ["Synthetic (s)"]

    press(browser, "p")
    assert shown(browser) == [] and "2 of 6 answered" in text_of(browser, "#counts")
    press(browser, "r")  # nothing is answered in a pause
    browser.refresh()  # closing loses nothing
    wait_for(browser, "#counts", "2 of 6 answered.", again=browser.refresh)
    assert browser.find_element(By.ID, "start").text == "Continue"
    browser.find_element(By.ID, "start").click()
    assert shown(browser) == order[:1] and pressed(browser) == ["Synthetic (s)"]
    answer_all(browser, kinds)
    assert text_of(browser, "#counts") == "6 of 6 answered: all done, save your answers."
    first = save_file(browser, "answers-Ann_B_.json")
    check_saved(first, kinds)

    browser.find_element(By.ID, "forget").click()  # the next reader at the same desk
    browser.switch_to.alert.accept()
    assert text_of(browser, "#counts") == "0 of 6 answered."
    start(browser, "ben")
    answer_all(browser, kinds, wrong=2)
    second = save_file(browser, "answers-ben.json")
    code, output, errors = medart("reader", kit, "--answers", first, second, "--json")
    assert code == 0, errors
    facts = json.loads(output)
    assert facts["readers"] == 2 and facts["agreement"]["measure"] == "cohen"
    results = json.loads((kit / "results/results.json").read_text("utf-8"))
    values = [item["scores"]["accuracy"]["value"] for item in results["readers"]]
    assert values == [1, pytest.approx(4 / 6)]
    assert results["readers"][0]["scores"]["auroc"]["value"] == 1


def test_buttons_do_what_keys_do(browser, kit):
    browser.get((kit / "reader.html").as_uri())
    start(browser, "cem")
    place = shown(browser)
    browser.find_element(By.CSS_SELECTOR, "[data-answer=synthetic]").click()
    assert shown(browser) == place and pressed(browser) == ["Synthetic (s)"]
    browser.find_element(By.CSS_SELECTOR, "[data-confidence='5']").click()
    assert shown(browser) != place
    browser.find_element(By.ID, "back").click()
    assert shown(browser) == place and pressed(browser) == ["Synthetic (s)", "5"]
    press(browser, Keys.ENTER)  # goes on, whatever button was pressed last
    assert shown(browser) != place
    browser.find_element(By.ID, "pause").click()
    assert shown(browser) == []


def test_a_browser_that_keeps_nothing_says_so_and_saves_all_the_same(browser, kit):
    script = {"source": NO_STORAGE}
    known = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        browser.get((kit / "reader.html").as_uri())
        assert "keeps nothing between visits" in text_of(browser, "#memory")
        start(browser, "dora")
        press(browser, "r", "1")
        saved = json.loads(save_file(browser, "answers-dora.json").read_text("utf-8"))
        assert [it["answer"] for it in saved["answers"]] == ["real"]
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", known)
