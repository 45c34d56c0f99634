"""The first screen of a classifier's page: do synthetic images help, and can that be trusted?"""

from collections.abc import Mapping
from typing import Any

from medart_cli.data.names import name_sets
from medart_cli.data.page import Finding, word_patients
from medart_cli.metrics.scores import PRIMARY

BY_USE = ("mix", "pretrain", "synthetic")  # regimes with synthetic images, the most useful first


def answer_results(metrics: Mapping[str, Any]) -> list[Finding]:
    """Answer in at most three sentences; what makes all others void stands first.

    Args:
        metrics: The content of metrics.json.
    """
    trust = _answer_trust(metrics)
    others = [*_answer_help(metrics), *_answer_subgroups(metrics)]
    return [trust, *others] if trust.mark == "bad" else [*others[:1], trust, *others[1:]]


def word_training(metrics: Mapping[str, Any]) -> str:
    """Say what was compared: on which images classifiers were trained and tested, and how many.

    Args:
        metrics: The content of metrics.json.
    """
    sets, settings = metrics["sets"], metrics["settings"]
    given = {"train": "data", "synthetic": "synthetic", "test": "test"}
    roles = [role for role, option in given.items() if settings.get(option)]
    names = dict(zip(roles, name_sets([settings[given[it]] for it in roles]), strict=True))
    drawn = ""
    if "synthetic" in sets:
        drawn = f" and on {sets['synthetic']['images']} synthetic ones ({names['synthetic']})"
    split = names.get("test") or f"split off {names['train']}"
    classes, seeds = len(metrics["classes"]), len(metrics["seeds"])
    return (
        f"Compared: classifiers trained on {sets['train']['images']} real images "
        f"({names['train']}){drawn}, tested on {sets['test']['images']} real images ({split}; "
        f"{classes} classes, {word_patients(sets['test']['patients'])}); "
        f"{seeds} seed{'s' * (seeds > 1)}."
    )


def _answer_help(metrics: Mapping[str, Any]) -> list[Finding]:
    """Say whether synthetic images help, beside the real ones where that was tried."""
    regimes = metrics["regimes"]
    name = next((it for it in BY_USE if it in regimes and regimes[it]["verdict"]), None)
    if name is None:
        return []
    alone = name == "synthetic"
    test = metrics["sets"]["test"]
    with_them, without = (regimes[it]["scores"][PRIMARY]["mean"] for it in (name, "real"))
    behind = f"{test['images']} test images, {word_patients(test['patients'])}, "
    behind += f"{len(metrics['seeds'])} seed" + "s" * (len(metrics["seeds"]) > 1)
    known = regimes[name]["difference_to_control"] or regimes[name]["difference_to_real"]
    gap, classes = known[PRIMARY], len(metrics["classes"])
    figures = (
        f"balanced accuracy {with_them:.2f} with them, {without:.2f} without, by guessing "
        f"{1 / classes:.2f}; difference {gap['value']:+.2f}, 95% interval {gap['low']:+.2f} to "
        f"{gap['high']:+.2f} ({behind})"
    )
    subject = "Synthetic images in the place of real ones" if alone else "Synthetic images"
    verdict = regimes[name]["verdict"]
    if verdict == "better":
        return [Finding("good", f"{subject} help the classifier: {figures}.", "regimes")]
    if verdict == "worse":
        return [Finding("bad", f"{subject} make the classifier worse: {figures}.", "regimes")]
    text = f"{subject} are not shown to help the classifier, nor to harm it: {figures}."
    return [Finding("unclear", text, "regimes")]


def _answer_trust(metrics: Mapping[str, Any]) -> Finding:
    """Say whether the test images were unknown to all that was trained."""
    checks = metrics["checks"]
    leak = checks.get("generator_leak") or {}
    if leak.get("test_images"):
        text = f"The generator was trained on {leak['test_images']} of the test images"
        return Finding("bad", f"{text}: do not rely on this comparison.", "notes")
    if leak.get("outside_budget") or leak.get("other_images"):
        text = "The generator knows real images that the classifier was not trained on"
        return Finding("bad", f"{text}: what synthetic images add may be those.", "notes")
    doubts = []
    if checks["split_by"] == "images" or metrics["sets"]["test"]["patients"] is None:
        doubts.append("patients are unknown, so one may be in both training and test images")
    if leak and not leak["checked"]:
        doubts.append("it is unknown which images the generator was trained on")
    if doubts:
        return Finding("unclear", f"Read with care: {' and '.join(doubts)}.", "notes")
    text = "No test image, and no patient of one, was used in training"
    return Finding("good", f"{text}{', of the generator neither' if leak else ''}.", "notes")


def _answer_subgroups(metrics: Mapping[str, Any]) -> list[Finding]:
    """Say whether the classifier is worse for one subgroup than for another."""
    if not metrics["subgroups"]:
        return []
    regime = metrics["classifier"]["regime"]
    shown = []
    for item in metrics["subgroups"]:
        gap = item["regimes"].get(regime, {}).get("gap")
        if gap and gap["shown"]:
            pair = (gap["first"], gap["second"])
            worse, better = pair if gap["value"] < 0 else reversed(pair)
            shown.append(f"{item['key']} {worse} less well than {better}")
    keys = ", ".join(item["key"] for item in metrics["subgroups"])
    if shown:
        return [Finding("bad", f"The classifier serves {'; '.join(shown)}.", "subgroups")]
    return [Finding("unclear", f"No gap between the subgroups ({keys}) is shown.", "subgroups")]
