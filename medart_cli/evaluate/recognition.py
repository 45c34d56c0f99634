"""Do drawn images show their class? What a classifier says of them, and of real images.

Its predictions are features like others: in the cache, by image and classifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medart_cli.data.page import Table
from medart_cli.errors import ConfigError
from medart_cli.evaluate.contents import Origin, find_origin, saw_synthetic
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.sets import ImageSet, find_heldout
from medart_cli.log import log
from medart_cli.metrics.arrays import Indices
from medart_cli.metrics.features import Extractor, pack_hashes, read_features
from medart_cli.metrics.recognition import AS_WELL, LESS, Predictions, compare_recognition
from medart_cli.models.classifier import load_classifier, run_module
from medart_cli.models.device import hush_libraries, join_processes

SHOWS = {
    AS_WELL: "the synthetic images show their class as well as real ones",
    LESS: "the synthetic images show their class less than real ones",
}
NOTHING_SHOWN = "it is not shown that the synthetic images show their class as well as real ones"


@dataclass(frozen=True)
class Judge:
    """The classifier of --classifier.

    Attributes:
        classes: Its classes.
        origin: What it was trained on.
        extractor: Gives its logits.
    """

    classes: list[str]
    origin: Origin
    extractor: Extractor


def load_judge(config: EvaluateConfig, sets: Sequence[ImageSet]) -> Judge | None:
    """Load the classifier of --classifier, and say which labels it does not know.

    Raises:
        ConfigError: It is none of classify, or no synthetic image has a label that it knows.
    """
    if config.classifier is None:
        return None
    origin = find_origin(config.classifier)
    hush_libraries("transformers")
    device = join_processes(config.device)
    loaded = load_classifier(config.classifier, device)
    known, given = {*loaded.classes}, {name for item in sets for name in item.count_labels()}
    drawn = sets[1 : 1 + len(config.synthetic)]
    if not any(known & item.count_labels().keys() for item in drawn):
        raise ConfigError(
            f"--classifier {config.classifier}: knows the classes {', '.join(loaded.classes)}, and "
            f"no synthetic image has one as label (labels: {', '.join(sorted(given)) or 'none'}); "
            "use a classifier of these classes"
        )
    if strange := sorted(given - known):
        log.warning(
            "--classifier: images of %s are left out, which are no class of it (%s)",
            *(", ".join(strange), ", ".join(loaded.classes)),
        )
    if saw_synthetic(origin.regime):
        log.warning("--classifier: %s", tell_origin(origin.regime))
    extractor = Extractor(
        f"classes of {config.classifier.name}",
        loaded.fingerprint,
        len(loaded.classes),
        loaded.prepare,
        partial(run_module, loaded.module),
        device,
    )
    return Judge(loaded.classes, origin, extractor)


def measure_recognition(
    config: EvaluateConfig, sets: Sequence[ImageSet], judge: Judge | None, cache: Path
) -> list[dict[str, Any]]:
    """Compare what the classifier says of each synthetic set and of real images it has not seen.

    These are the ones of REAL and --holdout that it was not trained on, nor on others of their
    patients. Synthetic images that it was trained on are left out as well.
    """
    if judge is None:
        return []
    count = len(config.synthetic)
    held = [] if config.holdout is None else [find_heldout(config, [*sets])]
    real, left_out = _predict_real([sets[0], *held], judge, cache)
    if left_out:
        log.info(
            "--classifier: %d real images are left out, which it was trained on or on others of "
            "their patients; %d are left", left_out, len(real.truth),
        )  # fmt: skip
    if not len(real.truth):
        log.warning(
            "--classifier: has seen all real images that have one of its classes; give others, "
            "such as its test images, as REAL or with --holdout"
        )
    found = []
    for item in sets[1 : 1 + count]:
        drawn, seen = _predict_drawn(item, judge, cache)
        if seen:
            log.warning("%s: %d images are left out, which the classifier was trained on",
                        item.name, seen)  # fmt: skip
        labels = item.count_labels()
        place = {
            "set": item.name,
            "regime": judge.origin.regime,
            "classes": judge.classes,
            "trained_on": {"real": left_out, "drawn": seen},
            "other_labels": {name: n for name, n in labels.items() if name not in judge.classes},
            "unlabeled": len(item) - sum(labels.values()),
        }
        found.append(place | compare_recognition(real, drawn, judge.classes))
    return found


def _predict_real(sets: Sequence[ImageSet], judge: Judge, cache: Path) -> tuple[Predictions, int]:
    """Predict real images that have a class and were not trained on; and count those that were."""
    hashes, parts, left_out = pack_hashes(sorted(judge.origin.hashes)), [], 0
    for item in sets:
        truth, groups = code_classes(item, judge.classes), judge.origin.groups
        seen = np.isin(item.keys, hashes)
        if groups:
            known = (record.group in groups for record in item)
            seen |= np.fromiter(known, dtype=np.bool_, count=len(item))
        left_out += int((seen & (truth >= 0)).sum())
        rows = np.flatnonzero((truth >= 0) & ~seen)
        parts.append((item.keys[rows], truth[rows], item.name_groups()[rows]))
    keys, truth, names = (np.concatenate(part) for part in zip(*parts, strict=True))
    keys, first = np.unique(keys, return_index=True)  # an image may be in REAL and --holdout
    said = read_features(keys, judge.extractor, cache).argmax(axis=1)
    return Predictions(
        truth[first], said, np.unique(names[first], return_inverse=True)[1]
    ), left_out


def _predict_drawn(item: ImageSet, judge: Judge, cache: Path) -> tuple[Predictions, int]:
    """Do the same for synthetic images, whatever patients their captions are of."""
    truth = code_classes(item, judge.classes)
    seen = np.isin(item.keys, pack_hashes(sorted(judge.origin.hashes)))
    rows = np.flatnonzero((truth >= 0) & ~seen)
    said = read_features(item.keys[rows], judge.extractor, cache).argmax(axis=1)
    groups = np.unique(item.clusters[rows], return_inverse=True)[1]
    return Predictions(truth[rows], said, groups), int((seen & (truth >= 0)).sum())


def code_classes(item: ImageSet, classes: Sequence[str]) -> Indices:
    """Return the place of each image's label among the classes, (N,); -1 for none."""
    table = np.full(len(item.labels) + 1, -1, dtype=np.intp)  # the last is for no label, code -1
    for name, code in item.labels.items():
        table[code] = classes.index(name) if name in classes else -1
    return np.asarray(table[item.codes])


