"""What `medart classify` found: scores, comparisons, charts and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medart_cli.classify.answers import answer_results, word_training
from medart_cli.classify.images import Images
from medart_cli.classify.options import BASELINES, ClassifyConfig
from medart_cli.classify.predict import PREDICTIONS_NAME, describe_prediction
from medart_cli.classify.sets import count_labels
from medart_cli.classify.subgroups import build_subgroup_tables, measure_subgroups, tell_subgroups
from medart_cli.data.charts import draw_calibration, draw_class_scores, draw_confusion, draw_roc
from medart_cli.data.manifest import HashedRecord, count_patients, write_manifest
from medart_cli.data.output import write_json, write_text
from medart_cli.data.page import (
    DEMONSTRATION_NOTICE,
    Picture,
    Table,
    embed_image,
    format_inputs,
    format_settings,
    render,
    word_patients,
)
from medart_cli.data.splits import groups_of
from medart_cli.data.subgroups import Cut
from medart_cli.data.takeaway import write_tables
from medart_cli.log import log, table
from medart_cli.metrics.arrays import Array
from medart_cli.metrics.gaps import LEAST_IMAGES, LEAST_OF_CLASS, LEAST_UNITS
from medart_cli.metrics.intervals import find_class_intervals, find_score_intervals
from medart_cli.metrics.scores import (
    PRIMARY,
    SCORES,
    SURE,
    Difference,
    calibration_bins,
    compare_draws,
    count_confusions,
    draw_seeds,
    draw_weights,
    find_roc,
    find_seed_interval,
    score_classes,
    score_draws,
    score_predictions,
)
from medart_cli.versions import read_versions

VERDICTS = {1: "better", -1: "worse", 0: "no difference shown"}
TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "ece": "calibration error",
}
CLASS_COLUMNS = ("class", "test images", "sensitivity", "specificity", "AUROC")
EXPLAINED = {
    "real": "trained on the real images",
    "control": "trained on the real images alone, in as many optimizer steps as mix",
    "synthetic": "trained on the synthetic images alone",
    "mix": "trained on both together",
    "pretrain": "trained on the synthetic images, then on the real ones",
}


def write_results(
    config: ClassifyConfig,
    results: Mapping[str, Sequence[dict[str, Any]]],
    images: Mapping[str, Images],
    facts: dict[str, Any],
    cuts: Sequence[Cut] = (),
) -> dict[str, Any]:
    """Write metrics.json, predictions.jsonl, the charts and report.html; return the summary.

    Args:
        config: Options of the stage.
        results: For each regime what its trainings made of the test images.
        images: The sets.
        facts: What else belongs into metrics.json; `classes` among it.
        cuts: Subgroups of the test images that are compared.
    """
    classes, test = facts["classes"], images["test"]
    truth, groups = test.labels.numpy(), groups_of(test.rows)
    runs = {
        name: [np.array(item["probabilities"]) for item in items] for name, items in results.items()
    }
    regimes = compare_regimes(truth, runs, groups, config)
    for name, found in regimes.items():
        found["train_images"] = results[name][0]["train_images"]
        found["val_images"] = results[name][0]["val_images"]
        found["steps"] = results[name][0]["steps"]
        found["classes"] = _describe_classes(truth, runs[name], groups, classes)
    chosen = choose_regime(regimes)
    metrics = {
        **facts,
        "sets": {name: _describe_set(part.rows) for name, part in images.items()},
        "seeds": [item["seed"] for item in next(iter(results.values()))],
        "regimes": regimes,
        "subgroups": measure_subgroups(cuts, test.rows, truth, runs, classes),
        "classifier": {"regime": chosen, "seed": config.seed},
        "settings": config.settings(),
        "versions": read_versions(),
    }
    write_json(config.out / "metrics.json", metrics)
    rows = _list_predictions(results, test.rows, classes)
    write_manifest(config.out / PREDICTIONS_NAME, rows)
    _draw_charts(config.out, truth, runs, regimes)
    columns, cells = build_rows(regimes, (PRIMARY,), narrow=True)
    table("test on real images, 95 % intervals", columns, cells)
    for line in tell_subgroups(metrics["subgroups"]):
        log.info("%s", line)
    write_report(config.out, metrics)
    log.info("report: %s", config.out / "report.html")
    return {
        "result": str(config.out),
        "classifier": metrics["classifier"],
        "regimes": {
            name: found["scores"][PRIMARY] | {"verdict": found["verdict"]}
            for name, found in regimes.items()
        },
        "subgroups": tell_subgroups(metrics["subgroups"]),
        "inputs": facts["inputs"],
        "checks": facts["checks"],
        "failures": facts["failures"],
    }


def compare_regimes(
    truth: npt.NDArray[np.int64],
    runs: Mapping[str, Sequence[Array]],
    groups: Sequence[str],
    config: ClassifyConfig,
) -> dict[str, dict[str, Any]]:
    """Score each regime, and its differences to `real` and `control` on the same draws.

    A regime is called better, or worse, than the real images alone only where it is so in few
    steps (`real`) and in as many as its own (`control`): more steps alone change a classifier, too.
    """
    seeds = len(next(iter(runs.values())))
    weights = draw_weights(groups, config.bootstrap, config.seed)
    picks = draw_seeds(seeds, config.bootstrap, config.seed)
    draws = {}
    if len(runs) > 1:
        draws = {name: score_draws(truth, items, weights, picks) for name, items in runs.items()}
    found: dict[str, dict[str, Any]] = {}
    for name, items in runs.items():
        each = [score_predictions(truth, item) for item in items]
        limits = find_score_intervals(truth, items, groups)
        found[name] = {
            "scores": {
                measure: _describe_score([one[measure] for one in each], limits.get(measure))
                for measure in SCORES
            },
            "by_seed": each,
            "difference_to_real": {},
            "difference_to_control": {},
            "verdict": "",
        }
    for name in found:
        signs = set()
        for base in [base for base in BASELINES if base in found and name not in ("real", base)]:
            gaps = {
                measure: compare_draws(
                    found[name]["scores"][measure]["mean"] - found[base]["scores"][measure]["mean"],
                    draws[name][measure],
                    draws[base][measure],
                )
                for measure in SURE
            }
            found[name][f"difference_to_{base}"] = {key: asdict(gap) for key, gap in gaps.items()}
            signs.add(gaps[PRIMARY].sign)
        if signs:
            found[name]["verdict"] = VERDICTS[signs.pop() if len(signs) == 1 else 0]
    return found


def differences_of(found: dict[str, Any]) -> dict[str, Difference]:
    """Return a regime's differences in balanced accuracy to those of real images alone."""
    return {
        base: Difference(**found[f"difference_to_{base}"][PRIMARY])
        for base in BASELINES
        if found[f"difference_to_{base}"]
    }


