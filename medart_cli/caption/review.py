"""The review sheet of captions: images beside texts, and what a reader should look at first."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medart_cli.caption.rules import covered
from medart_cli.data.images import load_image
from medart_cli.data.manifest import Record
from medart_cli.data.report import build_figure, build_inputs, build_page, build_table
from medart_cli.errors import ImageError

THUMBNAIL = 256  # pixels
MOST_TWINS = 20  # texts listed as used more than once
SHEET = "display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:1.2rem"
# What a reader should see first: no text, only the simple caption, cut texts, all others.
ORDER = {"rejected": 0, "simple": 1, "shortened": 2, "ok": 3}


def build_review(
    rows: Sequence[Record],
    attributes: Mapping[str, Sequence[str]],
    audit: Mapping[str, Any] | None,
    found: Mapping[str, Any],
    most: int,
) -> str:
    """Make the page.

    Args:
        rows: All rows of the manifest.
        attributes: What captions should describe, and beginnings of words that show it.
        audit: Figures of the audit, or None.
        found: What was read, from `Account.facts`.
        most: Most images to show.
    """
    # One pass, and little kept of it: there may be a million rows, which stay on the disk.
    states: list[str] = []
    spoken: Counter[str] = Counter()
    hashes = np.zeros(len(rows), dtype=np.int64)  # of the texts; 0 where there is none
    for index, row in enumerate(rows):
        states.append(sys.intern(status_of(row)))
        if row.text:
            hashes[index] = hash(row.text) or 1
            spoken.update(covered(row.text, attributes))
    captions = int(np.count_nonzero(hashes))
    counts = [[name, str(count)] for name, count in Counter(states).most_common()]
    shares = [[name, str(spoken[name]), f"{spoken[name] / max(1, captions):.0%}"]
              for name in attributes]  # fmt: skip
    parts = [
        f"<p class=note>{len(rows)} images, {captions} captions. Texts by a language model: "
        "read a sample before you train on them.</p>",
        "<h2>How the texts came about</h2>",
        build_table(["status", "images"], counts),
    ]
    if audit:
        parts += ["<h2>Does the model look at the image?</h2>", _build_audit(audit)]
    parts += [
        "<h2>What the captions speak of</h2>",
        build_table(["attribute", "captions", "share"], shares),
        "<h2>Texts that stand more than once</h2>",
        _build_twins(rows, hashes),
        build_inputs([found]),
        *_build_sheet(rows, states, most),
    ]
    return build_page("Review of captions", parts)


def status_of(record: Record) -> str:
    """Return how a row's text came about: a status, `kept` for others' texts, `none` without.

    The status `edited` is that of a text which a person changed after medart wrote it.
    """
    status = (record.fields.get("caption") or {}).get("status")
    return str(status) if status else "kept" if record.text else "none"


def _build_audit(audit: Mapping[str, Any]) -> str:
    names = {
        "repeat": "the same image again",
        "blank": "a blank image",
        "other": "another image",
    }
    rows = [
        [text, f"{audit[f'{name}_same']:.0%}", f"{audit[f'{name}_overlap']:.0%}"]
        for name, text in names.items()
    ]
    note = (
        f"<p class=note>{audit['images']} images, likeliest words. With a blank or another image "
        "a model that looks says something else.</p>"
    )
    return note + build_table(["shown instead", "same text", "words in common"], rows)


def _build_twins(rows: Sequence[Record], hashes: npt.NDArray[np.int64]) -> str:
    values, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    twins = np.flatnonzero((counts > 1) & (values != 0))
    twins = twins[np.lexsort((first[twins], -counts[twins]))]  # the most frequent first
    if not len(twins):
        return "<p>None.</p>"
    shown = [[rows[int(first[twin])].text or "", str(counts[twin])] for twin in twins[:MOST_TWINS]]
    left = len(twins) - len(shown)
    more = f"<p class=note>and {left} more</p>" if left else ""
    return build_table(["text", "images"], shown) + more


def _build_sheet(rows: Sequence[Record], states: Sequence[str], most: int) -> list[str]:
    order = sorted(range(len(rows)), key=lambda index: ORDER.get(states[index], 4))
    doubtful = [index for index in order if ORDER.get(states[index], 4) < ORDER["ok"]]
    rest = order[len(doubtful) :]
    first = doubtful[
        : max(most - most // 2, most - len(rest))
    ]  # half of the places, or what is left
    room = most - len(first)
    step = -(-len(rest) // room) if room else 1  # the others are spread over the whole set
    shown = [*first, *rest[:: max(1, step)][:room]]
    return [
        f"<h2>Images</h2><p class=note>{len(shown)} of {len(rows)}, doubtful ones first.</p>",
        f"<div style='{SHEET}'>",
        *(_build_item(rows[index], index) for index in shown),
        "</div>",
    ]


def _build_item(row: Record, index: int) -> str:
    facts = row.fields.get("caption") or {}
    head = f"{index + 1}. {row.file_name} · {row.label or 'no label'} · {status_of(row)}"
    why = facts.get("error") or "; ".join(facts.get("faults", ()))
    caption = f"{head}{f' ({why})' if why else ''}: {row.text or '(no text)'}"
    try:
        image = load_image(row.path)
    except ImageError:
        image = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "lightgray")  # the reason stands beside it
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return build_figure(image, caption, lossy=True)
