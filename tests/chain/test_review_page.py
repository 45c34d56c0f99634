"""The review page in a real browser: decisions by keyboard, kept, saved, and taken by --texts.

Needs Chromium and its driver (Debian: chromium, chromium-driver); skips itself without them.
"""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from medart_cli.cli import app
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
    webdriver,
)
from tests.small import build_base
from tests.stub_server import prompt_of, serve


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def images(tmp_path):
    for number in range(6):
        path = tmp_path / "images" / ("melanoma", "nevus")[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (90 + 20 * number, 80, 60)).save(path)
    (tmp_path / "images" / "nevus" / "001.png").write_bytes(b"no image")
    return tmp_path / "images"


@pytest.fixture
def ask(tmp_path_factory, images):
    base = build_base(tmp_path_factory.mktemp("models") / "base")

    def run(*options):
        asked = ("--endpoint", stub.url, "--base", base, "--profile", "dermoscopy")
        result = CliRunner().invoke(app, ["caption", *map(str, (images, *asked, *options))])
        assert result.exit_code == 3, result.stderr  # one file is no image
        return result.stderr

    with serve(answer) as stub:
        yield run


def answer(body):
    simple = prompt_of(body).split('exactly with: "')[1].split('"')[0]
    return f"{simple}, a round brown </script>'\" spot {body['seed']}."


def rows_of(images):
    lines = (images / "metadata.jsonl").read_text("utf-8").splitlines()
    return {row["file_name"]: row for row in map(json.loads, lines)}


def type_over(browser, text):
    chain = webdriver.ActionChains(browser).key_down(Keys.CONTROL).send_keys("a")
    chain.key_up(Keys.CONTROL).send_keys(text).perform()


def shown(browser):
    cards = browser.find_elements(By.CSS_SELECTOR, "article")
    return [json.loads(it.get_attribute("data-row"))["file_name"] for it in cards
            if it.is_displayed()]  # fmt: skip


def choose(browser, value):
    browser.find_element(By.CSS_SELECTOR, f"#filter option[value='{value}']").click()


def save(browser):
    """Press the button, and give the file that comes of it."""
    return save_file(browser, "corrections.jsonl")


def test_decisions_go_from_the_keyboard_to_the_manifest(browser, ask, images):
    ask()
    before = rows_of(images)
    browser.get((images / "review.html").as_uri())
    assert browser.get_log("browser") == []  # the policy has refused nothing
    assert browser.execute_script(OUTSIDE) == []
    assert text_of(browser, "#counts") == "0 of 6 decided: 0 accepted, 0 edited, 0 rejected"
    names = shown(browser)
    assert names[0] == "nevus/001.png"  # the one without a text
    press(browser, "j", "a", "j", "e")
    type_over(browser, 'A dermoscopic image, as I see it: a < b & "c" ä.')
    press(browser, Keys.ENTER)
    press(browser, "j", "r", "j", "a", "u", "j", "e", " dropped", Keys.ESCAPE)
    told = "3 of 6 decided: 1 accepted, 1 edited, 1 rejected"
    assert text_of(browser, "#counts") == told

    browser.refresh()  # closing loses nothing
    wait_for(browser, "#counts", told, again=browser.refresh)
    choose(browser, "decided")
    assert shown(browser) == names[1:4]
    choose(browser, "status:rejected")
    assert shown(browser) == names[:1] and text_of(browser, "#shown") == "1 shown"
    choose(browser, "all")
    press(browser, Keys.ESCAPE, "/", "as i see", Keys.ENTER)
    assert shown(browser) == names[2:3]

    path = save(browser)
    assert "--texts corrections.jsonl" in text_of(browser, "#memory")
    said = ask("--texts", path)
    assert "1 changed, 1 accepted, 1 rejected, 0 unchanged; 3 images not in the file" in said
    after = rows_of(images)
    _, accepted, edited, rejected, *others = names
    assert after[accepted]["text"] == before[accepted]["text"]
    assert after[accepted]["caption"]["status"] == "accepted"
    assert after[edited]["text"] == 'A dermoscopic image, as I see it: a < b & "c" ä.'
    assert after[edited]["caption"]["status"] == "edited"
    assert after[rejected]["caption"]["status"] == "ok"
    assert after[rejected]["text"] != before[rejected]["text"]
    assert [after[name] for name in others] == [before[name] for name in others]
    assert "0 changed, 0 accepted, 0 rejected, 3 unchanged" in ask("--texts", path)
    ask("--recaption", "all", "--seed", 1)
    assert [rows_of(images)[name] for name in names[1:3]] == [after[name] for name in names[1:3]]

    # The page that shows what was taken asks for it no more.
    browser.get((images / "review.html").as_uri())
    assert text_of(browser, "#counts") == "0 of 6 decided: 0 accepted, 0 edited, 0 rejected"
    assert "1 decisions were of texts that the manifest has no longer" in text_of(
        browser, "#memory"
    )


