"""The options of `medart docs`."""

from dataclasses import dataclass
from typing import Annotated

from typer import Argument

from medart_cli.options import CommonConfig


@dataclass(frozen=True, kw_only=True)
class DocsConfig(CommonConfig):
    """Read the documentation without network: the list of its pages, or one page.

    A terminal gets a page laid out, a pipe or a file the Markdown text as it is.
    """

    page: Annotated[
        str | None,
        Argument(help="Name of a page, such as troubleshooting; without one all are listed."),
    ] = None

    def list_idle(self) -> list[tuple[bool, str, str]]:
        """List options without effect here."""
        return [(True, "here, docs only reads", "config device precision seed max_failures")]
