"""The report of a study: study.json, table.csv, .tex and .md, pictures.png and one page."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from medart_cli.data.images import save_png
from medart_cli.data.output import write_json, write_text
from medart_cli.data.page import (
    DEMONSTRATION_NOTICE,
    FINDING_SIGNS,
    Strip,
    Table,
    format_inputs,
    format_settings,
    render,
)
from medart_cli.data.takeaway import build_latex, build_markdown, write_tables
from medart_cli.log import log, table
from medart_cli.study.arms import find_reference
from medart_cli.study.contrasts import Contrast
from medart_cli.study.figures import (
    FIGURES,
    PAIRED,
    Facts,
    gather_figures,
    list_titles,
    read_contrast,
)
from medart_cli.study.methods import write_methods
from medart_cli.study.pictures import show_arms
from medart_cli.study.sets import StudySets
from medart_cli.study.units import Plan
from medart_cli.study.verdict import (
    name_whole,
    open_page,
    tell_verdicts,
    word_caution,
    word_contrast,
    word_measure,
    word_study,
)
from medart_cli.versions import read_versions

STUDY_FORMAT = 1  # of study.json
NARROW = ("kernel", "color_energy", "color_variety", "accuracy_mix")  # what a terminal shows
FORMS = {it.key: it.form for it in FIGURES} | dict.fromkeys(PAIRED, ".4f")


def write_study(plan: Plan, sets: StudySets) -> Facts:
    """Gather the figures and write all files of the report.

    Returns:
        Content of study.json.
    """
    out = plan.config.out
    facts: Facts = {"format": STUDY_FORMAT, "seeds": plan.seeds, **gather_figures(plan)}
    facts["verdicts"] = tell_verdicts(facts)
    facts |= {
        "inputs": sets.inputs,
        "images": {"train": len(sets.drawn_from), "test": len(sets.test)},
        "settings": plan.config.settings(),
        "versions": read_versions(),
    }
    write_json(out / "study.json", facts)
    write_text(out / "table.csv", list_figures(facts))
    means = build_means(facts)
    told = f"{len(facts['seeds'])} seeds, mean and standard deviation; {facts['features']}"
    write_text(out / "table.tex", build_latex(means, told))
    write_text(out / "table.md", build_markdown(means))
    write_text(out / "methods.md", write_methods(facts, read_runs(plan)))
    strips, sheet = show_arms(plan, sets)
    save_png(out / "pictures.png", sheet)
    parts = build_parts(facts)
    write_tables(out, {name: shown for name, shown in parts.items() if shown})
    write_text(out / "report.html", build_study_page(plan, facts, strips, parts))
    print_answers(facts)
    return facts


def read_runs(plan: Plan) -> dict[str, Facts]:
    """Read the run.json of each arm's first seed, by the arm's name."""
    paths = {arm.name: plan.folder(arm, plan.seeds[0]) / "run" / "run.json" for arm in plan.arms}
    return {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in paths.items()
        if path.is_file()
    }


def print_answers(facts: Facts) -> None:
    """Print the table and the verdicts on standard error."""
    title = f"mean over {len(facts['seeds'])} seeds ± deviation; all figures: report.html"
    table(title, *build_means(facts, NARROW))
    for item in facts["verdicts"]:
        needed = f"; {item['needed']}" if item["needed"] else ""
        log.info("%s %s (%s)%s", item["question"], item["answer"], item["figures"], needed)


def build_means(facts: Facts, keys: Collection[str] | None = None) -> Table:
    """Write the figures of each arm as a table: mean over the seeds, and their deviation.

    Args:
        facts: Content of study.json.
        keys: Measures to show; all by default.
    """
    measures = [it for it in facts["measures"] if keys is None or it["key"] in keys]
    rows = []
    for arm in facts["arms"]:
        cells = [
            _with_deviation(arm["mean"].get(it["key"]), arm["deviation"].get(it["key"]), it["key"])
            for it in measures
        ]
        rows.append([arm["title"], *cells])
    halves = [
        f"{facts['floors'][it['key']]:{FORMS[it['key']]}}" if it["key"] in facts["floors"] else "-"
        for it in measures
    ]
    rows.append(["baseline, real images", *halves])
    marks = {"lower": " (lower)", "higher": " (higher)", "one": " (1)", None: ""}
    return ["Arm", *(it["title"] + marks[it["better"]] for it in measures)], rows


def _with_deviation(mean: float | None, deviation: float | None, key: str) -> str:
    if mean is None:
        return "-"
    return f"{mean:{FORMS[key]}}" + ("" if deviation is None else f" ± {deviation:{FORMS[key]}}")


def build_differences(facts: Facts) -> Table:
    """Write each arm's differences to the reference, with intervals; * where zero is left out."""
    titles = list_titles(facts["arms"])
    keys = list(dict.fromkeys(key for found in facts["differences"].values() for key in found))
    rows = [
        [titles[name], *(_with_interval(found, key) for key in keys)]
        for name, found in facts["differences"].items()
    ]
    return [f"Less {titles[facts['reference']]}", *(word_measure(key, facts) for key in keys)], rows


