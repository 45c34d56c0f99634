"""The pages as a site: `pip install '.[docs]'`, then `sphinx-build docs site`."""

import re

project = html_title = "medart"
extensions = ["myst_parser"]
html_theme = "furo"
highlight_language = "none"
myst_heading_anchors = 3


def add_contents(app, name, source):
    """Give the first page its contents: the pages in the order of its list."""
    if name == "index":
        pages = re.findall(r"^- \[\w+\]\((\w+)\.md\): ", source[0], re.MULTILINE)
        source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"


def setup(app):
    """Let Sphinx call what is above."""
    app.connect("source-read", add_contents)
