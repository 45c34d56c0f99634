"""Where the pages are found, and that an installation has them all."""

import tomllib
from pathlib import Path

import pytest

from medart_cli.docs import pages
from medart_cli.errors import RunError

ROOT = Path(__file__).parents[2]


def test_the_wheel_takes_all_that_the_site_is_made_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["data-files"][pages.INSTALLED]
    taken = {path.name for pattern in patterns for path in ROOT.glob(pattern)}
    there = {path.name for path in (ROOT / "docs").iterdir() if path.is_file()}
    assert taken == there and len(there) > 20


def test_a_checkout_reads_its_own_pages():
    assert pages.find_folder() == ROOT / "docs"


@pytest.mark.parametrize("place", ["lib/python3.11/site-packages", "Lib/site-packages", ""])
def test_an_installation_reads_what_pip_put_there(tmp_path, monkeypatch, place):
    monkeypatch.setattr(pages, "PACKAGE", tmp_path / place / "medart_cli")
    with pytest.raises(RunError, match="not installed"):
        pages.find_folder()
    folder = tmp_path / pages.INSTALLED
    folder.mkdir(parents=True)
    (folder / "index.md").write_text(
        "# medart: first\n\n- [a](a.md): of\n  one\n- [b](b.md): two\n"
    )
    # A folder docs that some other package left beside this one is none of medart's.
    (tmp_path / place / "docs").mkdir(parents=True)
    (tmp_path / place / "docs/index.md").write_text("another's")
    assert pages.find_folder() == folder
    assert pages.list_pages(folder) == {"index": "first", "a": "of one", "b": "two"}
