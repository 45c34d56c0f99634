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
from medart_cli.data.page import Picture, embed_image, format_inputs, render
from medart_cli.errors import ImageError

THUMBNAIL = 256  # pixels
MOST_TWINS = 20  # texts listed as used more than once
# What a reader should see first: no text, only the template caption, truncated texts, all others.
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
    shares = [[name, str(spoken[name]), f"{spoken[name] / max(1, captions):.0%}"]
              for name in attributes]  # fmt: skip
    twins, more_twins = _find_twins(rows, hashes)
    return render(
        "caption/review.html.jinja",
        images=len(rows),
        captions=captions,
        states=[[name, str(count)] for name, count in Counter(states).most_common()],
        audit=audit and {"images": audit["images"], "rows": _format_audit(audit)},
        shares=shares,
        twins=twins,
        more_twins=more_twins,
        inputs=format_inputs([found]),
        sheet=[_show_row(rows[index], index) for index in _choose_rows(states, most)],
    )


def status_of(record: Record) -> str:
    """Return how a row's text came about: a status, `kept` for others' texts, `none` without.

    The status `edited` is that of a text which a person changed after medart wrote it.
    """
    status = (record.fields.get("caption") or {}).get("status")
    return str(status) if status else "kept" if record.text else "none"


def _format_audit(audit: Mapping[str, Any]) -> list[list[str]]:
    names = {
        "repeat": "the same image again",
        "blank": "a blank image",
        "other": "a swapped image",
    }
    return [
        [text, f"{audit[f'{name}_same']:.0%}", f"{audit[f'{name}_overlap']:.0%}"]
        for name, text in names.items()
    ]


def _find_twins(
    rows: Sequence[Record], hashes: npt.NDArray[np.int64]
) -> tuple[list[list[str]], int]:
    """List the texts used most often, with how often, and count those that are not listed."""
    values, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    twins = np.flatnonzero((counts > 1) & (values != 0))
    twins = twins[np.lexsort((first[twins], -counts[twins]))]  # the most frequent first
    shown = [[rows[int(first[twin])].text or "", str(counts[twin])] for twin in twins[:MOST_TWINS]]
    return shown, len(twins) - len(shown)


def _choose_rows(states: Sequence[str], most: int) -> list[int]:
    """Choose the rows to show, doubtful ones first."""
    order = sorted(range(len(states)), key=lambda index: ORDER.get(states[index], 4))
    doubtful = [index for index in order if ORDER.get(states[index], 4) < ORDER["ok"]]
    rest = order[len(doubtful) :]
    first = doubtful[
        : max(most - most // 2, most - len(rest))
    ]  # half of the places, or what is left
    room = most - len(first)
    step = -(-len(rest) // room) if room else 1  # the others are spread over the whole set
    return [*first, *rest[:: max(1, step)][:room]]


def _show_row(row: Record, index: int) -> Picture:
    facts = row.fields.get("caption") or {}
    head = f"{index + 1}. {row.file_name} · {row.label or 'no label'} · {status_of(row)}"
    why = facts.get("error") or "; ".join(facts.get("faults", ()))
    caption = f"{head}{f' ({why})' if why else ''}: {row.text or '(no text)'}"
    try:
        image = load_image(row.path)
    except ImageError:
        image = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "lightgray")  # the reason stands beside it
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return embed_image(image, caption, lossy=True)
