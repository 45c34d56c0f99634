"""Where the pages of the documentation are, in a checkout or an installation, and their names."""

import difflib
import re
from pathlib import Path

from medart_cli.errors import ConfigError, RunError

PACKAGE = Path(__file__).parents[1]
INSTALLED = "share/medart/docs"  # in the prefix of an installation; pyproject.toml has it too
FIRST_PAGE = "index"
# A line of the first page's list. The list is the order of the pages and says what each is for;
# docs/conf.py makes the contents of the site from it too.
PAGE_LINE = re.compile(
    r"^- \[.+?\]\((\w+)\.md\): (.+?)(?=\n- |\n\n|\n*\Z)", re.MULTILINE | re.DOTALL
)


def find_folder() -> Path:
    """Find the folder of the pages: beside the package in a checkout, else where pip put it.

    Raises:
        RunError: The pages are not installed.
    """
    checkout = PACKAGE.parent
    places = [checkout / "docs"] if (checkout / "pyproject.toml").is_file() else []
    places += [folder / INSTALLED for folder in PACKAGE.parents]  # one is where pip put its data
    for folder in places:
        if (folder / f"{FIRST_PAGE}.md").is_file():
            return folder
    raise RunError("the pages are not installed; install medart again with pip")


def list_pages(folder: Path) -> dict[str, str]:
    """Name the pages, in the order in which a user needs them, with a line on each.

    Args:
        folder: Theirs.
    """
    first = (folder / f"{FIRST_PAGE}.md").read_text(encoding="utf-8")
    title = first.partition("\n")[0].removeprefix("# ").partition(": ")[2]
    lines = {name: " ".join(text.split()) for name, text in PAGE_LINE.findall(first)}
    return {FIRST_PAGE: title, **lines}


def read_page(folder: Path, name: str) -> str:
    """Read a page.

    Args:
        folder: That of the pages.
        name: Its name, with or without `.md`.

    Raises:
        ConfigError: There is none of this name.
    """
    pages = list_pages(folder)
    wanted = name.lower().removesuffix(".md")
    if wanted not in pages:
        close = difflib.get_close_matches(wanted, pages, n=3) or list(pages)
        raise ConfigError(f"PAGE {name}: no such page; there is {', '.join(close)}")
    return (folder / f"{wanted}.md").read_text(encoding="utf-8")
