"""Read the documentation: a page name -> the page."""

import shlex
from typing import Any

from medart_cli.docs.options import DocsConfig
from medart_cli.docs.pages import find_folder, list_pages, read_page
from medart_cli.log import lay_out, log


def run(config: DocsConfig) -> dict[str, Any]:
    """List the pages, or return one: as text that is printed whole."""
    folder = find_folder()
    pages = list_pages(folder)
    if config.page is None:
        width = max(map(len, pages))
        result = "\n".join(f"{name:{width}}  {text}" for name, text in pages.items())
        log.info("medart docs PAGE shows one of these; their files, with pictures: %s", folder)
        log.info("a site of them, with a search (pip install sphinx myst-parser furo):")
        log.info("%s", shlex.join(["sphinx-build", str(folder), "site"]))
    else:
        text = read_page(folder, config.page)
        result = (text if config.json else lay_out(text)).rstrip("\n")
    return {"result": result, "folder": str(folder)}
