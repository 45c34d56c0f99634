"""The report page of `medart evaluate`: tables, plots and pictures in one self-contained file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from medart_cli.data.charts import save_figure
from medart_cli.data.images import save_png
from medart_cli.data.names import shorten_names
from medart_cli.data.numbers import plural, write_number
from medart_cli.data.output import write_text
from medart_cli.data.page import (
    DEMONSTRATION_NOTICE,
    Picture,
    Table,
    embed_image,
    format_inputs,
    format_settings,
    render,
)
from medart_cli.data.takeaway import write_tables
from medart_cli.evaluate.answers import MEANING, answer_ranking, answer_sets, word_compared
from medart_cli.evaluate.captions import show_captions
from medart_cli.evaluate.colors import COLLAPSED, tell_gaps, tell_variety
from medart_cli.evaluate.copies import SEEN_THROUGH, Pairs, tell_copied, tell_rate
from medart_cli.evaluate.diversity import show_diversity
from medart_cli.evaluate.membership import tell_membership
from medart_cli.evaluate.pictures import name_roles, show_labels, show_pairs
from medart_cli.evaluate.recognition import show_recognition
from medart_cli.evaluate.region import PART_ROWS, REGION_NAME, list_parts, tell_parts
from medart_cli.evaluate.sets import ImageSet
from medart_cli.evaluate.shortfalls import show_subgroups, tell_shortfalls
from medart_cli.evaluate.verdict import (
    tell_closeness,
    tell_contents,
    tell_patients,
    tell_ranking,
    tell_recall,
    with_sign,
)
from medart_cli.metrics.color import CHANNELS, GAP_MEASURES
from medart_cli.metrics.comparison import COVERAGES, STRAIGHT_FROM, UNKNOWN, count_units
from medart_cli.metrics.diversity import COLLAPSED_BELOW

PLOT_STYLES = ("-", "--", ":", "-.")  # beside the colors, for those who do not tell them apart
PLOT_COLORS = ("#1b1f24", "#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989")


def distance_names(features: str) -> dict[str, str]:
    """Name the distances of a feature space: only Inception's are called FID and KID."""
    if features == "inception":
        return {"title": "FID and KID (Inception)", "frechet": "FID", "kernel": "KID"}
    short = Path(features).name
    title = f"Distances in the features of {short} (not FID: only Inception's is)"
    return {"title": title, "frechet": "Frechet distance", "kernel": "kernel distance"}


def head_comparison(network: dict[str, Any]) -> list[str]:
    """Head the columns of `format_comparison`."""
    return [
        "Synthetic set: label",
        "n real",
        "n synthetic",
        f"{network['frechet'].split()[0]} [95%]",
        "at infinite n",
        f"{network['kernel'].split()[0]} x 1000",
        *COVERAGES,
    ]


def format_comparison(item: dict[str, Any]) -> list[str]:
    """Write one comparison, of all images that there are, as the cells of a table row."""
    frechet = item["frechet"]
    return [
        name_comparison(item) + _mark_close(item),
        str(item["n_real"]),
        str(item["n_synthetic"]),
        _with_interval(frechet["value"], frechet["interval"], ".3g"),
        _extrapolated(item) if frechet["infinite_n"] else "-",
        _with_error(item["kernel"]),
        *("-" if item[key] is None else f"{item[key]:.2f}" for key in COVERAGES),
    ]


def head_floor(network: dict[str, Any]) -> list[str]:
    """Head the columns of `format_floor`."""
    short = network["frechet"].split()[0], network["kernel"].split()[0]
    return ["At equal n, {halves}", "n", short[0], f"{short[1]} x 1000", *COVERAGES]


def format_floor(item: dict[str, Any]) -> list[str]:
    """Write each measure at the n of halves of the real set, and what these give, as cells."""
    floor = item["floor"] or {}
    forms = {"frechet": (1, ".3g"), "kernel": (1e3, ".2g")} | dict.fromkeys(COVERAGES, (1, ".2f"))
    return [
        name_comparison(item) + _mark_close(item),
        str(floor.get("n", "-")),
        *(_beside_halves(floor.get(name), *form) for name, form in forms.items()),
    ]


def _beside_halves(measure: dict[str, float] | None, scale: float, form: str) -> str:
    if measure is None:
        return "-"
    names = ("synthetic", "real_lowest", "real_highest")
    value, low, high = (write_number(scale * measure[name], form) for name in names)
    return f"{value} {{{low}, {high}}}"


def _mark_close(item: dict[str, Any]) -> str:
    return " !" if item["closeness"] and item["closeness"]["suspected"] else ""


