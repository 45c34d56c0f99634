"""The first screen of an evaluation's page: what a physician reads before any figure."""

from collections.abc import Mapping
from typing import Any

from medart_cli.data.numbers import plural, write_number
from medart_cli.data.page import Finding, word_patients
from medart_cli.evaluate.diversity import find_collapsed
from medart_cli.evaluate.region import PARTS, list_parts
from medart_cli.evaluate.verdict import find_suspected

HUES = ("red", "green", "blue")
FEW_COPIES = 0.05  # of the drawn images: below this the interval of the rate says something
MEANING = (
    "✓ as real images are to each other; ? these images are too few to tell, or it was not looked "
    "at; ✗ synthetic and real images differ, or images were copied. Whether images are good enough "
    "for a purpose no mark can say: look at the pictures, and have them judged by readers who do "
    "not know which are synthetic (medart reader)."
)


def word_compared(facts: Mapping[str, Any]) -> str:
    """Say what was compared: how many drawn images of which sets, with how many real ones.

    Args:
        facts: The content of metrics.json.
    """
    real, drawn = facts["sets"][0], facts["sets"][1 : 1 + len(facts["color"])]
    told = " and ".join(f"{it['n']} synthetic images (set {it['name']})" for it in drawn)
    if len(drawn) > 2:
        counts = sorted({item["n"] for item in drawn})
        each = " to ".join(str(it) for it in dict.fromkeys((counts[0], counts[-1])))
        names = ", ".join(item["name"] for item in drawn)
        told = f"{len(drawn)} sets of {each} synthetic images each ({names})"
    sizes = len({item["n"] for item in drawn})
    apart = " How many times as far: compare only sets of one size." * (sizes > 1)
    labels = len(real["labels"])
    classes = f", {labels} label{'s' * (labels > 1)}" if labels else ", without labels"
    return (
        f"Compared: {told} with {real['n']} real images (set {real['name']}"
        f"{classes}, {word_patients(real['patients'])}).{apart}"
    )