def test_buttons_do_what_keys_do_and_a_row_without_a_text_can_get_one(browser, ask, images):
    ask()
    browser.get((images / "review.html").as_uri())
    first, second = browser.find_elements(By.CSS_SELECTOR, "article")[:2]
    accept, edit, reject = first.find_elements(By.CSS_SELECTOR, "button[data-name]")
    assert [it.is_enabled() for it in (accept, edit, reject)] == [False, True, False]
    edit.click()
    press(browser, "A text of mine.", Keys.ENTER)
    accept, edit, reject = second.find_elements(By.CSS_SELECTOR, "button[data-name]")
    accept.click()
    assert accept.get_attribute("aria-pressed") == "true"
    accept.click()
    assert accept.get_attribute("aria-pressed") == "false"
    edit.click()
    type_over(browser, Keys.DELETE)  # an empty text is a rejected one
    press(browser, Keys.ENTER)
    assert reject.get_attribute("aria-pressed") == "true"
    told = text_of(browser, "#counts")
    assert told == "2 of 6 decided: 0 accepted, 1 edited, 1 rejected"
    lines = [json.loads(line) for line in save(browser).read_text("utf-8").splitlines()]
    assert [(line["text"], line["status"]) for line in lines] == [
        ("A text of mine.", "edited"), ("", "rejected"),
    ]  # fmt: skip
    # On a page that shows fewer images the others' decisions are not lost.
    (images / "review.html").unlink()
    ask("--review", 1)
    browser.get((images / "review.html").as_uri())
    assert len(shown(browser)) == 1 and "5 images are not on this page" in text_of(browser, "body")
    assert "1 of 1 decided and 1 that are not on this page" in text_of(browser, "#counts")
    assert len(save(browser).read_text("utf-8").splitlines()) == 2
    browser.find_element(By.ID, "forget").click()
    browser.switch_to.alert.accept()
    assert text_of(browser, "#counts") == "0 of 1 decided: 0 accepted, 0 edited, 0 rejected"


def test_a_browser_that_keeps_nothing_says_so_and_saves_all_the_same(browser, ask, images):
    ask()
    script = {"source": NO_STORAGE}
    known = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        browser.get((images / "review.html").as_uri())
        assert "keeps nothing between visits" in text_of(browser, "#memory")
        press(browser, "j", "a")
        assert text_of(browser, "#counts").startswith("1 of 6 decided")
        assert len(save(browser).read_text("utf-8").splitlines()) == 1
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", known)


def test_two_windows_of_one_page_know_of_each_other(browser, ask, images):
    ask()
    browser.get((images / "review.html").as_uri())
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get((images / "review.html").as_uri())
    press(browser, "j", "a")
    assert text_of(browser, "#counts").startswith("1 of 6 decided")
    second = browser.current_window_handle
    browser.switch_to.window(first)
    wait_for(browser, "#counts", "1 of 6 decided")
    press(browser, "j", "j", "r")
    wait_for(browser, "#counts", "2 of 6 decided: 1 accepted, 0 edited, 1 rej")
    browser.switch_to.window(second)
    browser.close()
    browser.switch_to.window(first)
