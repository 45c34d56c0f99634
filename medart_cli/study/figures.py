"""The figures of a study: what each unit's commands measured, gathered by arm and seed."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from medart_cli.metrics.membership import DEALS, LEAK
from medart_cli.metrics.resampling import CONFIDENCE_LEVEL
from medart_cli.study.arms import Arm, find_reference
from medart_cli.study.contrasts import Contrast, contrast
from medart_cli.study.units import COMPARED, Plan, read_unit

RGB = ("red", "green", "blue")
Facts = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """One column of the tables.

    Attributes:
        key: In study.json.
        title: Of the column; the Frechet and kernel distances are named by the network.
        better: Which way is better; `one` means nearer to 1, None that neither is.
        form: How a value is written.
        read: Takes what a unit's commands measured; None where they did not.
    """

    key: str
    title: str
    better: Literal["lower", "higher", "one"] | None
    form: str
    read: Callable[[Facts], float | None]


def _overall(facts: Facts) -> Facts:
    report = facts["report"]
    primary = report["features"][0]["name"]
    return next(
        item
        for item in report["comparisons"]
        if item["label"] is None and item["features"] == primary
    )


def _of_kernel(facts: Facts) -> float | None:
    kernel = _overall(facts)["kernel"]
    return None if kernel is None else kernel["value"]


def _gap(name: str) -> Callable[[Facts], float | None]:
    def read(facts: Facts) -> float:
        channels = facts["report"]["color"][0][name]
        return float(np.mean([abs(channels[channel]["value"]) for channel in RGB]))

    return read


def _of_variety(facts: Facts) -> float | None:
    channels = facts["report"]["color"][0]["variety"]
    known = [channels[it]["value"] for it in RGB if channels and channels[it]]
    return float(np.mean(known)) if known else None


def _of_energy(facts: Facts) -> float | None:
    energy = facts["report"]["color"][0]["energy"]
    return None if energy is None else float(energy["value"])


def _of_copies(facts: Facts) -> float | None:
    copies = facts["report"]["copies"]
    return copies[0]["share"] if copies else None


def _of_copied(facts: Facts) -> float | None:
    copies = facts["report"]["copies"]
    return copies[0]["copied"]["share"] if copies else None


def _of_membership(facts: Facts) -> float | None:
    found = facts["report"]["membership"]
    return found["auc"] if found else None


def _of_diversity(facts: Facts) -> float | None:
    vendi = facts["report"]["diversity"][0]["vendi"]
    return vendi["ratio"] if vendi else None


def _of_class(facts: Facts) -> float | None:
    found = facts["report"]["recognition"]
    return found[0]["drawn"]["value"] if found and found[0]["drawn"] else None


def _of_score(regime: str) -> Callable[[Facts], float | None]:
    def read(facts: Facts) -> float | None:
        found = facts["classifier"] and facts["classifier"]["regimes"].get(regime)
        return float(found["scores"]["balanced_accuracy"]["mean"]) if found else None

    return read


def find_gain(facts: Facts) -> tuple[float, float] | None:
    """Return by how much drawn images change a classifier's balanced accuracy, and the error.

    The difference is to `control` where there is one, which takes as many steps; the standard error
    is that by the test images, from the interval.
    """
    regimes = (facts["classifier"] or {"regimes": {}})["regimes"]
    found = regimes.get("mix")
    if not found:
        return None
    known = found["difference_to_control"] or found["difference_to_real"]
    if not known:
        return None
    gap = known["balanced_accuracy"]
    return gap["value"], (gap["high"] - gap["low"]) / 2 / float(stats.norm.ppf(0.975))


def _of_gain(facts: Facts) -> float | None:
    gain = find_gain(facts)
    return gain[0] if gain else None


FIGURES = (
    Measure("frechet", "", "lower", ".1f", lambda facts: _overall(facts)["frechet"]["value"]),
    Measure("kernel", "", "lower", ".4f", _of_kernel),
    Measure("recall", "recall", "higher", ".2f", lambda facts: _overall(facts)["recall"]),
    Measure("vendi", "diversity", "one", ".2f", _of_diversity),
    Measure("class_share", "shows its class", "higher", ".2f", _of_class),
    Measure("color_mean", "color mean gap", "lower", ".4f", _gap("mean")),
    Measure("color_spread", "color spread gap", "lower", ".4f", _gap("spread")),
    Measure("color_energy", "color energy", "lower", ".4f", _of_energy),
    Measure("color_variety", "color variety", "one", ".2f", _of_variety),
    Measure("copies", "near-copies", "lower", ".3f", _of_copies),
    Measure("copied", "training images copied", "lower", ".3f", _of_copied),
    Measure("membership", "membership AUC", None, ".2f", _of_membership),
    Measure("accuracy_real", "accuracy, real", None, ".3f", _of_score("real")),
    Measure("accuracy_mix", "accuracy, mix", "higher", ".3f", _of_score("mix")),
    Measure("gain", "gain by synthetic images", "higher", ".3f", _of_gain),
)
# What the report of all arms of a seed compares on the same test images, with its interval: roots
# of the energy distance in the network's features, and of that of the colors.
PAIRED = ("distance", "color_distance")


def gather_figures(plan: Plan) -> Facts:
    """Read what all units measured, and compare the arms.

    Returns:
        Content of study.json but what the run itself knows: arms, measures, paired, differences.
    """
    units = {(arm.name, seed): _read(plan.folder(arm, seed)) for arm, seed in plan.units}
    first = next(iter(units.values()))["report"]
    titles = {key: first["features"][0][key] for key in ("frechet", "kernel")}
    measures = [
        {"key": it.key, "title": titles.get(it.key) or it.title, "better": it.better}
        for it in FIGURES
        if any(it.read(facts) is not None for facts in units.values())
    ]
    reference = find_reference(plan.arms)
    paired = _read_pairs(plan, reference)
    leak = _share_error([_of_chance(facts) for facts in units.values()])
    return {
        "features": first["features"][0]["title"],
        "reference": reference.name,
        "measures": measures,
        "arms": [_describe_arm(plan, arm, units, leak) for arm in plan.arms],
        "differences": {
            arm.name: _compare(plan, arm, reference, units, paired)
            for arm in plan.arms
            if arm != reference
        },
        "gains": {arm.name: _sum_up_gain(plan, arm, units) for arm in plan.arms},
        "floors": _read_floors(first),
        "demonstration": any(facts["report"]["demonstration"] for facts in units.values()),
        "real": first["sets"][0],
    }


def _read(folder: Path) -> Facts:
    def read(*names: str) -> Any:  # noqa: ANN401 - any JSON
        path = folder.joinpath(*names)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    return {
        "report": read("report", "metrics.json"),
        "classifier": read("classifier", "metrics.json"),
        "run": read("run", "run.json"),
    }


def _of_chance(facts: Facts) -> float | None:
    """Return the p-value of a unit's membership; None where it was not measured."""
    found = facts["report"]["membership"]
    return found["p_value"] if found else None