def answer_sets(facts: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """Answer for each synthetic set: are its images near, like in look, and no copies?

    Args:
        facts: The content of metrics.json.

    Returns:
        Three answers for each set, by its name.
    """
    return {
        item["set"]: [_answer_nearness(facts, item["set"]), _answer_look(facts, item), copied]
        for item in facts["color"]
        for copied in [_answer_copies(facts, item["set"])]
    }


def answer_ranking(facts: Mapping[str, Any]) -> Finding | None:
    """Say which of several sets is nearest; None where there is one."""
    ranking = facts["ranking"]
    if not ranking:
        return None
    if ranking["winner"]:
        text = f"Of {len(ranking['order'])} sets, {ranking['winner']} is nearest to the real images"
        return Finding("good", f"{text}.", "ranking")
    return Finding("unclear", f"No set is shown to be the nearest: {ranking['reason']}.", "ranking")


def _answer_nearness(facts: Mapping[str, Any], name: str) -> Finding:
    """Say how far a set is from the real one, halves of which are the measure."""
    primary = facts["features"][0]
    item = next(
        it
        for it in facts["comparisons"]
        if (it["set"], it["features"], it["label"]) == (name, primary["name"], None)
    )
    floor = item["floor"]
    if reason := find_suspected(dict(facts)).get(name):
        return Finding("bad", f"Nearer than real images are to each other: {reason}.", "distances")
    if not floor:
        few = f"Too few images ({item['n_real']} real, {item['n_synthetic']} synthetic)"
        return Finding("unclear", f"{few} to say how near synthetic ones are.", "distances")
    measure = floor["frechet"]
    figures = f"({primary['frechet']}, {floor['n']} against {floor['n']} images)"
    if measure["synthetic"] <= measure["real_highest"]:
        text = "As near to the real images as halves of these are to each other"
        return Finding("good", f"{text} {figures}.", "distances")
    real, times = measure["real"], "many"
    if real > 0:
        times = write_number(measure["synthetic"] / real, ".2g")
    text = f"About {times} times as far from the real images as halves of these are from each other"
    return Finding("bad", f"{text} {figures}.", "distances")


def _answer_look(facts: Mapping[str, Any], item: Mapping[str, Any]) -> Finding:
    """Say whether a set's images are all alike, and whether their colors are off."""
    parts = [(PARTS[part], found) for part, found in list_parts(facts, item["set"])]
    alike = find_collapsed(dict(facts)).get(item["set"]) or [
        *item["collapsed"],
        *(f"{name} {place}" for place, part in parts for name in part["collapsed"]),
    ]
    told = {"": name_colors(item)} | {f"{place} ": name_colors(part) for place, part in parts}
    off = "; ".join(f"{place}{words}" for place, words in told.items() if words)
    if alike:
        text = f"Too much alike ({', '.join(alike)})" + (f", and {off}" if off else "")
        return Finding("bad", f"{text}.", "diversity")
    if off:
        return Finding("bad", f"Colors: {off}.", "colors")
    if item["mean"]["red"]["beyond_floor"] is None:
        return Finding("unclear", "Colors cannot be compared with one patient.", "colors")
    text = "Colors differ no more than those of two sets from the same source"
    if parts:
        text += f", also {' and '.join(place for place, _ in parts)}"
    if item["variety_collapsed"] is None:
        return Finding("unclear", f"{text}; too few images to say whether they vary.", "colors")
    return Finding("good", f"{text}, and the images vary.", "colors")


def name_colors(item: Mapping[str, Any]) -> str:
    """Say in which direction colors are off by more than chance; nothing where they are not."""
    beyond = {key: it for key, it in item["mean"].items() if it["beyond_floor"]}
    signs = {key: it["value"] > 0 for key, it in beyond.items() if key in HUES}
    words = []
    if len(signs) == len(HUES) and len(set(signs.values())) == 1:
        words.append("too bright" if signs["red"] else "too dark")
    elif signs:
        words += [f"too {'much' if more else 'little'} {hue}" for hue, more in signs.items()]
    if "saturation" in beyond:
        words.append("too vivid" if beyond["saturation"]["value"] > 0 else "too pale")
    contrast = [it["value"] > 0 for key, it in item["spread"].items() if it["beyond_floor"]]
    if contrast and len(set(contrast)) == 1:
        words.append("too much contrast" if contrast[0] else "too little contrast")
    if not words and item["beyond_floor"]:
        channels = dict.fromkeys(name.split()[0] for name in item["beyond_floor"])
        words.append(f"distributed otherwise ({', '.join(channels)})")
    return ", ".join(words)


def _answer_copies(facts: Mapping[str, Any], name: str) -> Finding:
    """Say whether images were copied, and whether the weights tell whose they are."""
    leak = bool(facts["membership"] and facts["membership"]["shown"])
    told = "; the weights tell which images they were trained on" if leak else ""
    item = next((it for it in facts["copies"] if it["set"] == name), None)
    if item is None:
        return Finding(
            "bad" if leak else "unclear", f"Copies were not searched for{told}.", "copies"
        )
    high = 100 * item["interval"][1]
    whose = "training images" if facts["settings"].get("training") else "these real images"
    if item["excess"]:
        text = f"{item['copies']} of {item['n']} synthetic images are near-copies of {whose}"
        text += ", more than by chance"
    elif item["copies"]:
        found = plural(item["copies"], "near-copy", "near-copies")
        text = f"{found} of {whose} among {item['n']} synthetic images, no more than by chance"
    else:
        text = f"No near-copies of {whose} found among {item['n']} synthetic images"
        text += f" (the share is below {high:.2g} %)" if high < 100 * FEW_COPIES else ""
    if leak or item["excess"]:
        return Finding("bad", f"{text}{told}.", "membership" if leak else "copies")
    if high >= 100 * FEW_COPIES:
        return Finding(
            "unclear", f"{text}; with so few, the true share may be up to {high:.0f} %.", "copies"
        )
    return Finding("good", f"{text}.", "copies")