def _describe_score(each: list[float], limits: tuple[float, float] | None) -> dict[str, Any]:
    low, high = limits or (None, None)
    return {
        "mean": float(np.mean(each)),
        "low": low,
        "high": high,
        "seed_interval": find_seed_interval(each),
    }


def choose_regime(regimes: Mapping[str, dict[str, Any]]) -> str:
    """Recommend `real`, unless another regime is shown to be better; then the best of those."""
    better = [name for name, found in regimes.items() if found["verdict"] == VERDICTS[1]]
    if better:
        return max(better, key=lambda name: regimes[name]["scores"][PRIMARY]["mean"])
    return "real" if "real" in regimes else next(iter(regimes))


def _describe_classes(
    truth: npt.NDArray[np.int64],
    runs: Sequence[Array],
    groups: Sequence[str],
    classes: list[str],
) -> dict[str, dict[str, Any]]:
    """Give the means over the seeds of each class's scores, and their intervals."""
    tables = [score_classes(truth, run, classes) for run in runs]
    limits = find_class_intervals(truth, runs, groups)
    return {
        name: {key: float(np.mean([one[name][key] for one in tables])) for key in tables[0][name]}
        | {f"{key}_interval": pairs[index].tolist() for key, pairs in limits.items()}
        for index, name in enumerate(classes)
    }