def _extrapolated(item: dict[str, Any]) -> str:
    """Write the value at infinite n, with a mark where there are too few images to trust it."""
    infinite = item["frechet"]["infinite_n"]
    if mark := _mark_close(item):
        return f"{write_number(infinite['value'])}{mark}"  # as a rule below zero: it means nothing
    few = count_units(item) <= STRAIGHT_FROM * item["width"]
    value, error = write_number(infinite["value"]), write_number(infinite["standard_error"], ".2g")
    return f"{'< ' if few else ''}{value} ± {error}"


def name_comparison(item: dict[str, Any]) -> str:
    """Name a comparison: its set, and its label where it is of one."""
    return str(item["set"]) if item["label"] is None else f"{item['set']}: {item['label']}"


def head_short(network: dict[str, Any]) -> list[str]:
    """Head the columns of `format_short`; they fit a terminal of 80."""
    short = network["frechet"].split()[0], network["kernel"].split()[0]
    return ["Set: label", "n", f"{short[0]} [95%]", "half n: syn, real", f"{short[1]} x 1000"]


def format_short(item: dict[str, Any]) -> list[str]:
    """Write the core of one comparison as the cells of a row on a terminal."""
    floor, kernel = item["floor"], item["kernel"]
    return [
        name_comparison(item) + _mark_close(item),
        f"{item['n_synthetic']}/{item['n_real']}",
        _with_interval(item["frechet"]["value"], item["frechet"]["interval"], ".3g"),
        ", ".join(write_number(floor["frechet"][it]) for it in ("synthetic", "real"))
        if floor
        else "-",
        _with_error(kernel),
    ]


def _with_error(kernel: dict[str, Any] | None) -> str:
    if kernel is None:
        return "-"
    if kernel["standard_error"] is None:
        if kernel["by_patient"] is None:
            return write_number(1e3 * kernel["value"])
        return f"{_with_error(kernel['by_patient'])} by patient"
    value, error = 1e3 * kernel["value"], 1e3 * kernel["standard_error"]
    return f"{value:.0f} ± {error:.0f}" if abs(value) >= 100 else f"{value:.2g} ± {error:.2g}"


def _with_interval(value: float, interval: list[float] | None, form: str = ".4g") -> str:
    if interval is None:
        return write_number(value, form)
    low, high = (write_number(end, form) for end in interval)
    return f"{write_number(value, form)} [{low}, {high}]"


def write_page(
    out: Path,
    facts: dict[str, Any],
    sets: Sequence[ImageSet],
    pairs: list[Pairs],
    histograms: dict[str, npt.NDArray[np.float64]],
    *,
    trained: ImageSet | None = None,
) -> None:
    """Write report.html, the plots and the pictures, and the tables.

    Args:
        out: The report folder.
        facts: The content of metrics.json.
        sets: The real set and the synthetic ones.
        pairs: Near-copies of each synthetic set; empty where none were looked for.
        histograms: (4, 256) of each set, by name.
        trained: The training images, where they are given.
    """
    grids, more_labels, sheet = show_labels(sets, trained)
    if sheet is not None:
        save_png(out / "pictures.png", sheet)
    names = name_roles(sets)
    parts = {
        "networks": _show_distances(out, facts),
        "colors": [
            _show_colors(item) | {"parts": _show_parts(list_parts(facts, item["set"]))}
            for item in facts["color"]
        ],
        "diversity": [show_diversity(item) for item in facts["diversity"]],
        "recognition": [show_recognition(item) for item in facts["recognition"]],
        "retelling": [show_captions(item) for item in facts["retelling"]],
        "ranking": _show_ranking(facts["ranking"]),
        "subgroups": show_subgroups(facts["subgroups"], facts["features"][0]),
        "membership": _show_membership(facts["membership"]),
    }
    inputs = format_inputs(facts["inputs"])
    write_tables(out, name_tables(parts) | {"inputs": inputs})
    counts = {item["name"]: item["n"] for item in facts["sets"]}
    text = render(
        "evaluate/page.html.jinja",
        notice=DEMONSTRATION_NOTICE if facts["demonstration"] else None,
        compared=word_compared(facts),
        ranked=answer_ranking(facts),
        answered=answer_sets(facts),
        meaning=MEANING,
        findings=_introduce(facts),
        collapsed=COLLAPSED,
        region=_show_region(out, facts),
        histograms=_place_plot(
            draw_histograms(
                {f"{names[it]}, n = {counts[it]}": shares for it, shares in histograms.items()}
            ),
            out / "colors.png",
            "How bright the pixels of each set are: all pixels of all its images.",
            f"Chart: the distributions of {', '.join(CHANNELS)} in {', '.join(names.values())}",
        ),
        collapsed_below=COLLAPSED_BELOW,
        copies=[_show_copies(*found) for found in zip(facts["copies"], pairs, strict=True)],
        looked_for=SEEN_THROUGH,
        grids=grids,
        more_labels=more_labels,
        inputs=inputs,
        settings=format_settings(facts["settings"], facts["versions"]),
        **parts,
    )
    write_text(out / "report.html", text)


