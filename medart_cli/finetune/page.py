"""The page of a run: does the training go well, and how do the same prompts look as it goes on?"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medart_cli.data.images import split_sheet
from medart_cli.data.names import name_sets
from medart_cli.data.output import write_text
from medart_cli.data.page import (
    DEMONSTRATION_NOTICE,
    Finding,
    Picture,
    Strip,
    embed_image,
    embed_tile,
    format_inputs,
    format_settings,
    render,
    word_patients,
)

RUN_PAGE = "report.html"
MOST_STEPS = 8  # previews beside each other; the first and the last among them
FLAT = 1.02  # of the lowest held-out loss: up to there it has not risen


def write_training_page(
    out: Path, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write report.html beside what a run has written so far.

    Args:
        out: The run folder, with its loss curve and previews.
        facts: The content of run.json.
        rows: Those of metrics.jsonl.
    """
    with Image.open(out / "loss.png") as chart:
        losses = embed_image(chart, "The losses by optimizer step.", instead=tell_losses(rows))
    text = render(
        "finetune/page.html.jinja",
        compared=word_run(facts, rows),
        notice=DEMONSTRATION_NOTICE if facts["demonstration"] else None,
        answered=answer_training(facts, rows),
        strips=show_previews(sorted((out / "previews").glob("step-*.png"))),
        losses=losses,
        inputs=format_inputs(facts["inputs"]),
        settings=format_settings(facts["settings"], facts["versions"]),
    )
    write_text(out / RUN_PAGE, text)


def word_run(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what is trained, on how many images, and how far it is."""
    data = facts["data"]
    labels = len([name for name in data["labels"] if name])
    classes = f"{labels} label{'s' * (labels > 1)}" if labels else "without labels"
    heldout = facts.get("heldout")
    held = f"; {heldout['data']['images']} others held out" if heldout else ""
    step = max((row["step"] for row in rows), default=0)
    state = "done" if facts["status"] == "done" else "running"
    return (
        f"Trained: {' and '.join(facts['trained'])} of {Path(facts['base_name']).name} "
        f"({facts['method']}) on {data['images']} real images "
        f"({name_sets([str(facts['inputs'][0]['source'])])[0]}; {classes}, "
        f"{word_patients(facts['patients'])}{held}); optimizer step {step}, {state}. The losses do "
        "not say whether pictures look real: see the previews."
    )


def answer_training(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Answer in at most three sentences: does it still learn, by heart, and do colors come nearer?

    Args:
        facts: The content of run.json.
        rows: Those of metrics.jsonl.
    """
    measured = [(row["step"], row["val_loss"]) for row in rows if "val_loss" in row]
    found = []
    if len(measured) > 1:
        found.append(_answer_heldout(measured))
    else:
        found += [_answer_trend([row["loss"] for row in rows if "loss" in row], "loss")]
        text = (
            "No image is held out, so it cannot be seen whether the model learns its images by "
            "heart (--val-fraction 0.1 holds some out)."
        )
        found.append(Finding("unclear", text, "losses"))
    heldout = facts.get("figures", {}).get("heldout")
    if heldout and heldout.get("interval"):
        found.append(_answer_memory(heldout))
    if colors := [row["color_loss"] for row in rows if "color_loss" in row]:
        found.append(_answer_trend(colors, "color loss"))
    return found[:3]


def _answer_heldout(measured: Sequence[tuple[int, float]]) -> Finding:
    (_, first), (step, last) = measured[0], measured[-1]
    lowest_step, lowest = min(measured, key=lambda it: it[1])
    figures = f"from {first:.3g} to {last:.3g}"
    if not math.isfinite(last):
        return Finding("bad", f"The loss of held-out images is no number at step {step}.", "losses")
    if last > FLAT * lowest:
        text = (
            f"The loss of held-out images was lowest at step {lowest_step} ({lowest:.3g}) and has "
            f"risen to {last:.3g} since: the model learns its images by heart (--keep-best)."
        )
        return Finding("bad", text, "losses")
    if last < first:
        text = f"The loss of held-out images fell {figures}, and has not risen again."
        return Finding("good", text, "losses")
    return Finding("unclear", f"The loss of held-out images has not fallen ({figures}).", "losses")


def _answer_memory(heldout: Mapping[str, Any]) -> Finding:
    low, high = heldout["interval"]
    figures = f"{heldout['memorized']:+.2g}, 95% interval {low:+.2g} to {high:+.2g}"
    if low > 0:
        text = f"It knows its training images better than held-out ones (by {figures}): look for "
        return Finding("unclear", f"{text}near-copies with medart evaluate.", "losses")
    text = (
        f"Learning by heart is neither shown nor ruled out with {heldout['images']} held-out "
        f"images (the loss of training images fell further by {figures})."
    )
    return Finding("unclear", text, "losses")


def _answer_trend(losses: Sequence[float], name: str) -> Finding:
    """Compare the first and the last quarter of a loss whose single values are noise."""
    part = max(1, len(losses) // 4)
    if len(losses) < 2:
        return Finding("unclear", f"Too few steps to say whether the {name} falls.", "losses")
    first, last = float(np.mean(losses[:part])), float(np.mean(losses[-part:]))
    figures = f"from {first:.3g} in the first quarter of the steps to {last:.3g} in the last"
    if not math.isfinite(last):
        return Finding("bad", f"The {name} is no number any more.", "losses")
    if last < first:
        return Finding("good", f"The {name} fell {figures}.", "losses")
    return Finding("unclear", f"The {name} has not fallen: {figures}.", "losses")


def tell_losses(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what the loss curve shows, for those who do not see it."""
    told = []
    for key, name in (
        ("loss", "loss"),
        ("val_loss", "held-out loss"),
        ("color_loss", "color loss"),
    ):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            (start, first), (end, last) = points[0], points[-1]
            told.append(f"{name} {first:.3g} at step {start}, {last:.3g} at step {end}")
    return f"Chart: {'; '.join(told)}"


def show_previews(paths: Sequence[Path]) -> list[Strip]:
    """Show what the same prompt and noise gave as the training went on: a row for each prompt.

    Args:
        paths: The previews in order; those of before prompts were kept in them are left out.
    """
    places = np.unique(np.linspace(0, max(0, len(paths) - 1), MOST_STEPS).round().astype(int))
    rows: dict[tuple[int, str], list[Picture]] = {}
    for path in [paths[place] for place in places] if paths else []:
        with Image.open(path) as sheet:
            facts = json.loads(sheet.info.get("medart", "{}"))
            captions = facts.get("captions", [])
            images = split_sheet(sheet.convert("RGB"), len(captions)) if captions else []
        for place, (caption, image) in enumerate(zip(captions, images, strict=True)):
            told = f"Preview at step {facts['step']} of: {caption}"
            picture = embed_tile(image, f"step {facts['step']}", instead=told)
            rows.setdefault((place, caption), []).append(picture)
    return [Strip(caption or "(no caption)", pictures) for (_, caption), pictures in rows.items()]
