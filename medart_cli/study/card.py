"""The data card of the drawn images, along the seven criteria of the scorecard (Zamzmi 2025)."""

from collections.abc import Mapping, Sequence

from medart_cli.data.numbers import plural
from medart_cli.study.figures import FIGURES, PAIRED, Facts, read_contrast
from medart_cli.study.markdown import (
    bullets,
    escape_markdown,
    grid,
    join_words,
    name_arms,
    todo,
)
from medart_cli.study.measured import USE
from medart_cli.study.trained import list_bases
from medart_cli.study.verdict import word_contrast, word_measure

# Which of the scorecard's criteria a measure belongs to; those that are not named are shown below.
CRITERIA = {
    "congruence": ("frechet", "kernel", "color_mean", "color_spread", "color_energy"),
    "coverage": ("recall", "color_variety", "vendi"),
    "constraint": ("class_share",),
    "compliance": ("copies", "copied", "membership"),
    "use": USE,
}


def fill_card(facts: Facts, runs: Mapping[str, Facts]) -> str:
    """Fill in a data card of the drawn images, along the seven criteria of the scorecard."""
    labels = [escape_markdown(label) for label in facts["real"]["labels"]]
    seeds = plural(len(facts["seeds"]), "seed")
    spread = ", ± the standard deviation between them" if len(facts["seeds"]) > 1 else ""
    parts = [
        "## Data card of the synthetic images",
        "It follows the seven criteria of the scorecard for synthetic medical data [@card]. "
        f"Figures are means over {seeds}{spread}. "
        + todo("keep the arm whose images are shared, and delete the rows of the others"),
        bullets(
            [
                f"Content: {plural(facts['images']['test'], 'image')} of each arm and seed, of "
                f"{plural(len(facts['arms']), 'arm')} and {seeds}; "
                + (f"labels {join_words(labels)}." if labels else "without labels."),
                todo("name and version of the data set, contact, and where it lies"),
                todo("intended use, and uses it must not be put to, such as diagnosis"),
            ]
        ),
        *_fill_congruence(facts),
        *_fill_coverage(facts),
        *_fill_constraint(facts),
        *_fill_completeness(facts),
        *_fill_compliance(facts, runs),
        *_fill_comprehension(),
        *_fill_consistency(facts),
        *_fill_use(facts),
    ]
    return "\n\n".join(parts)


def _show(facts: Facts, keys: Sequence[str]) -> list[str]:
    """Show measures of each arm as a table, and their baseline; nothing where there is none."""
    measures = [item for item in facts["measures"] if item["key"] in keys]
    if not measures:
        return []
    aims = {"lower": " (lower is better)", "higher": " (higher is better)", "one": " (1 is best)"}
    heads = [escape_markdown(it["title"]) + aims.get(it["better"], "") for it in measures]
    rows = [
        [escape_markdown(arm["title"]), *(_word_mean(arm, it["key"]) for it in measures)]
        for arm in facts["arms"]
    ]
    if any(it["key"] in facts["floors"] for it in measures):
        floors = [_word_value(facts["floors"].get(it["key"]), it["key"]) for it in measures]
        rows.append(["baseline, real images", *floors])
    return [grid(["Arm", *heads], rows)]


def _word_value(value: float | None, key: str) -> str:
    form = next((it.form for it in FIGURES if it.key == key), ".3g")
    return "-" if value is None else f"{value:{form}}"


def _word_mean(arm: Facts, key: str) -> str:
    spread = arm["deviation"].get(key)
    end = "" if spread is None else f" ± {_word_value(spread, key)}"
    return _word_value(arm["mean"].get(key), key) + end


def _fill_congruence(facts: Facts) -> list[str]:
    titles = name_arms(facts)
    reference = titles[facts["reference"]]
    lines = [
        f"{titles[name]} less {reference}, {word_measure(key, facts)}: {_word_gap(found[key])}"
        for name, found in facts["differences"].items()
        for key in PAIRED
        if key in found
    ]
    return [
        "### Congruence: are they like real images?",
        *_show(facts, CRITERIA["congruence"]),
        *(["Differences on the same test images, negative where the arm is nearer:", bullets(lines)]
          if lines else []),
        todo("what a domain expert sees that these measures do not"),
    ]  # fmt: skip


def _word_gap(found: Facts) -> str:
    return escape_markdown(word_contrast(read_contrast(found)))


def _fill_coverage(facts: Facts) -> list[str]:
    parts = ["### Coverage: are they as varied as real images?"]
    parts += _show(facts, CRITERIA["coverage"])
    collapsed = [
        f"{escape_markdown(arm['title'])}: the images vary less than real ones in "
        f"{sum(map(bool, arm['collapsed']))} of {plural(len(arm['collapsed']), 'seed')}."
        for arm in facts["arms"]
        if any(arm["collapsed"])
    ]
    parts += [bullets(collapsed)] if collapsed else []
    return [*parts, todo("rare findings and patient groups that are missing or rare")]


