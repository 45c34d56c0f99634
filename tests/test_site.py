"""The pages as a site: it builds without a warning, and every link within it leads somewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

for _name in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(_name)

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def build(source, out):
    """Build a site with all checks of links; return what was said."""
    words = [sys.executable, "-m", "sphinx", "-q", "-n", "--keep-going", source, out]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, with the README as one more page, so that its links are followed too."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(ROOT / "docs", folder / "docs")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    (source / "readme.md").write_text(f"---\norphan: true\n---\n{readme}", encoding="utf-8")
    assert build(source, folder / "html") == ""
    return folder / "html"


def test_every_page_is_built_and_can_be_searched(site):
    search = (site / "searchindex.js").read_text(encoding="utf-8")
    for page in PAGES:
        assert (site / f"{page.stem}.html").is_file()
        assert f'"{page.stem}"' in search
    assert (site / "search.html").is_file()


def test_the_contents_have_every_page_in_the_order_of_the_list(site):
    page = (site / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'toctree-l1"><a class="reference internal" href="(\w+)\.html"', page)
    assert shown[:3] == ["example", "planning", "captioners"]
    assert {*shown} == {page.stem for page in PAGES} - {"index"}


def test_pages_and_pictures_need_no_network(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(?:https?:)?//', text)
        assert loaded == [], page.name
        for picture in re.findall(r'<img[^>]+src="([^":]+)"', text):
            assert (site / picture).is_file()


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(ROOT / "docs/conf.py", source)
    (source / "index.md").write_text("# a\n\n[b](b.md) [c](#c) [d](d.md#gone)\n\n- [d](d.md): d\n")
    (source / "d.md").write_text("# D\n\n## Other\n\n![lost](lost.png)\n")
    told = build(source, tmp_path / "html")
    for lost in ("'b.md'", "'c'", "'gone'", "lost.png"):
        assert lost in told


def test_links_to_other_sites_are_whole_and_encrypted():
    found = set()
    for page in (ROOT / "README.md", *PAGES):
        found |= {*re.findall(r"\]\((https?:[^)]*)\)", page.read_text(encoding="utf-8"))}
    assert found
    for link in found:
        parts = urlsplit(link)
        assert parts.scheme == "https" and "." in parts.netloc and " " not in link, link