def turn(shown: Table) -> Table:
    """Turn a table: its columns become rows; a page has room for arms side by side."""
    columns, rows = shown
    turned = list(zip(columns, *rows, strict=True))
    return turned[0], turned[1:]


def _with_interval(found: Mapping[str, Any], key: str) -> str:
    if key not in found:
        return "-"
    one, form = read_contrast(found[key]), FORMS[key]
    if one.low is None or one.high is None:
        return f"{one.value:+{form}}"
    return f"{one.value:+{form}} [{one.low:+{form}}, {one.high:+{form}}]{' *' * bool(one.sign)}"


def _list_cells(facts: Facts) -> Iterator[dict[str, Any]]:
    """List the figures of all arms as rows of a long table."""
    seeds = facts["seeds"]
    for arm in facts["arms"]:
        for key in (*(item["key"] for item in facts["measures"]), *PAIRED):
            known = facts["differences"].get(arm["name"], {}).get(key)
            if key not in arm["each"] and not known:
                continue
            one: Contrast | None = read_contrast(known) if known else None
            each = arm["each"].get(key, [None] * len(seeds))  # roots are known as differences alone
            yield {
                "arm": arm["name"],
                "measure": key,
                "mean": arm["mean"].get(key),
                "deviation": arm["deviation"].get(key),
                **{f"seed_{seed}": value for seed, value in zip(seeds, each, strict=True)},
                "difference": one.value if one else None,
                "low": one.low if one else None,
                "high": one.high if one else None,
            }


def list_figures(facts: Facts) -> str:
    """Write a row for each arm and measure: mean, deviation, seeds, difference with interval."""
    rows = list(_list_cells(facts))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def build_parts(facts: Facts) -> dict[str, Table | None]:
    """Build the tables of the page, by the names that they have there and as files."""
    titles = list_titles(facts["arms"])
    answers = [
        [it["question"], f"{FINDING_SIGNS[it['mark']]} {it['answer']}", it["figures"], it["needed"]]
        for it in facts["verdicts"]
    ]
    gains = [
        [titles[name], word_contrast(read_contrast(gain))]
        for name, gain in facts["gains"].items()
        if gain is not None
    ]
    head = ["Drawn after", "Balanced accuracy with them less without"]
    return {
        "answers": (["Question", "Answer", "Figures", "What would settle it"], answers),
        "means": turn(build_means(facts)),
        "differences": turn(build_differences(facts)) if facts["differences"] else None,
        "gains": (head, gains) if gains else None,
        "costs": _list_costs(facts),
        "inputs": format_inputs(facts["inputs"]),
    }


def build_study_page(
    plan: Plan, facts: Facts, strips: list[Strip], parts: Mapping[str, Table | None]
) -> str:
    """Make the page: the verdicts, the pictures, the tables, the cost, the commands."""
    return render(
        "study/page.html.jinja",
        notice=DEMONSTRATION_NOTICE if facts["demonstration"] else None,
        compared=word_study(facts),
        opening_answers=open_page(facts),
        answers_table=parts["answers"],
        caution=word_caution(facts["verdicts"]),
        strips=strips,
        seed=plan.seeds[0],
        features=facts["features"],
        reference=find_reference(plan.arms).title,
        whole=" and ".join(name_whole(facts)),
        collapsed=_list_collapsed(facts),
        settings=format_settings(facts["settings"], facts["versions"]),
        **{name: shown for name, shown in parts.items() if name != "answers"},
    )


def _list_collapsed(facts: Facts) -> list[str]:
    return [
        f"{arm['title']}: the images vary less than real ones in "
        f"{sum(map(bool, arm['collapsed']))} of {len(arm['collapsed'])} seeds "
        f"({'; '.join(sorted({name for names in arm['collapsed'] for name in names}))})"
        for arm in facts["arms"]
        if any(arm["collapsed"])
    ]


def _list_costs(facts: Facts) -> Table:
    commands = ["finetune", "sample", "evaluate", "classify"]
    rows = [
        [arm["title"], *(f"{arm['seconds'][it]:.0f}" if it in arm["seconds"] else "-"
                         for it in commands)]
        for arm in facts["arms"]
    ]  # fmt: skip
    return ["Seconds", *commands], rows