def _fill_constraint(facts: Facts) -> list[str]:
    shown = _show(facts, CRITERIA["constraint"])
    return [
        "### Constraint: do they keep to what is anatomically and clinically possible?",
        *(shown or [todo("share of images that show the class of their caption; not measured")]),
        todo("rules of anatomy and imaging that were checked, by whom, and how many images fail"),
    ]


def _fill_completeness(facts: Facts) -> list[str]:
    label = (
        ", and the label that was asked for, which no reader has confirmed"
        if facts["real"]["labels"]
        else "; there are no labels"
    )
    return [
        "### Completeness: is all there that the task needs?",
        "Each image has a row in `metadata.jsonl` with its caption, seed, solver steps, guidance, "
        f"the run that drew it, the training image whose caption it has{label}.",
        todo("fields that the task needs and synthetic images lack, such as age, sex or device"),
    ]


def _fill_compliance(facts: Facts, runs: Mapping[str, Facts]) -> list[str]:
    suspected = [
        f"{escape_markdown(arm['title'])} ({sum(arm['suspected'])} of "
        f"{plural(len(arm['suspected']), 'seed')})"
        for arm in facts["arms"]
        if any(arm["suspected"])
    ]
    lines = [
        "Each image is marked as synthetic, in `metadata.jsonl` and inside the PNG file; no "
        "metadata of a real image was copied into it. `metadata.jsonl` names the training image of "
        "each caption: leave that out where file names tell of a patient.",
        "That no copies are found is no proof of privacy.",
    ]
    if suspected:
        lines.append(f"Copies of real images are suspected: {', '.join(suspected)}.")
    if not any(item["key"] == "membership" for item in facts["measures"]):
        lines.append(todo("whether the weights tell who was trained on; membership not measured"))
    lines += [_word_license(run) for run in list_bases(runs)] or [todo("license of the base")]
    lines += [
        todo("license of the real images, and whether it lets synthetic images be shared"),
        todo("approval of data protection, and the license of this data set"),
    ]
    return [
        "### Compliance: do they keep to privacy, law and standards?",
        *_show(facts, CRITERIA["compliance"]),
        bullets(lines),
    ]


def _word_license(run: Facts) -> str:
    """Say under which license a base is; the demonstration model has medart's own."""
    if run["demonstration"]:
        return "The base is part of medart, and under its license."
    name = escape_markdown(run["base_name"])
    if "license" not in run:
        return todo(f"license of {name}")
    forbids = f"; it forbids {escape_markdown(run['forbids'])}" if run["forbids"] else ""
    return f"License of {name}: {escape_markdown(run['license'])}{forbids}. " + todo("check it")


def _fill_comprehension() -> list[str]:
    return [
        "### Comprehension: can others understand how they were made?",
        "The sections above say how. All settings and versions are in `study.json`, and those of "
        "each command in the `settings.toml` of its folder.",
        todo("known failures and limits, with pictures; a first selection is in pictures.png"),
    ]


def _fill_consistency(facts: Facts) -> list[str]:
    """Show how far the figures of an arm lie apart over seeds."""
    keys = [it["key"] for it in facts["measures"] if it["key"] not in CRITERIA["use"]]
    titles = {it["key"]: escape_markdown(it["title"]) for it in facts["measures"]}
    rows = [
        [escape_markdown(arm["title"]), *(_word_range(arm, key) for key in keys)]
        for arm in facts["arms"]
    ]
    table = [grid(["Lowest to highest seed", *(titles[key] for key in keys)], rows)]
    return [
        "### Consistency: is the quality the same throughout?",
        *(table if len(facts["seeds"]) > 1 and keys else
          [todo("more seeds; one does not tell how stable the figures are")]),
        todo("the same figures by sex, age and what else matters, such as skin type or site"),
    ]  # fmt: skip


def _word_range(arm: Facts, key: str) -> str:
    each = arm["each"].get(key)
    if not each:
        return "-"
    return f"{_word_value(min(each), key)} to {_word_value(max(each), key)}"


def _fill_use(facts: Facts) -> list[str]:
    """Say what the images were good for, and show the measures that no criterion has named."""
    parts = ["### Beyond the seven: use in a task, readers", *_show(facts, CRITERIA["use"])]
    titles = name_arms(facts)
    gains = [
        f"{titles[name]}: {_word_gap(gain)}"
        for name, gain in facts["gains"].items()
        if gain is not None
    ]
    if gains:
        parts += ["Balanced accuracy with synthetic images less without:", bullets(gains)]
    else:
        parts.append(todo("a task that the images were tried in; no classifier was trained"))
    named = {key for keys in CRITERIA.values() for key in keys}
    rest = _show(facts, [it["key"] for it in facts["measures"] if it["key"] not in named])
    parts += ["Other measures:", *rest] if rest else []
    return [*parts, todo("a blinded study with readers; medart reader prepares one")]