def _share_error(chances: Sequence[float | None]) -> float:
    """Return the p-value from which a unit's weights are said to tell whom they were trained on.

    One wrong word in 20 studies, whatever the number of units (Bonferroni): each by itself at the
    level of evaluate, a study of 18 would be wrong in one of six. The least p-value there is counts
    always.
    """
    tested = sum(chance is not None for chance in chances)
    return max(min(LEAK, (1 - CONFIDENCE_LEVEL) / max(1, tested)), 1 / (DEALS + 1))


def _describe_arm(
    plan: Plan, arm: Arm, units: Mapping[tuple[str, int], Facts], leak: float
) -> Facts:
    """Put together an arm's settings, its figures by seed with mean and deviation, and its cost."""
    own = [units[arm.name, seed] for seed in plan.seeds]
    each = {it.key: [it.read(facts) for facts in own] for it in FIGURES}
    known = {
        key: [value for value in values if value is not None]
        for key, values in each.items()
        if None not in values
    }
    seconds = [(read_unit(plan, arm, seed) or {"seconds": {}})["seconds"] for seed in plan.seeds]
    timed = dict.fromkeys(name for it in seconds for name in it)
    hldf = (own[0]["run"] or {}).get("hldf")
    return {
        "name": arm.name,
        "title": arm.title,
        **arm.settings(),
        "color_loss": hldf and hldf["loss"],
        "each": known,
        "mean": {key: float(np.mean(values)) for key, values in known.items()},
        "deviation": {
            key: float(np.std(values, ddof=1)) if len(values) > 1 else None
            for key, values in known.items()
        },
        "suspected": [bool(_find_suspicion(facts)) for facts in own],
        "recognized": [(_of_chance(it) or 1) <= leak for it in own],
        "collapsed": [_list_collapsed(facts["report"]) for facts in own],
        "seconds": {
            name: float(np.mean([it[name] for it in seconds if name in it])) for name in timed
        },
    }


def _list_collapsed(report: Facts) -> list[str]:
    """Name what varies less than in real images: in color, and in the features."""
    told = {"color": "colors", "diversity": "diversity"}
    return [
        f"{word}: {', '.join(report[key][0]['collapsed'])}"
        for key, word in told.items()
        if report[key][0]["collapsed"]
    ]