def tell_origin(regime: str) -> str:
    """Warn of a classifier that has seen synthetic images."""
    return (
        f"it was trained with synthetic images (regime {regime}), whose flaws it may take for "
        "signs of a class; use regimes/real/model of the same folder"
    )


def tell_recognition(item: dict[str, Any]) -> list[str]:
    """Say in plain words whether the drawn images of a set show their class."""
    verdict = SHOWS.get(item["verdict"], NOTHING_SHOWN)
    drawn, real = item["drawn"], item["real"]
    if drawn is None or real is None:
        return [f"{verdict}: {item['reason']}"]
    lines = [
        f"{verdict}: the classifier puts {_percent(drawn)} of the synthetic images in their class, "
        f"and {_percent(real)} of the {item['n_real']} real ones that it has not seen (difference "
        f"{_percent(item['difference'], signed=True)}; labels count alike); {item['reason']}"
    ]
    worse = [
        f"{label} ({_percent(part['drawn'])}, real {_percent(part['real'])})"
        for label, part in item["labels"].items()
        if part["difference"] and part["difference"]["interval"][1] < 0
    ]
    if worse and item["verdict"] == LESS:  # a gate: one test first, so that labels add no errors
        lines.append(f"labels that synthetic images show less than real ones: {', '.join(worse)}")
    if saw_synthetic(item["regime"]):
        lines.append(f"about the classifier: {tell_origin(item['regime'])}")
    return lines


def _percent(measure: dict[str, Any], *, signed: bool = False) -> str:
    form = "+.0f" if signed else ".0f"
    low, high = (100 * end for end in measure["interval"])
    unit = " points" if signed else "%"
    return f"{100 * measure['value']:{form}}{unit} [{low:{form}}, {high:{form}}]"


def show_recognition(item: dict[str, Any]) -> dict[str, Any]:
    """Write what a classifier says of a set as tables: shares by label, and both confusions."""
    head = ["Label", "n synthetic", "n real", "synthetic, % [95%]", "real, % [95%]", "difference"]
    rows = []
    for label, part in [("all labels", item), *item["labels"].items()]:
        cells = [
            "-" if part[key] is None else _percent(part[key], signed=key == "difference")
            for key in ("drawn", "real", "difference")
        ]
        rows.append([label, str(part["n_drawn"]), str(part["n_real"]), *cells])
    return {
        "name": item["set"],
        "told": tell_recognition(item),
        "shares": (head, rows),
        "confusions": [
            (title, _show_confusion(item["classes"], item[key]))
            for title, key in (("synthetic", "confusion_drawn"), ("real", "confusion_real"))
        ],
    }


def _show_confusion(classes: Sequence[str], counts: list[list[int]]) -> Table:
    table: npt.NDArray[np.int64] = np.asarray(counts)
    rows = [
        [name, *(f"{count} ({count / total:.0%})" if count else "0" for count in row)]
        for name, row, total in zip(classes, table, table.sum(axis=1), strict=True)
        if total
    ]
    return ["True label", *(f"said {name}" for name in classes)], rows
