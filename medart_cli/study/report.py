"""The report of a study: study.json, table.csv, .tex and .md, pictures.png and one page."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medart_cli.data.images import fit_image, load_image, save_png, tile_images
from medart_cli.data.manifest import MANIFEST_NAME, read_manifest
from medart_cli.data.output import write_json, write_text
from medart_cli.data.page import (
    DEMONSTRATION_NOTICE,
    FINDING_SIGNS,
    Table,
    embed_image,
    format_inputs,
    render,
)
from medart_cli.data.takeaway import build_latex, build_markdown
from medart_cli.errors import ImageError
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
from medart_cli.study.sets import StudySets, draw_captions
from medart_cli.study.units import Plan
from medart_cli.study.verdict import (
    name_whole,
    open_page,
    tell_verdicts,
    word_caution,
    word_contrast,
    word_measure,
)
from medart_cli.versions import read_versions

STUDY_FORMAT = 1  # of study.json
SHOWN = 10  # captions in the picture
THUMB_SIDE = 96  # pixels of an image in it
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
    picture = draw_picture(plan, sets)
    save_png(out / "pictures.png", picture)
    write_text(out / "report.html", build_study_page(plan, facts, picture))
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


def draw_picture(plan: Plan, sets: StudySets) -> Image.Image:
    """Put real images above those that each arm drew from their captions with the same noise."""
    seed = plan.seeds[0]
    chosen = draw_captions(sets, seed)
    count = min(SHOWN, len(chosen))
    places = np.linspace(0, len(chosen) - 1, count).round().astype(int).tolist()
    tiles = [_load_real(chosen[place].path) for place in places]
    for arm in plan.arms:
        folder = plan.folder(arm, seed) / "images"
        drawn = {int(row.fields["row"]): row.path for row in read_manifest(folder / MANIFEST_NAME)}
        tiles += [_load(drawn[place]) for place in places]
    return tile_images(tiles, columns=count)


def _load_real(path: Path) -> Image.Image:
    """Load a training image; a white one stands for one that --max-failures has let pass."""
    try:
        return _load(path)
    except (ImageError, OSError):
        return Image.new("RGB", (THUMB_SIDE, THUMB_SIDE), "white")


def _load(path: Path) -> Image.Image:
    return fit_image(load_image(path), THUMB_SIDE)


def build_study_page(plan: Plan, facts: Facts, picture: Image.Image) -> str:
    """Make the page: the verdicts, the pictures, the tables, the cost, the commands."""
    names = [arm.title for arm in plan.arms]
    return render(
        "study/page.html.jinja",
        notices=[DEMONSTRATION_NOTICE] if facts["demonstration"] else [],
        opening=open_page(facts),
        verdicts=[
            [
                it["question"],
                f"{FINDING_SIGNS[it['mark']]} {it['answer']}",
                it["figures"],
                it["needed"],
            ]
            for it in facts["verdicts"]
        ],
        caution=word_caution(facts["verdicts"]),
        picture=embed_image(
            picture,
            f"Rows from the top: training images whose captions are drawn; {'; '.join(names)}. A "
            f"column is one caption and, below the first row, one noise; seed {plan.seeds[0]}.",
        ),
        means=turn(build_means(facts)),
        differences=turn(build_differences(facts)) if facts["differences"] else None,
        gains=[
            [list_titles(facts["arms"])[name], word_contrast(read_contrast(gain))]
            for name, gain in facts["gains"].items()
            if gain is not None
        ],
        images=facts["images"],
        seeds=len(plan.seeds),
        features=facts["features"],
        reference=find_reference(plan.arms).title,
        whole=" and ".join(name_whole(facts)),
        collapsed=_list_collapsed(facts),
        costs=_list_costs(facts),
        inputs=format_inputs(facts["inputs"]),
        settings=[[key, str(it)] for key, it in (facts["settings"] | facts["versions"]).items()],
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
