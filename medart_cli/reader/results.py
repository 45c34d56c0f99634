"""What readers' answers say: scores with intervals, agreement, and a verdict in plain words."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medart_cli import __version__
from medart_cli.data.output import Output, open_output, write_json, write_text
from medart_cli.data.page import (
    DEMONSTRATION_NOTICE,
    Finding,
    MarkName,
    Table,
    format_inputs,
    format_settings,
    render,
)
from medart_cli.data.takeaway import write_tables
from medart_cli.log import log, table
from medart_cli.metrics.agreement import find_kappa
from medart_cli.metrics.arrays import Indices, Integers
from medart_cli.metrics.intervals import find_class_intervals, find_score_intervals
from medart_cli.metrics.scores import score_classes, score_predictions
from medart_cli.reader.answers import (
    ANSWERS,
    KEY_NAME,
    UNANSWERED,
    Reading,
    read_key,
    read_readings,
)
from medart_cli.reader.options import ReaderConfig

GUESSING = 0.5  # balanced accuracy of one who guesses, whatever the share of either kind
NEAR = 0.1  # from guessing: what is called as good as guessing lies within it
AGREEING = 0.4  # kappa from which readers are said to agree: moderate by Landis and Koch, 1977
CHANCE_95, CHANCE_80, CHANCE_80_BOTH = 1.960, 0.842, 1.282  # normal quantiles
MEASURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity (synthetic)",
    "specificity": "specificity (real)",
    "auroc": "AUROC by confidence",
}


def score_kit(config: ReaderConfig) -> dict[str, Any]:
    """Score the answers to a kit, and write results.json and results.html."""
    kit = Path(config.real)
    key = read_key(kit)
    readings = read_readings(config.answer_files, key)
    out = config.out or kit / "results"
    facts = measure_readings(key, readings, config.seed)
    settings = config.settings() | {"_kit": key["kit"]}
    free = config.name_run_only() | {"real", "synthetic"}  # the way to the kit, and more answers
    inputs = (kit / KEY_NAME, *config.answer_files)
    with open_output(Output(out, "reader", settings, free, config.overwrite, inputs)):
        write_json(out / "results.json", facts)
        tables = {name: shown for name, shown in tabulate_readers(facts).items() if shown}
        write_tables(out, tables)
        write_text(out / "results.html", build_results(facts, config.settings()))
    columns, rows = list_scores(facts)
    table("readers, 95 % intervals", columns, rows)
    for line in facts["findings"]:
        log.info("%s", line)
    return {
        "result": str(out / "results.html"),
        "kit": facts["kit"],
        "readers": len(readings),
        "verdict": facts["verdict"],
        "findings": facts["findings"],
        "balanced_accuracy": (facts["together"] or {}).get("balanced_accuracy"),
        "agreement": facts["agreement"],
    }


def measure_readings(
    key: Mapping[str, Any], readings: Sequence[Reading], seed: int
) -> dict[str, Any]:
    """Score each reader, all readers together and by label, and find the verdict.

    Together and by label only images count that all readers answered.
    """
    truth = np.array([ANSWERS.index(item["kind"]) for item in key["images"]], dtype=np.int64)
    names = np.array([item["group"] for item in key["images"]])
    groups = np.unique(names, return_inverse=True)[1]
    labels = np.array([item["label"] or "" for item in key["images"]])
    said = np.stack([item.said for item in readings])
    shared = np.flatnonzero((said != UNANSWERED).all(axis=0))
    together = score_readings(truth, readings, groups, shared)
    known = sorted({*labels} - {""})
    by_label = {
        label: score_readings(truth, readings, groups, shared[labels[shared] == label])
        for label in (known if len(known) > 1 else [])
    }
    verdict, findings = find_verdict(together, len(readings))
    agreement = None
    if len(readings) > 1 and len(shared) > 1:
        value, interval = find_kappa(said[:, shared], groups[shared], seed)
        agreement = {
            "measure": "cohen" if len(readings) == 2 else "fleiss",
            "n": len(shared),
            "kappa": None if math.isnan(value) else value,
            "interval": interval,
        }
        findings.append(tell_agreement(agreement))
    if key.get("demonstration"):
        findings.insert(0, DEMONSTRATION_NOTICE)
    return {
        "format": 1,
        "kit": key["kit"],
        "images": len(truth),
        "verdict": verdict,
        "findings": findings,
        "readers": [
            {
                "reader": item.reader,
                "unanswered": len(truth) - item.answered,
                "seconds": round(item.seconds, 1),
                "scores": score_readings(
                    truth, [item], groups, np.flatnonzero(item.said != UNANSWERED)
                ),
            }
            for item in readings
        ],
        "together": together,
        "labels": by_label,
        "agreement": agreement,
        "scales": key["scales"],
        "inputs": key["inputs"],
        "demonstration": bool(key.get("demonstration")),
        "version": __version__,
    }


def score_readings(
    truth: Integers, readings: Sequence[Reading], groups: Indices, chosen: Indices
) -> dict[str, Any] | None:
    """Score the answers of one or more readers to the same images; means over the readers.

    Intervals are by patient, and over the readers where there are several.

    Args:
        truth: 0 for real and 1 for synthetic images, (N,).
        readings: All answered the chosen images.
        groups: Code of each image's patient, (N,).
        chosen: Which images count.

    Returns:
        None where they are not of both kinds. The AUROC is None unless all answers have a
        confidence.
    """
    truth, codes = truth[chosen], groups[chosen]
    if len(np.unique(truth)) < 2:
        return None
    sure = all((item.confidence[chosen] > 0).all() for item in readings)
    runs = []
    for item in readings:
        reach = (item.confidence[chosen] if sure else 1) / 10  # 0.1 to 0.5 from undecided
        synthetic = 0.5 + np.where(item.said[chosen] == 1, reach, -reach)
        runs.append(np.stack([1 - synthetic, synthetic], axis=1))
    each = [
        score_predictions(truth, run) | score_classes(truth, run, ANSWERS)["synthetic"]
        for run in runs
    ]
    limits = find_score_intervals(truth, runs, list(codes))
    by_class = find_class_intervals(truth, runs, list(codes))
    ends = {
        "accuracy": limits["accuracy"],
        "balanced_accuracy": limits["balanced_accuracy"],
        **{name: tuple(by_class[name][1]) for name in ("sensitivity", "specificity", "auroc")},
    }
    found: dict[str, Any] = {
        "n": len(truth),
        "synthetic": int(truth.sum()),
        "groups": len(np.unique(codes)),
    }
    for name in MEASURES:
        value = float(np.mean([one[name] for one in each]))
        interval = [float(end) for end in ends[name]]
        found[name] = {"value": value, "interval": interval}
    if not sure:
        found["auroc"] = None
    return found


def find_verdict(together: Mapping[str, Any] | None, readers: int) -> tuple[str, list[str]]:
    """Say whether readers tell the two kinds apart, in one word and in sentences."""
    if together is None:
        return "not shown", [
            "Not shown: no real, or no synthetic, image was answered by all readers."
        ]
    measure, n = together["balanced_accuracy"], together["n"]
    low, high = measure["interval"]
    figures = (
        f"balanced accuracy {measure['value']:.2f} (95 % interval {low:.2f} to {high:.2f}; "
        f"guessing is {GUESSING}; n = {n} images, {readers} reader{'s' if readers > 1 else ''})"
    )
    if low > GUESSING:
        verdict, text = "told apart", f"Readers can tell synthetic from real images: {figures}."
    elif high < GUESSING:
        verdict = "taken for the other"
        text = (
            f"Readers see a difference, but take synthetic images for real ones more often than "
            f"not: {figures}."
        )
    elif low >= GUESSING - NEAR and high <= GUESSING + NEAR:
        verdict = "as good as guessing"
        text = f"Readers are as good as guessing, within {NEAR}: {figures}."
    else:
        verdict = "not shown"
        text = (
            f"Not shown that readers can tell synthetic from real images: {figures}. Nor is it "
            f"shown that they cannot: a balanced accuracy of {high:.2f} would fit, too."
        )
    findings = [text]
    if verdict == "not shown":
        findings.append(tell_needed(measure, n))
    if readers == 1:
        findings.append("One reader: this says nothing about other readers.")
    return verdict, findings


def tell_needed(measure: Mapping[str, Any], n: int) -> str:
    """Say how many images would settle it."""
    needed = count_needed(measure["value"], measure["interval"], n)
    what = (
        f"the readers are really right in {measure['value']:.0%}"
        if abs(measure["value"] - GUESSING) > NEAR / 2
        else "the readers really guess"
    )
    return (
        f"If {what}, a study of about {needed} images (half of each kind; {max(0, needed - n)} "
        "more than were answered) by such readers would show it in 4 of 5 cases; where readers "
        "differ, more readers help as well."
    )


def count_needed(value: float, interval: Sequence[float], n: int) -> int:
    """Estimate how many images a study needs to settle in 80 % of cases what this one did not.

    Nearer to guessing than half of NEAR, that means an interval within NEAR of guessing; else,
    one that leaves guessing out. Widths are taken to shrink with the root of n.

    Source:
        Julious 2004, Statistics in Medicine 23, 1921-1986: superiority and equivalence; 1 / gap
        for counts being whole numbers: Fleiss, Levin and Paik 2003, chapter 2.
    """
    error = (interval[1] - interval[0]) / 2 / CHANCE_95
    gap = abs(value - GUESSING)
    if gap > NEAR / 2:
        return math.ceil(n * ((CHANCE_95 + CHANCE_80) * error / gap) ** 2 + 1 / gap)
    return math.ceil(n * ((CHANCE_95 + CHANCE_80_BOTH) * error / NEAR) ** 2)


def tell_agreement(agreement: Mapping[str, Any]) -> str:
    """Say how far the readers agree."""
    name = {"cohen": "Cohen's", "fleiss": "Fleiss'"}[agreement["measure"]]
    if agreement["kappa"] is None:
        return f"{name} kappa: cannot be given, since all answers are the same."
    interval = agreement["interval"]
    ends = f" (95 % interval {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return f"Agreement of the readers: {name} kappa {agreement['kappa']:.2f}{ends}; 0 is chance."


def word_reading(facts: Mapping[str, Any]) -> str:
    """Say what was compared: how many readers, and how many real and synthetic images."""
    readers, together = len(facts["readers"]), facts["together"]
    answered = "none of either kind was answered by all"
    if together:
        real = together["n"] - together["synthetic"]
        answered = (
            f"{together['n']} were answered by all: {real} real and {together['synthetic']} "
            f"synthetic, of {together['groups']} patients or images that stand alone"
        )
    return (
        f"Compared: real and synthetic images by {readers} reader{'s' * (readers > 1)} who did not "
        f"know which is which; of {facts['images']} images shown {answered}."
    )


def answer_readers(facts: Mapping[str, Any]) -> list[Finding]:
    """Answer in three sentences: are they told apart, how far is that sure, do readers agree?

    Args:
        facts: The content of results.json.
    """
    marks: dict[str, MarkName] = {
        "told apart": "bad", "taken for the other": "bad", "as good as guessing": "good",
        "not shown": "unclear",
    }  # fmt: skip
    together, readers = facts["together"], len(facts["readers"])
    figures = ""
    if together:
        measure = together["balanced_accuracy"]
        low, high = (f"{end:.0%}" for end in measure["interval"])
        figures = f": right in {measure['value']:.0%} ({low} to {high}; guessing is 50%)"
    text = {
        "told apart": "Readers tell synthetic images from real ones",
        "taken for the other": "Readers see a difference, but take synthetic images for real ones",
        "as good as guessing": "Readers cannot tell synthetic images from real ones",
        "not shown": "Too few answers to say whether readers tell synthetic images from real ones",
    }[facts["verdict"]]
    found = [Finding(marks[facts["verdict"]], f"{text}{figures}.", "scores")]
    if readers == 1:
        found.append(
            Finding("unclear", "One reader: this says nothing about other readers.", "scores")
        )
    elif facts["agreement"] and facts["agreement"]["kappa"] is not None:
        kappa = facts["agreement"]["kappa"]
        agree = "agree" if kappa >= AGREEING else "agree little more than by chance"
        found.append(
            Finding(
                "good" if kappa >= AGREEING else "unclear",
                f"The {readers} readers {agree} (kappa {kappa:.2f}).",
                "findings",
            )
        )
    if missing := sum(item["unanswered"] for item in facts["readers"]):
        text = f"{missing} answers are missing: what readers leave out may be what is hard to tell."
        found.append(Finding("unclear", text, "effort"))
    return found


def list_scores(facts: Mapping[str, Any]) -> Table:
    """Write the scores of each reader, and of all together, as a table."""
    rows = [_list_row(item["reader"], item["scores"]) for item in facts["readers"]]
    if len(rows) > 1:
        rows.append(_list_row("all readers", facts["together"]))
    return ["reader", "images", *MEASURES.values()], rows


def _list_row(name: str, scores: Mapping[str, Any] | None) -> list[str]:
    if scores is None:
        return [name, *["-"] * (len(MEASURES) + 1)]
    return [name, str(scores["n"]), *(_show_score(scores[measure]) for measure in MEASURES)]


def _show_score(measure: Mapping[str, Any] | None) -> str:
    if measure is None:
        return "-"
    low, high = measure["interval"]
    return f"{measure['value']:.2f} [{low:.2f}, {high:.2f}]"


def tabulate_readers(facts: Mapping[str, Any]) -> dict[str, Table | None]:
    """Write the results as tables, by the names that they have on the page and as files."""
    by_label = [_list_row(label, scores) for label, scores in facts["labels"].items()]
    effort = [
        [item["reader"], str(item["unanswered"]), f"{item['seconds']:.0f}"]
        for item in facts["readers"]
    ]
    scaled = [
        [kind, *(f"{part[name]:.2f}" for name in ("lowest", "median", "highest"))]
        for kind, part in facts["scales"].items()
    ]
    return {
        "scores": list_scores(facts),
        "labels": (["label", "images", *MEASURES.values()], by_label) if by_label else None,
        "effort": (["reader", "unanswered", "seconds"], effort),
        "scaled": (["kind", "lowest", "median", "highest"], scaled),
        "inputs": format_inputs(facts["inputs"]),
    }


def build_results(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Make the page of the results.

    Args:
        facts: The content of results.json.
        settings: Options, by name.
    """
    return render(
        "reader/results.html.jinja",
        kit=facts["kit"],
        compared=word_reading(facts),
        notice=DEMONSTRATION_NOTICE if facts["demonstration"] else None,
        answered=answer_readers(facts),
        findings=[it for it in facts["findings"] if it != DEMONSTRATION_NOTICE],
        settings=format_settings(settings, {"medart-cli": facts["version"]}),
        **tabulate_readers(facts),
    )