def _describe_set(rows: list[HashedRecord]) -> dict[str, Any]:
    return {
        "images": len(rows),
        "patients": count_patients(rows),
        "per_class": count_labels(rows),
    }


def _list_predictions(
    results: Mapping[str, Sequence[dict[str, Any]]], test: list[HashedRecord], classes: list[str]
) -> list[dict[str, Any]]:
    return [
        {**row.fields, "file_name": row.file_name, "label": row.label}
        | {"regime": name, "seed": item["seed"]}
        | describe_prediction(shares, classes)
        for name, items in results.items()
        for item in items
        for row, shares in zip(test, item["probabilities"], strict=True)
    ]


def _draw_charts(
    out: Path,
    truth: npt.NDArray[np.int64],
    runs: Mapping[str, Sequence[Array]],
    regimes: Mapping[str, dict[str, Any]],
) -> None:
    by_class = {name: found["classes"] for name, found in regimes.items()}
    some = next(iter(by_class.values()))
    draw_class_scores(
        out / "classes.png",
        {
            title: {
                name: {it: (found[key], *found[f"{key}_interval"]) for it, found in table.items()}
                for name, table in by_class.items()
            }
            for title, key in (("sensitivity", "sensitivity"), ("AUROC", "auroc"))
        },
        {name: round(found["count"]) for name, found in some.items()},
    )
    titles = {name: f"{name}, {len(truth)} test images" for name in runs}
    repeats = {name: f"{name}, seeds: {len(items)}" for name, items in runs.items()}
    draw_confusion(
        out / "confusion.png",
        {repeats[name]: count_confusions(truth, items) for name, items in runs.items()},
        [*some],
    )
    draw_roc(
        out / "roc.png",
        {
            titles[name]: {label: find_roc(truth, items[0], k) for k, label in enumerate(some)}
            for name, items in runs.items()
        },
    )
    draw_calibration(
        out / "calibration.png",
        {
            titles[name]: calibration_bins(np.tile(truth, len(items)), np.concatenate(items))
            for name, items in runs.items()
        },
    )


