"""HTML pages that need nothing from outside: a template filled with values, images inside it.

A template stands beside the code that gathers what it shows, as `<page>.html.jinja`; the frame and
the style that all share are data/page.html.jinja, tables and figures data/parts.html.jinja.
"""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from medart_cli.data.glossary import Glossary

if TYPE_CHECKING:  # what writes a page does so in the end, and loads jinja2 only then
    from jinja2 import Environment

DEMONSTRATION_NOTICE = (
    "Demonstration only: images or captions were made with demonstration models, which know drawn "
    "phantoms and no real images. These figures show how medart works and have no scientific "
    "meaning."
)
# For a mark must not be told by its color alone.
FINDING_SIGNS = {"good": "✓", "unclear": "?", "bad": "✗"}
# Before what may stand on a line of its own in a cell of a table: an interval, a p-value.
BREAKABLE = re.compile(r" (?=[\[{][-+\d]|p = )")
TILE_SIDE = 256  # pixels of a picture that a page shows smaller until it is enlarged
MarkName = Literal["good", "unclear", "bad"]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # heads of the columns, cells of each row


@dataclass(frozen=True)
class Picture:
    """An image inside a page.

    Attributes:
        source: The whole image as a data URI.
        caption: What it shows.
        instead: What a reader hears who does not see it.
        warned: Whether it has a red frame, which its caption explains.
    """

    source: str
    caption: str
    instead: str
    warned: bool = False


@dataclass(frozen=True)
class Strip:
    """Pictures side by side.

    Attributes:
        title: What they have in common.
        pictures: Each with its own name.
    """

    title: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Finding:
    """A plain sentence at the head of a page.

    Attributes:
        mark: Whether it is good news.
        text: The sentence.
        link: The `id` of the section with its figures.
    """

    mark: MarkName
    text: str
    link: str

    @property
    def sign(self) -> str:
        """The mark as a sign."""
        return FINDING_SIGNS[self.mark]


def embed_image(
    image: Image.Image, caption: str, *, instead: str | None = None, lossy: bool = False
) -> Picture:
    """Make an image part of a page, as PNG; `lossy` saves space with JPEG.

    Args:
        image: The image.
        caption: What it shows, below it.
        instead: What it shows, for those who do not see it; the caption by default.
        lossy: As JPEG.
    """
    buffer, kind = io.BytesIO(), "jpeg" if lossy else "png"
    image.save(buffer, format=kind, quality=88, subsampling=0)  # colors are what is looked at
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind};base64,{data}", caption, instead or caption)


def embed_tile(
    image: Image.Image, caption: str, *, instead: str | None = None, warned: bool = False
) -> Picture:
    """Make an image part of a page as one of many: no larger than it is looked at, as JPEG.

    Args:
        image: The image, which is made smaller where it is large.
        caption: What it is called, below it.
        instead: What it shows, for those who do not see it; the caption by default.
        warned: With a red frame.
    """
    image.thumbnail((TILE_SIDE, TILE_SIDE), Image.Resampling.LANCZOS)
    picture = embed_image(image, caption, instead=instead, lossy=True)
    return replace(picture, warned=warned)


def render(template: str, **values: object) -> str:
    """Fill a template; every value is escaped.

    Args:
        template: Its path in the package.
        values: What it shows, by name.

    Raises:
        jinja2.UndefinedError: The template names a value that is not there.
    """
    return _open_templates().get_template(template).render(glossary=Glossary(), **values)


def hash_script(template: str) -> str:
    """Return the name under which a page's policy allows a script, and no other.

    Args:
        template: The script's path in the package, as the page includes it.
    """
    text = _open_templates().get_template(template).render()
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


@cache
def _open_templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medart_cli", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["split_numbers"] = BREAKABLE.split
    environment.globals["hash_script"] = hash_script
    return environment


def format_settings(
    settings: Mapping[str, Any], versions: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Write what a page was made with: options by name, then versions of packages."""
    return [(name, _tell_value(value)) for name, value in (*settings.items(), *versions.items())]


def _tell_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def format_inputs(inputs: Sequence[Mapping[str, Any]]) -> Table:
    """Write what was read as a table: a row for each data set, from `Account.facts`."""
    columns = ["data set", "images", "labels", "splits", "patients", "texts", "skipped"]
    return columns, [_tell_input(item) for item in inputs]


def _tell_input(item: Mapping[str, Any]) -> list[str]:
    patients = "unknown" if item["patients"] is None else str(item["patients"])
    if item["patients"] and item["without_patient"]:
        patients += f"; {item['without_patient']} images without one"
    texts = str(item["texts"]) + (f", {item['empty_texts']} empty" if item["empty_texts"] else "")
    counts = [_list_counts(item[key]) for key in ("labels", "splits")]
    cells = [str(item["source"]), str(item["images"]), *counts, patients, texts]
    return [*cells, _list_counts(item["passed_over"])]


def _list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


def word_patients(count: int | None) -> str:
    """Say how many patients a set is of, where that is known; files are never counted as such."""
    return "patients unknown" if count is None else f"{count} patients"
