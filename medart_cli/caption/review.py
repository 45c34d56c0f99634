"""The review sheet of captions: images beside texts, and what a reader should look at first."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medart_cli.caption.answers import answer_captions, word_captions
from medart_cli.caption.corrections import EXPORTED, list_cells
from medart_cli.caption.edits import status_of
from medart_cli.caption.rules import covered
from medart_cli.data.images import load_image
from medart_cli.data.manifest import Record
from medart_cli.data.page import Picture, embed_image, format_inputs, render
from medart_cli.errors import ImageError

THUMBNAIL = 256  # pixels
MOST_TWINS = 20  # texts listed as used more than once
MOST_FLAGS = 20  # flags listed
# What a reader should see first: no text, only the template caption, truncated texts, what a rule
# is not sure of, other texts of medart's, and last what a person has seen or written.
ORDER = {"rejected": 0, "simple": 1, "shortened": 2, "flagged": 3, "ok": 4}


@dataclass(frozen=True)
class Card:
    """An image on the page, with what is saved of it when a person has decided.

    Attributes:
        row: By column, as --export writes it.
        head: What it is called.
        picture: The image, small.
    """

    row: dict[str, str]
    head: str
    picture: Picture


def build_review(
    rows: Sequence[Record],
    attributes: Mapping[str, Sequence[str]],
    audit: Mapping[str, Any] | None,
    found: Mapping[str, Any],
    *,
    most: int,
    manifest: str,
    settings: Sequence[tuple[str, str]] = (),
) -> str:
    """Make the page, on which a person accepts, edits or rejects captions.

    Args:
        rows: All rows of the manifest.
        attributes: What captions should describe, and beginnings of words that show it.
        audit: Figures of the audit, or None.
        found: What was read, from `Account.facts`.
        most: Most images to show.
        manifest: What tells the manifest from others; decisions are kept under it in the browser.
        settings: Options and versions, by name.
    """
    # One pass, and little kept of it: there may be a million rows, which stay on the disk.
    states: list[str] = []
    spoken, flags, models = Counter[str](), Counter[str](), Counter[str]()
    flagged = 0
    ranks = np.zeros(len(rows), dtype=np.int8)
    hashes = np.zeros(len(rows), dtype=np.int64)  # of the texts; 0 where there is none
    for index, row in enumerate(rows):
        states.append(sys.intern(status_of(row)))
        facts = row.fields.get("caption") or {}
        doubts = facts.get("flags", ())
        flags.update(map(str, doubts))
        flagged += bool(doubts)
        if facts.get("model") and states[-1] in ("ok", "shortened"):
            models[str(facts["model"])] += 1
        ranks[index] = _rank(states[-1], flagged=bool(doubts))
        if row.text:
            hashes[index] = hash(row.text) or 1
            spoken.update(covered(row.text, attributes))
    captions = int(np.count_nonzero(hashes))
    shares = [[name, str(spoken[name]), f"{spoken[name] / max(1, captions):.0%}"]
              for name in attributes]  # fmt: skip
    twins, more_twins = _find_twins(rows, hashes)
    counts = Counter(states)
    return render(
        "caption/review.html.jinja",
        compared=word_captions(found, counts, models),
        answered=answer_captions(counts, flagged, audit),
        images=len(rows),
        states=[[name, str(count)] for name, count in counts.most_common()],
        audit=audit and {**audit, "rows": _format_audit(audit)},
        shares=shares,
        flags=[[text, str(count)] for text, count in flags.most_common(MOST_FLAGS)],
        more_flags=max(0, len(flags) - MOST_FLAGS),
        twins=twins,
        more_twins=more_twins,
        inputs=format_inputs([found]),
        sheet=[_show_row(rows[index], index) for index in _choose_rows(ranks, most)],
        manifest=manifest,
        settings=settings,
    )


def _rank(state: str, *, flagged: bool) -> int:
    last = ORDER["ok"] + 1
    rank = ORDER.get(state, last)
    return ORDER["flagged"] if flagged and rank == ORDER["ok"] else rank


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


def _choose_rows(ranks: npt.NDArray[np.int8], most: int) -> list[int]:
    """Choose the rows to show, doubtful ones first."""
    order = np.argsort(ranks, kind="stable").tolist()
    doubtful = order[: int(np.count_nonzero(ranks < ORDER["ok"]))]
    rest = order[len(doubtful) :]
    first = doubtful[
        : max(most - most // 2, most - len(rest))
    ]  # half of the places, or what is left
    room = most - len(first)
    step = -(-len(rest) // room) if room else 1  # the others are spread over the whole set
    return [*first, *rest[:: max(1, step)][:room]]


def _show_row(row: Record, index: int) -> Card:
    facts = row.fields.get("caption") or {}
    head = f"{index + 1}. {row.file_name} · {row.label or 'no label'} · {status_of(row)}"
    why = facts.get("error") or "; ".join(facts.get("faults", ()))
    caption = f"{head}{f' ({why})' if why else ''}"
    try:
        image = load_image(row.path)
    except ImageError:
        image = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "lightgray")  # the reason stands beside it
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    picture = embed_image(image, caption, lossy=True)
    return Card(dict(zip(EXPORTED, list_cells(row), strict=True)), f"image {index + 1}", picture)