def build_rows(
    regimes: Mapping[str, dict[str, Any]], measures: Sequence[str], *, narrow: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Build the one table: a row a regime, with its differences to `real` and `control`.

    Args:
        regimes: From `compare_regimes`.
        measures: Those to show.
        narrow: Put intervals on a line of their own, for a terminal.
    """
    gap = "\n" if narrow else " "
    columns = ["regime", "trained on", "steps", *(TITLES[measure] for measure in measures)]
    bases = [base for base in BASELINES if base in regimes]
    rows = []
    for name, found in regimes.items():
        row = [name, *(" + ".join(map(str, found[key])) for key in ("train_images", "steps"))]
        for measure in measures:
            score = found["scores"][measure]
            row.append(_show_interval(score["mean"], (score["low"], score["high"]), gap))
        others = differences_of(found)
        for base in bases:
            row.append(_show_difference(others[base], gap) if base in others else "")
        rows.append([*row, found["verdict"]])
    columns += [*(f"difference to {base}" for base in bases), "verdict"]
    if narrow:  # eighty columns have no room for images and steps, nor for words side by side
        columns = [name.replace("difference", "against").replace(" ", "\n") for name in columns]
        rows = [[*row[:-1], row[-1].replace(" ", "\n")] for row in rows]
        return [columns[0], *columns[3:]], [[row[0], *row[3:]] for row in rows]
    return columns, rows


def _show_interval(mean: float, limits: Sequence[float | None], gap: str = " ") -> str:
    low, high = limits
    return f"{mean:.3f}" + ("" if low is None else f"{gap}[{low:.3f},{high:.3f}]")


def _show_difference(other: Difference, gap: str) -> str:
    interval = f"[{other.low:+.3f},{other.high:+.3f}]"
    return f"{other.value:+.3f}{gap}{interval}{gap}p = {other.p_value:.2g}"


def word_verdict(name: str, found: dict[str, Any]) -> str:
    """Say in one sentence whether a regime helps; nobody wins where an interval holds zero."""
    cause = "more steps" if name == "control" else "synthetic images"
    how = {
        VERDICTS[1]: f"{cause} help",
        VERDICTS[-1]: f"{cause} harm",
        VERDICTS[0]: "no difference is shown",
    }[found["verdict"]]
    gaps = [
        f"{gap.value:+.3f} against {base} (95 % interval {gap.low:+.3f} to {gap.high:+.3f}, "
        f"p = {gap.p_value:.3g})"
        for base, gap in differences_of(found).items()
    ]
    return f"{name} ({EXPLAINED[name]}): {how}; balanced accuracy {' and '.join(gaps)}."


def write_report(out: Path, metrics: dict[str, Any]) -> None:
    """Write report.html from metrics.json and the charts."""
    regimes, classes = metrics["regimes"], metrics["classes"]
    verdicts = word_leak(metrics["checks"])
    verdicts += [word_verdict(name, found) for name, found in regimes.items() if found["verdict"]]
    verdicts += tell_subgroups(metrics["subgroups"])
    scores = build_rows(regimes, SCORES)
    by_class = [
        (name, [_class_row(label, found["classes"][label]) for label in classes])
        for name, found in regimes.items()
    ]
    tables: dict[str, Table] = {f"classes-{name}": (CLASS_COLUMNS, rows) for name, rows in by_class}
    inputs = format_inputs(metrics["inputs"])
    subgroups = [(item["key"], build_subgroup_tables(item)) for item in metrics["subgroups"]]
    for number, (_, shown) in enumerate(subgroups, start=1):
        tables |= {f"subgroups-{number}": shown[0], f"subgroups-{number}-gaps": shown[1]}
    seeds = _format_seeds(metrics) if len(metrics["seeds"]) > 1 else None
    tables |= {"seeds": seeds} if seeds else {}
    write_tables(out, {"scores": scores, **tables, "inputs": inputs})
    text = render(
        "classify/results.html.jinja",
        notice=DEMONSTRATION_NOTICE if metrics["demonstration"] else None,
        compared=word_training(metrics),
        answered=answer_results(metrics),
        verdicts=verdicts,
        regimes=scores,
        notes=_word_notes(metrics),
        classifier=metrics["classifier"],
        seeds=seeds,
        classes=by_class,
        class_columns=CLASS_COLUMNS,
        least_images=LEAST_IMAGES,
        least_groups=LEAST_UNITS,
        least_of_class=LEAST_OF_CLASS,
        subgroups=subgroups,
        charts=_show_charts(out, metrics),
        inputs=inputs,
        settings=format_settings(metrics["settings"], metrics["versions"]),
    )
    write_text(out / "report.html", text)


def _show_charts(out: Path, metrics: dict[str, Any]) -> dict[str, Picture]:
    """Put the charts into the page, each with what it shows in words."""
    captions = {
        "classes": "Scores of each class with their 95 % intervals, means over the seeds.",
        "confusion": "Share of each true class (row, with its number of predictions) predicted as "
        "each class, over all seeds.",
        "roc": "ROC curve of each class (one-vs-rest), first seed.",
        "calibration": "Accuracy of predictions by their confidence, over all seeds; bars: the "
        "share of the images.",
    }
    each = {
        key: "; ".join(
            f"{name}: "
            + ", ".join(f"{label} {it[key]:.2f}" for label, it in found["classes"].items())
            for name, found in metrics["regimes"].items()
        )
        for key in ("sensitivity", "auroc")
    }
    errors = ", ".join(
        f"{name} {found['scores']['ece']['mean']:.2f}" for name, found in metrics["regimes"].items()
    )
    told = {
        "classes": f"Chart: sensitivity and AUROC of each class; sensitivity {each['sensitivity']}",
        "confusion": f"Chart: confusion matrices; shares on the diagonal {each['sensitivity']}",
        "roc": f"Chart: ROC curves; areas below them {each['auroc']}",
        "calibration": f"Chart: accuracy against confidence; calibration errors {errors}",
    }
    charts = {}
    for name, caption in captions.items():
        with Image.open(out / f"{name}.png") as chart:
            charts[name] = embed_image(chart, caption, instead=told[name])
    return charts


def _format_seeds(metrics: dict[str, Any]) -> Table:
    rows = []
    for name, found in metrics["regimes"].items():
        score = found["scores"][PRIMARY]
        low, high = score["seed_interval"]
        each = [f"{item[PRIMARY]:.3f}" for item in found["by_seed"]]
        rows.append([name, *each, f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"])
    return ["regime", *(f"seed {seed}" for seed in metrics["seeds"]), "mean and its 95 %"], rows


def _class_row(label: str, found: dict[str, Any]) -> list[str]:
    keys = ("sensitivity", "specificity", "auroc")
    numbers = [_show_interval(found[key], found[f"{key}_interval"]) for key in keys]
    return [label, f"{found['count']:.0f}", *numbers]


def word_leak(checks: dict[str, Any]) -> list[str]:
    """Say what the generator knows and the classifiers may not, and what could not be checked."""
    leak = checks.get("generator_leak")
    words = []
    if checks["split_by"] == "images":
        words.append(
            "PATIENTS UNKNOWN: images were split one by one, so one patient may be in both "
            "training and test set, and results may be too optimistic; give patients in group_id."
        )
    if not leak:
        return words
    if leak["test_images"]:
        words.append(
            f"LEAK: the generator was trained on {leak['test_images']} of the test images; every "
            "result with synthetic images is too optimistic."
        )
    if leak["outside_budget"]:
        words.append(
            f"LEAK: the generator knows {leak['outside_budget']} training images outside "
            "--label-budget; what the synthetic images add may be those."
        )
    if leak["other_images"]:
        words.append(
            f"The generator was trained on {leak['other_images']} images that no classifier here "
            "was trained on: what the synthetic images add may be those."
        )
    if not leak["checked"]:
        words.append(
            "Which images the generator was trained on is unknown: whether test images"
            + (", or images outside --label-budget," if leak["outside_budget"] is not None else "")
            + " are among them could not be checked."
        )
    return words


def _word_notes(metrics: dict[str, Any]) -> list[str]:
    sets = metrics["sets"]
    counts = ", ".join(f"{part['images']} {name}" for name, part in sets.items())
    notes = [
        f"{counts} images; in the test set {word_patients(sets['test']['patients'])}. "
        f"Backbone {metrics['backbone']} at {metrics['image_size']} pixels, "
        f"{metrics['trained']} trained; seeds {', '.join(map(str, metrics['seeds']))}."
    ]
    if metrics["label_budget"] is not None:
        notes.append(f"Real training images per class (--label-budget): {metrics['label_budget']}.")
    if metrics["equal"] == "epochs":
        notes.append(
            "Optimizer steps are NOT EQUAL (--equal epochs), which may explain a difference."
        )
    dropped = {k: n for k, n in metrics["checks"]["duplicates_dropped"].items() if n}
    notes += [
        f"{n} files of the {k} set were test images too: dropped." for k, n in dropped.items()
    ]
    return notes + tell_duplicates(metrics["checks"])


def tell_duplicates(checks: dict[str, Any]) -> list[str]:
    """Say what shows the same picture in other bytes, between the sets and within them."""
    notes = [
        f"{count} images of the {name} set showed the same picture as a test image (re-encoded, "
        "scaled, mirrored): dropped (duplicates.jsonl)."
        for name, count in checks["near_duplicates_dropped"].items()
        if count
    ]
    for name, found in checks["repeats"].items():
        if found["images"]:
            notes.append(
                f"{found['images']} images of the {name} set show the same picture as another one: "
                "they are not independent, so intervals are too narrow."
            )
        if found["two_labels"]:
            notes.append(
                f"{found['two_labels']} images of the {name} set show the same picture as one with "
                "another label."
            )
    return notes