def name_tables(parts: dict[str, Any]) -> dict[str, Table]:
    """Name the tables of the page as files; networks, sets and subgroups are numbered in order.

    Args:
        parts: What the page shows, by the name in its template.
    """
    tables: dict[str, Table] = {}
    for number, network in enumerate(parts["networks"], start=1):
        tables[f"distances-{number}"] = network["comparisons"]
        if network["has_floor"]:
            tables[f"halves-{number}"] = network["floor"]
    for number, color in enumerate(parts["colors"], start=1):
        tables[f"colors-{number}"] = color["gaps"]
        tables[f"variety-{number}"] = color["varieties"]
        if color["parts"]:
            tables[f"region-{number}"] = color["parts"]["gaps"]
            tables[f"region-variety-{number}"] = color["parts"]["varieties"]
    for name in ("diversity", "retelling"):
        tables |= {f"{name}-{n}": it["table"] for n, it in enumerate(parts[name], start=1)}
    return tables | _name_parts(parts)


def _name_parts(parts: dict[str, Any]) -> dict[str, Table]:
    """Name the tables of what not every report has."""
    tables: dict[str, Table] = {}
    for number, item in enumerate(parts["recognition"], start=1):
        tables[f"recognition-{number}"] = item["shares"]
        sides = zip(("drawn", "real"), item["confusions"], strict=True)
        tables |= {f"recognition-{number}-{side}": counts for side, (_, counts) in sides}
    for number, item in enumerate(parts["subgroups"], start=1):
        tables[f"subgroups-{number}"] = item["reach"]
        tables |= {f"subgroups-{number}-drawn": item["drawn"]} if item["drawn"] else {}
    if parts["ranking"]:
        tables["ranking"] = parts["ranking"]["pairs"]
        labels = parts["ranking"]["labels"]
        tables |= {"ranking-labels": labels} if labels else {}
    if parts["membership"]:
        tables["membership"] = parts["membership"]["losses"]
    return tables


def _introduce(facts: dict[str, Any]) -> list[str]:
    """Say in a few sentences what was found."""
    lines, primary = [], facts["features"][0]
    for item in facts["comparisons"]:
        if item["label"] is None and item["features"] == primary["name"]:
            lines.append(_sum_up(item, primary["frechet"]))
    lines += tell_patients(facts)
    for item in facts["color"]:
        lines.append(f"{item['set']}: {tell_gaps(item)}.")
        lines.append(f"{item['set']}: {tell_variety(item)}.")
        lines += [f"{line}." for line in tell_parts(facts, item["set"])]
    lines += [*tell_recall(facts), *tell_closeness(facts)]
    lines += [f"{line}." for line in tell_contents(facts)]
    for item in facts["copies"]:
        lines.append(f"{item['set']}: {_count_copies(item)}")
        lines.append(f"{item['set']}: {tell_copied(item)}.")
    lines += tell_membership(facts["membership"])
    if facts["ranking"]:
        lines += tell_ranking(facts["ranking"])
    lines += tell_shortfalls(facts["subgroups"])
    for name, reasons in facts["unmatched_labels"].items():
        lines.append(f"{name}: not compared by label: {'; '.join(reasons)}.")
    if facts["failures"]:
        lines.append(f"{len(facts['failures'])} files could not be read; metrics.json names them.")
    return lines


def _show_ranking(ranking: dict[str, Any] | None) -> dict[str, Any] | None:
    """Write the differences of all pairs of sets as tables, where there are any."""
    if not ranking or "pairs" not in ranking:
        return None
    rows, labels = [], []
    for pair in ranking["pairs"]:
        name = f"{pair['first']} less {pair['second']}"
        gaps = [with_sign(pair["color"][key]) for key in (*GAP_MEASURES, "energy")]
        rows.append([name, with_sign(pair["distance"]), with_sign(pair["by_label"]), *gaps])
        labels += [[f"{name}: {key}", with_sign(it)] for key, it in pair["labels"].items()]
    head = ["Difference", "distance", "mean over labels"]
    head += [*(f"color {key}" for key in GAP_MEASURES), "color energy"]
    about = {key: ranking[key] for key in ("reference", "n_reference")}
    by_label = (["Difference by label", "distance"], labels) if labels else None
    return about | {"pairs": (head, rows), "labels": by_label}


