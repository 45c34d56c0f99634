"""A headless Chromium for the tests of pages that a person works on.

Skips a test where selenium, Chromium or its driver (Debian: chromium, chromium-driver) is not here.
"""

import shutil
import time
from contextlib import contextmanager

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402 - after the skip
from selenium.webdriver.common.keys import Keys  # noqa: E402, F401 - for tests that use this

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")
# Whatever the page has loaded that does not stand in it.
OUTSIDE = """return performance.getEntriesByType("resource").map((it) => it.name)
    .filter((name) => !name.startsWith("data:"))"""
NO_STORAGE = 'Object.defineProperty(window, "localStorage", {get() { throw new Error("off") }})'


@contextmanager
def open_browser(folder):
    """Start a browser that saves what it downloads in a folder, its `folder`."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS)]
    if None in found:
        pytest.skip("no Chromium with its driver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for switch in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu",
                   "window-size=1200,900", f"user-data-dir={folder / 'profile'}"):  # fmt: skip
        options.add_argument(f"--{switch}")
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(folder), "download.prompt_for_download": False}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found[1]))
    driver.folder = folder
    try:
        yield driver
    finally:
        driver.quit()


def press(browser, *keys):
    """Press keys, or write text, where the focus is."""
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def text_of(browser, place):
    """Return the text that an element shows."""
    return browser.find_element(By.CSS_SELECTOR, place).text


def wait_for(browser, place, text, again=lambda: None):
    """Wait until an element's text begins so; a busy browser stores and tells a moment later.

    Args:
        browser: The browser.
        place: CSS selector of the element.
        text: How its text should begin.
        again: What to do before each look but the first.
    """
    for _ in range(50):
        if text_of(browser, place).startswith(text):
            return
        time.sleep(0.2)
        again()
    raise AssertionError(f"{place}: {text_of(browser, place)!r} instead of {text!r}")


def save_file(browser, name):
    """Press the button `save`, and return the file that comes of it."""
    path = browser.folder / name
    path.unlink(missing_ok=True)
    browser.find_element(By.ID, "save").click()
    for _ in range(100):
        if path.is_file():
            return path
        time.sleep(0.05)
    raise AssertionError("no file was saved")