def _find_suspicion(facts: Facts) -> bool:
    """Say whether a unit's report suspects copies: too many near-copies, or too near by chance."""
    report = facts["report"]
    near = _overall(facts)["closeness"]
    return any(item["excess"] for item in report["copies"]) or bool(near and near["suspected"])


def _compare(
    plan: Plan,
    arm: Arm,
    reference: Arm,
    units: Mapping[tuple[str, int], Facts],
    paired: Mapping[tuple[str, int], Facts],
) -> Facts:
    """Compare an arm with the reference in all measures, by the differences of their pairs."""
    found: Facts = {}
    for it in FIGURES:
        pairs = [
            (it.read(units[arm.name, seed]), it.read(units[reference.name, seed]))
            for seed in plan.seeds
        ]
        if it.key == "color_energy" and paired or any(None in pair for pair in pairs):
            continue  # its root stands below, with the error by the test images
        gaps = [_toward(it, one) - _toward(it, two) for one, two in pairs]  # type: ignore[arg-type]
        found["color_distance" if it.key == "color_energy" else it.key] = asdict(contrast(gaps))
    for key in PAIRED if paired else ():
        own = [paired[arm.name, seed] for seed in plan.seeds]
        values, errors = [it[key][0] for it in own], [it[key][1] for it in own]
        found[key] = asdict(contrast(values, errors, own[0]["images"]))
    return found


def _toward(measure: Measure, value: float) -> float:
    """Return what is compared: the distance from 1 where 1 is best, the root of a square."""
    if measure.key == "color_energy":
        return math.copysign(math.sqrt(abs(value)), value)
    return abs(value - 1) if measure.better == "one" else value


def _read_pairs(plan: Plan, reference: Arm) -> dict[tuple[str, int], Facts]:
    """Read the differences between each arm and the reference: value and standard error."""
    found: dict[tuple[str, int], Facts] = {}
    for seed in plan.seeds if len(plan.arms) > 1 else ():
        path = plan.config.out / COMPARED / f"seed-{seed}" / "metrics.json"
        report = json.loads(path.read_text(encoding="utf-8"))
        names = [item["name"] for item in report["sets"][1 : 1 + len(plan.arms)]]
        arms = dict(zip(names, (arm.name for arm in plan.arms), strict=True))
        images = report["sets"][0]["patients"] or report["sets"][0]["n"]
        for pair in report["ranking"].get("pairs", []):
            sides = arms[pair["first"]], arms[pair["second"]]
            if reference.name not in sides:
                continue
            sign = 1 if sides[1] == reference.name else -1
            other = sides[0] if sign == 1 else sides[1]
            found[other, seed] = {
                "distance": _with_error(pair["root"], sign, images),
                "color_distance": _with_error(pair["color"]["root"], sign, images),
                "images": images,
            }
    return found if len(found) == (len(plan.arms) - 1) * len(plan.seeds) else {}


def _with_error(part: Facts, sign: int, images: int) -> tuple[float, float]:
    low, high = part["interval"]
    reach = float(stats.t.ppf((1 + part["level"]) / 2, max(1, images - 1)))
    return sign * part["value"], (high - low) / 2 / reach


def _sum_up_gain(plan: Plan, arm: Arm, units: Mapping[tuple[str, int], Facts]) -> Facts | None:
    gains = [find_gain(units[arm.name, seed]) for seed in plan.seeds]
    known = [gain for gain in gains if gain is not None]
    if len(known) < len(gains):
        return None
    sets = units[arm.name, plan.seeds[0]]["classifier"]["sets"]["test"]
    images = sets["patients"] or sets["images"]
    return asdict(contrast([it[0] for it in known], [it[1] for it in known], images))


def _read_floors(report: Facts) -> dict[str, float]:
    """Read what halves of the real set give, beside which the figures are read."""
    overall = next(item for item in report["comparisons"] if item["label"] is None)
    floor = overall["floor"] or {}
    found = {key: floor[key]["real"] for key in ("frechet", "kernel", "recall") if floor.get(key)}
    color = report["color"][0]
    for name in ("mean", "spread"):
        ends = [color[name][channel]["floor"] for channel in RGB]
        if None not in ends:
            found[f"color_{name}"] = float(np.mean(ends))
    if color["energy"] and color["energy"]["floor"]:
        found["color_energy"] = color["energy"]["floor"][1]
    return {key: value for key, value in found.items() if not math.isnan(value)}


def read_contrast(facts: Mapping[str, Any]) -> Contrast:
    """Read a difference back from study.json."""
    return Contrast(**{**facts, "each": tuple(facts["each"])})


def list_titles(arms: Sequence[Facts]) -> dict[str, str]:
    """Return what tables call each arm."""
    return {arm["name"]: arm["title"] for arm in arms}
