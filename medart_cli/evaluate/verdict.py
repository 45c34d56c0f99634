"""What `medart evaluate` says in words, in the log and at the head of the page, and why."""

from typing import Any

from medart_cli.evaluate.captions import tell_captions
from medart_cli.evaluate.diversity import find_collapsed, tell_diversity
from medart_cli.evaluate.recognition import tell_recognition
from medart_cli.metrics.closeness import PERMUTATIONS, SIGNIFICANCE
from medart_cli.metrics.comparison import CLOSER, UNKNOWN
from medart_cli.metrics.ranking import find_sign


def tell_patients(facts: dict[str, Any]) -> list[str]:
    """Say whether it is known which images are of one patient."""
    real = facts["sets"][0]
    if real["patients"] is None:
        return [f"{real['name']}: {UNKNOWN}."]
    if real["patients"] == real["n"]:
        return [f"{real['name']}: {real['n']} images, each from a different patient."]
    return [f"{real['name']}: {real['n']} images of {real['patients']} patients; by patient."]


def tell_recall(facts: dict[str, Any]) -> list[str]:
    """Say for each set which share of the real images it reaches, overall and by label."""
    primary = facts["features"][0]["name"]
    lines = []
    for name in dict.fromkeys(item["set"] for item in facts["comparisons"]):
        found = {
            item["label"]: item
            for item in facts["comparisons"]
            if (item["set"], item["features"]) == (name, primary) and item["recall"] is not None
        }
        if None not in found:
            continue
        whole = found.pop(None)
        text = f"{name}: recall (real images with a synthetic neighbor) {whole['recall']:.2f}"
        if whole["floor"] and "recall" in whole["floor"]:
            floor = whole["floor"]["recall"]
            text += f" (at n = {whole['floor']['n']} {floor['synthetic']:.2f}, halves of the real "
            text += f"set {floor['real']:.2f})"
        shares = [f"{label} {item['recall']:.2f}" for label, item in found.items()]
        lines.append("; ".join([text, ", ".join(shares)] if shares else [text]) + ".")
    return lines


def find_close(facts: dict[str, Any]) -> dict[str, list[str]]:
    """Name for each set what is closer to real images than sets from the same source are.

    All images together and the labels have the same rate of false alarms; of more than 20 labels
    the rate is what the number of deals can tell.
    """
    primary, found = facts["features"][0]["name"], {}
    for name in dict.fromkeys(item["set"] for item in facts["comparisons"]):
        tested = {
            item["label"]: item["closeness"]["p_value"]
            for item in facts["comparisons"]
            if (item["set"], item["features"]) == (name, primary) and item["closeness"]
        }
        each = max(SIGNIFICANCE / max(1, len(tested.keys() - {None})), 1 / (PERMUTATIONS + 1))
        found[name] = [
            "all images together" if label is None else label
            for label, p_value in tested.items()
            if p_value <= (SIGNIFICANCE if label is None else each)
        ]
    return found


def tell_closeness(facts: dict[str, Any]) -> list[str]:
    """Say which sets are so close to the real images that copies must be suspected."""
    return [
        f"{name}: suspected of copies ({', '.join(close)}): {CLOSER}."
        for name, close in find_close(facts).items()
        if close
    ]


def find_suspected(facts: dict[str, Any]) -> dict[str, str]:
    """Name the sets that are suspected of copies, and why."""
    found = {
        name: f"suspected of copies, closer than sets from the same source ({', '.join(close)})"
        for name, close in find_close(facts).items()
        if close
    }
    for item in facts["copies"]:
        if item["excess"]:
            found[item["set"]] = (
                f"suspected of copies, {item['copies']} of its {item['n']} images being near-copies"
            )
    return found


def qualify_winner(facts: dict[str, Any]) -> str:
    """Word what qualifies a winner: a collapse of variety, or no search for near-copies."""
    collapsed = {item["set"] for item in facts["color"] if item["collapsed"]}
    told = ""
    if facts["ranking"]["winner"] in collapsed:
        told += "; but its color variety has collapsed"
    if alike := find_collapsed(facts).get(facts["ranking"]["winner"]):
        told += f"; but its diversity has collapsed ({', '.join(alike)})"
    if facts["ranking"]["winner"] and not facts["copies"]:
        told += "; near-copies were not checked"
    return told


def tell_contents(facts: dict[str, Any]) -> list[str]:
    """Say of each set how diverse it is, and whether its images show their class and caption."""
    lines = [f"{item['set']}: {tell_diversity(item)}" for item in facts["diversity"]]
    for name, tell in (("recognition", tell_recognition), ("retelling", tell_captions)):
        lines += [f"{item['set']}: {line}" for item in facts[name] for line in tell(item)]
    return lines


def tell_ranking(ranking: dict[str, Any]) -> list[str]:
    """Say how several sets rank, and what is sure of each pair."""
    lines = [
        f"ranking by the distance to {ranking['n_reference']} images of {ranking['reference']}: "
        f"{', '.join(ranking['order'])}; winner: {ranking['winner'] or 'none'} "
        f"({ranking['reason']})"
    ]
    for pair in ranking.get("pairs", []):
        found = [f"distance {with_sign(pair['distance'])}"]
        if pair["by_label"]:
            found.append(f"mean over labels {with_sign(pair['by_label'])}")
        found.append(f"color means {with_sign(pair['color']['mean'])}")
        found.append(f"color energy {with_sign(pair['color']['energy'])}")
        name = f"{pair['first']} less {pair['second']}"
        lines.append(f"{name} (below zero is nearer): {', '.join(found)}")
    return lines


def with_sign(measure: dict[str, Any] | None) -> str:
    """Write a difference with its interval, and a mark where it is not zero."""
    if measure is None:
        return "-"
    if measure["interval"] is None:
        return f"{measure['value']:+.3f}"
    low, high = measure["interval"]
    mark = " *" if find_sign(measure["interval"]) else ""
    return f"{measure['value']:+.3f} [{low:+.3f}, {high:+.3f}]{mark}"
