"""The first screen of the caption review: is there a caption for each image, and is it sound?"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medart_cli.caption.audit import MOST_SAME
from medart_cli.data.names import name_sets
from medart_cli.data.page import Finding, word_patients

WRITTEN = ("ok", "shortened", "simple")  # texts of medart's that no person has looked at
READ = ("accepted", "edited")


def word_captions(found: Mapping[str, Any], states: Mapping[str, int], models: Counter[str]) -> str:
    """Say what the page shows: how many images and captions, and what wrote these.

    Args:
        found: What was read, from `Account.facts`.
        states: How many captions have each status.
        models: How many captions each model wrote.
    """
    images, texts = sum(states.values()), sum(states.values()) - states.get("none", 0)
    texts -= states.get("rejected", 0)
    labels = len(found["labels"])
    classes = f"{labels} label{'s' * (labels > 1)}" if labels else "without labels"
    by = " and ".join(f"{Path(name).name} ({count})" for name, count in models.most_common(3))
    return (
        f"Shown: {images} images (set {name_sets([str(found['source'])])[0]}; {classes}, "
        f"{word_patients(found['patients'])}) and {texts} captions"
        f"{f', written by {by}' if by else ''}."
    )


def answer_captions(
    states: Mapping[str, int], flagged: int, audit: Mapping[str, Any] | None
) -> list[Finding]:
    """Answer: has each image a caption, does the model look at images, and what is doubtful?

    Args:
        states: How many captions have each status.
        flagged: How many captions have a flag.
        audit: Figures of the audit, or None.
    """
    asked = [_answer_look(audit)] if states.get("ok", 0) or states.get("shortened", 0) else []
    return [_answer_count(states), *asked, _answer_doubts(states, flagged)]


def _answer_count(states: Mapping[str, int]) -> Finding:
    images = sum(states.values())
    lacking = states.get("rejected", 0) + states.get("none", 0)
    simple = states.get("simple", 0)
    if lacking:
        return Finding("bad", f"{lacking} of {images} images have no caption.", "states")
    if simple:
        text = f"{simple} of {images} captions are the template caption, which names the label"
        return Finding("unclear", f"{text} and describes nothing.", "states")
    return Finding("good", f"All {images} images have a caption of their own.", "states")


def _answer_look(audit: Mapping[str, Any] | None) -> Finding:
    if not audit:
        text = "Whether the model looks at the images was not checked (medart caption --audit 20)."
        return Finding("unclear", text, "states")
    same = max(audit["blank_same"], audit["other_same"])
    figures = f"of {audit['images']} captions up to {same:.0%} stay the same without their image"
    if same > MOST_SAME:
        return Finding("bad", f"The model hardly looks at the images: {figures}.", "audit")
    return Finding("good", f"The model looks at the images: {figures}.", "audit")


def _answer_doubts(states: Mapping[str, int], flagged: int) -> Finding:
    read = sum(states.get(it, 0) for it in READ)
    written = sum(states.get(it, 0) for it in WRITTEN)
    told = f"a person has accepted or edited {read} of {read + written} captions"
    if flagged:
        text = f"{flagged} captions say what a rule doubts: look at these first; {told}."
        return Finding("unclear", text, "flags")
    good = written == 0 and read > 0
    return Finding(
        "good" if good else "unclear", f"No caption is doubted by a rule; {told}.", "images"
    )