def _sum_up(item: dict[str, Any], name: str) -> str:
    value = _with_interval(item["frechet"]["value"], item["frechet"]["interval"])
    text = f"{item['set']}: {name} {value} for {item['n_synthetic']} synthetic against "
    text += f"{item['n_real']} real images"
    if floor := item["floor"]:
        text += (
            f"; at n = {floor['n']} it is {floor['frechet']['synthetic']:.4g}, where halves of the "
            f"real set give {floor['frechet']['real']:.4g}"
        )
    if _mark_close(item):
        text += "; closer than sets from the same source: a sign of copies, not of quality"
    return text + "."


def _count_copies(item: dict[str, Any]) -> str:
    low, high = (100 * end for end in item["interval"])
    found = plural(item["copies"], "near-copy", "near-copies")
    return (
        f"{found} among {item['n']} images ({100 * item['share']:.1f}%, 95% interval {low:.1f} to "
        f"{high:.1f}%), {item['identical_files']} of them byte-identical; {tell_rate(item)}"
        + ("; more than by chance: a sign of copying." if item["excess"] else ".")
    )


def _show_distances(out: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Show what was measured in each feature space: tables, a plot and notes."""
    shown = []
    for number, network in enumerate(facts["features"], start=1):
        chosen = [it for it in facts["comparisons"] if it["features"] == network["name"]]
        plot = _place_plot(
            draw_distances(chosen, network["frechet"]),
            out / f"distances-{number}.png",
            "Full dot and bar: all images, with the 95% interval. Open dot: the synthetic set "
            "subsampled to the n of halves of the real set (gray, all splits), the baseline; "
            "an open dot in the gray is as near as real images are to each other.",
            "Chart: "
            + ", ".join(
                f"{name_comparison(it)} {write_number(it['frechet']['value'])}" for it in chosen
            ),
        )
        overall = [item for item in chosen if item["label"] is None]
        notes = dict.fromkeys(
            f"{it['set']}: {text}" for it in overall for text in it["notes"] if text != UNKNOWN
        )
        shown.append(
            {
                "title": network["title"],
                "comparisons": (head_comparison(network), [format_comparison(it) for it in chosen]),
                "has_floor": any(item["floor"] for item in chosen),
                "floor": (head_floor(network), [format_floor(item) for item in chosen]),
                "plot": plot,
                "notes": list(notes),
            }
        )
    return shown


def draw_distances(comparisons: list[dict[str, Any]], name: str) -> Figure:
    """Plot each comparison's Frechet distance with its interval, and the floor in gray."""
    figure = Figure(figsize=(8, 0.9 + 0.32 * len(comparisons)), layout="constrained")
    axes = figure.add_subplot()
    for row, item in enumerate(comparisons):
        frechet, floor = item["frechet"], item["floor"]
        if floor:
            low, high = floor["frechet"]["real_lowest"], floor["frechet"]["real_highest"]
            axes.plot([low, high], [row, row], color="#afb8c1", linewidth=7, zorder=1)
            here = floor["frechet"]["synthetic"]
            axes.plot(here, row, "o", color="#57606a", markerfacecolor="white", zorder=2)
        color = PLOT_COLORS[0 if item["label"] is None else 1]
        if frechet["interval"]:
            axes.plot(frechet["interval"], [row, row], color=color, linewidth=1.5, zorder=2)
        axes.plot(frechet["value"], row, "o", color=color, markersize=5, zorder=3)
    names = shorten_names([name_comparison(it) for it in comparisons])
    counts = [f"n = {it['n_synthetic']} synthetic, {it['n_real']} real" for it in comparisons]
    rows = [f"{name}, {count}" for name, count in zip(names, counts, strict=True)]
    axes.set_yticks(range(len(comparisons)), rows)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set(
        title="How far synthetic images are from real ones",
        xlabel=f"{name} (no unit; 0 is no difference)",
    )
    axes.grid(axis="x", alpha=0.3)
    return figure


def _place_plot(figure: Figure, path: Path, caption: str, instead: str) -> Picture:
    """Save a plot beside the page, and put it into the page as well."""
    save_figure(figure, path, dpi=130)
    with Image.open(path) as plot:
        return embed_image(plot, caption, instead=instead)


def _show_colors(item: dict[str, Any]) -> dict[str, Any]:
    """Write how a set's colors differ from the real ones as tables."""
    rows = []
    for channel in CHANNELS:
        cells = [channel]
        for name in ("mean", "spread", "histogram"):
            measure = item[name][channel]
            mark = " *" if measure["beyond_floor"] else ""
            cells.append(_with_interval(measure["value"], measure["interval"], ".3f") + mark)
            cells.append("-" if measure["floor"] is None else f"{measure['floor']:.3f}")
        rows.append(cells)
    chance = "by chance"
    head = ["Channel", "mean gap", chance, "spread gap", chance, "histogram", chance]
    return {
        "name": item["set"],
        "n": item["n"],
        "gaps": (head, rows),
        "varieties": format_varieties(item),
    }


def _show_parts(parts: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Table] | None:
    """Write a set's colors in the masked region and around it as tables, one below the other."""
    if not parts:
        return None
    shown = [(PART_ROWS[part], _show_colors(item)) for part, item in parts]
    heads = {"gaps": "Masked region", "varieties": "Variety, masked region"}
    return {
        name: (
            [head, *shown[0][1][name][0][1:]],
            [[f"{place}: {row[0]}", *row[1:]] for place, it in shown for row in it[name][1]],
        )
        for name, head in heads.items()
    }


def _show_region(out: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Show where the masked region is, and how clearly it is apart; None without masks."""
    if "region" not in facts:
        return None
    found, real = facts["region"], facts["sets"][0]
    marked = {name: f"{100 * part['marked']:.0f} %" for name, part in found["parts"].items()}
    caption = (
        f"The mean of {found['masks']} masks of the {real['n']} real images: white is marked in "
        "all of them, black in none."
    )
    with Image.open(out / REGION_NAME) as picture:
        return {"picture": embed_image(picture, caption), "facts": found, "marked": marked}


def format_varieties(item: dict[str, Any]) -> Table:
    """Write how much a set's images vary in color as a table: all of them, then each label."""
    head = ["Variety", *CHANNELS, "energy x 1000"]
    rows = []
    for label, found in [("all", item), *item["labels"].items()]:
        if found["variety"] is None:
            rows.append([label, *["-"] * (len(CHANNELS) + 1)])
            continue
        mark = " *" if found["variety_collapsed"] else ""
        cells = [_with_halves(found["variety"][channel]) for channel in CHANNELS]
        energy = {
            "value": 1e3 * found["energy"]["value"],
            "interval": None,
            "floor": found["energy"]["floor"] and [1e3 * end for end in found["energy"]["floor"]],
        }
        rows.append([label + mark, *cells, _with_halves(energy, ".1f")])
    return head, rows


def _with_halves(measure: dict[str, Any] | None, form: str = ".2f") -> str:
    if measure is None:
        return "-"
    text = _with_interval(measure["value"], measure["interval"], form)
    floor = measure["floor"]
    return text + (f" {{{floor[0]:{form}}, {floor[1]:{form}}}}" if floor else "")


def draw_histograms(histograms: dict[str, npt.NDArray[np.float64]]) -> Figure:
    """Plot the color histograms of all sets, a panel for each channel."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    levels = (np.arange(64) + 0.5) / 64
    short = shorten_names([*histograms])
    for place, channel in enumerate(CHANNELS):
        axes = figure.add_subplot(2, 2, place + 1)
        for number, (name, shares) in enumerate(zip(short, histograms.values(), strict=True)):
            height = shares[place].reshape(64, 4).sum(axis=1) * 64  # a density
            color = PLOT_COLORS[number % len(PLOT_COLORS)]
            style = PLOT_STYLES[number % len(PLOT_STYLES)]
            axes.plot(levels, height, color=color, linestyle=style, label=name, linewidth=1.3)
        unit = "share of the largest" if channel in CHANNELS[3:] else "0 black, 1 full"
        axes.set(title=channel, xlabel=f"{channel} ({unit})", ylabel="density of pixels")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _show_copies(item: dict[str, Any], pairs: Pairs) -> dict[str, Any]:
    """Show the pairs of a set that are most alike, and say how many are copies."""
    return {
        "name": item["set"],
        "counted": _count_copies(item),
        "copied": tell_copied(item),
        "real_twins": item["real_twins"],
        "nearest": show_pairs(pairs),
    }


def _show_membership(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Write the losses of both sides as a table, and what they say."""
    if found is None:
        return None
    head = ["Side", "set", "images", "patients", "loss of the base", "of the run"]
    rows = []
    for side in ("training", "heldout"):
        part, losses = found[side], (found["losses"] or {}).get(side)
        means = [f"{losses[key]:.4f}" if losses else "-" for key in ("base", "run")]
        patients = "unknown" if part["patients"] is None else str(part["patients"])
        rows.append([side, part["set"], str(part["n"]), patients, *means])
    lines = tell_membership(found)
    return {"losses": (head, rows), "lines": lines, "captions": found["captions"]}
