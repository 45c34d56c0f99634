"""HTML pages that need nothing from outside."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

DEMONSTRATION = (
    "Some of these images or captions were made with demonstration models, which know drawn "
    "phantoms only: these figures show how medart works and mean nothing for science."
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem } img { max-width: 100% }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .7rem;
  border-bottom: 1px solid #d8dde3; text-align: right; font-variant-numeric: tabular-nums }
td:first-child, th:first-child { text-align: left } figcaption, .note { color: #57606a }
figure { margin: 1rem 0; break-inside: avoid } @media print { body { margin: 0 } }
"""


def build_page(title: str, parts: Sequence[str]) -> str:
    """Join HTML parts to one page that needs nothing from outside."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}</html>\n"
    )


def build_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make an HTML table; all cells are escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def build_inputs(inputs: Sequence[Mapping[str, Any]]) -> str:
    """Make the section on what was read: a row for each data set, from `Account.facts`."""
    columns = ["data set", "images", "labels", "splits", "patients", "texts", "passed over"]
    return "<h2>What was read</h2>" + build_table(columns, [_tell_input(item) for item in inputs])


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


def build_figure(image: Image.Image, caption: str, *, lossy: bool = False) -> str:
    """Put an image into the page itself, with a caption; `lossy` saves space with JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG" if lossy else "PNG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    kind = "jpeg" if lossy else "png"
    return (
        f"<figure><img src='data:image/{kind};base64,{data}' alt=''>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def word_patients(count: int | None) -> str:
    """Say how many patients a set is of, where that is known; files are never counted as such."""
    return "patients unknown" if count is None else f"{count} patients"
