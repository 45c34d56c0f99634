"""The report page of `medart evaluate`: tables, plots and pictures in one self-contained file."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from medart_cli.data.charts import save_figure
from medart_cli.data.images import fit_image, load_image, tile_images
from medart_cli.data.output import write_text
from medart_cli.data.report import (
    DEMONSTRATION,
    build_figure,
    build_inputs,
    build_page,
    build_table,
)
from medart_cli.evaluate.colors import COLLAPSED, tell_gaps, tell_variety
from medart_cli.evaluate.copies import SEEN_THROUGH, Pairs, tell_rate
from medart_cli.evaluate.sets import ImageSet
from medart_cli.evaluate.verdict import (
    tell_closeness,
    tell_patients,
    tell_ranking,
    tell_recall,
    with_sign,
)
from medart_cli.metrics.color import CHANNELS, MEASURES
from medart_cli.metrics.comparison import COVERAGES, STRAIGHT_FROM, UNKNOWN, count_units

THUMB = 112  # pixels of a picture in a grid
GRID_COLUMNS = 8
MOST_LABELS = 12
MOST_PAIRS = 12
ABOUT_FLOOR = (
    "Each measure with the synthetic set cut to the n of halves of the real set that share no "
    "patient; in braces the lowest and highest of these halves. A good generator's lies within. "
    "< marks a value at infinite n that is an upper bound; ! a set that is closer to the real one "
    "than sets of one source are to each other, a sign of copies."
)
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
        "Set: label",
        "n real",
        "n syn",
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
    value, low, high = (f"{scale * measure[name]:{form}}" for name in names)
    return f"{value} {{{low}, {high}}}"


def _mark_close(item: dict[str, Any]) -> str:
    return " !" if item["closeness"] and item["closeness"]["suspected"] else ""


def _extrapolated(item: dict[str, Any]) -> str:
    """Write the value at infinite n, with a mark where there are too few images to trust it."""
    infinite = item["frechet"]["infinite_n"]
    if mark := _mark_close(item):
        return f"{infinite['value']:.3g}{mark}"  # as a rule below zero: it means nothing
    few = count_units(item) <= STRAIGHT_FROM * item["width"]
    return f"{'< ' if few else ''}{infinite['value']:.3g} ± {infinite['standard_error']:.2g}"


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
        f"{floor['frechet']['synthetic']:.3g}, {floor['frechet']['real']:.3g}" if floor else "-",
        _with_error(kernel),
    ]


def _with_error(kernel: dict[str, Any] | None) -> str:
    if kernel is None:
        return "-"
    if kernel["standard_error"] is None:
        if kernel["by_patient"] is None:
            return f"{1e3 * kernel['value']:.3g}"
        return f"{_with_error(kernel['by_patient'])} by patient"
    value, error = 1e3 * kernel["value"], 1e3 * kernel["standard_error"]
    return f"{value:.0f} ± {error:.0f}" if abs(value) >= 100 else f"{value:.2g} ± {error:.2g}"


def _with_interval(value: float, interval: list[float] | None, form: str = ".4g") -> str:
    if interval is None:
        return f"{value:{form}}"
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def write_page(
    out: Path,
    facts: dict[str, Any],
    sets: Sequence[ImageSet],
    pairs: list[Pairs],
    histograms: dict[str, npt.NDArray[np.float64]],
) -> None:
    """Write report.html and the PNG plots.

    Args:
        out: The report folder.
        facts: The content of metrics.json.
        sets: The real set and the synthetic ones.
        pairs: Near-copies of each synthetic set; empty where none were looked for.
        histograms: (4, 256) of each set, by name.
    """
    parts = [_introduce(facts), *_show_distances(out, facts), *_show_colors(out, facts, histograms)]
    parts += [*_show_ranking(facts["ranking"]), *_show_copies(facts, pairs)]
    parts += ["<h2>Images by label</h2>", *_show_grids(sets)]
    parts.append(build_inputs(facts["inputs"]))
    parts.append("<h2>Settings and versions</h2>")
    settings = {**facts["settings"], **facts["versions"]}
    parts.append(build_table(["Name", "Value"], [[key, str(it)] for key, it in settings.items()]))
    write_text(out / "report.html", build_page("Synthetic against real images", parts))


def _note(text: str) -> str:
    return f"<p class=note>{html.escape(text)}</p>"


def _introduce(facts: dict[str, Any]) -> str:
    """Say in a few sentences what was found."""
    lines = [DEMONSTRATION] if facts["demonstration"] else []
    primary = facts["features"][0]
    for item in facts["comparisons"]:
        if item["label"] is None and item["features"] == primary["name"]:
            lines.append(_sum_up(item, primary["frechet"]))
    lines += tell_patients(facts)
    for item in facts["color"]:
        lines.append(f"{item['set']}: {tell_gaps(item)}.")
        lines.append(f"{item['set']}: {tell_variety(item)}.")
    lines += [*tell_recall(facts), *tell_closeness(facts)]
    for item in facts["copies"]:
        lines.append(f"{item['set']}: {_count_copies(item)}")
    if facts["ranking"]:
        lines += tell_ranking(facts["ranking"])
    for name, reasons in facts["unmatched_labels"].items():
        lines.append(f"{name}: not compared by label: {'; '.join(reasons)}.")
    if facts["failures"]:
        lines.append(f"{len(facts['failures'])} files could not be read; metrics.json names them.")
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _show_ranking(ranking: dict[str, Any] | None) -> list[str]:
    """Show the differences of all pairs of sets as tables."""
    if not ranking or "pairs" not in ranking:
        return []
    rows, labels = [], []
    for pair in ranking["pairs"]:
        name = f"{pair['first']} less {pair['second']}"
        gaps = [with_sign(pair["color"][key]) for key in (*MEASURES, "energy")]
        rows.append([name, with_sign(pair["distance"]), with_sign(pair["by_label"]), *gaps])
        labels += [[f"{name}: {key}", with_sign(it)] for key, it in pair["labels"].items()]
    head = ["Difference", "distance", "mean over labels"]
    head += [*(f"color {key}" for key in MEASURES), "color energy"]
    parts = ["<h2>Which set is nearest</h2>", f"<div class=wide>{build_table(head, rows)}</div>"]
    if labels:
        parts.append(build_table(["Difference by label", "distance"], labels))
    parts.append(
        _note(
            f"Against {ranking['n_reference']} images of {ranking['reference']}, the same for all "
            "sets. Below zero the first is nearer; * marks an interval without zero. The distance "
            "is the energy distance of whitened features, with intervals so wide that two sets "
            "that are equally near have a winner in 2% of cases at most; intervals of colors have "
            "95%, and so have those of all labels together. Color gaps are averages of red, green "
            "and blue. A winner is nearer than each other set in one of the first two columns and "
            "farther in neither; a set that is suspected of copies cannot win."
        )
    )
    return parts


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
        text += "; closer than sets of one source are: a sign of copies, not of quality"
    return text + "."


def _count_copies(item: dict[str, Any]) -> str:
    low, high = (100 * end for end in item["interval"])
    return (
        f"{item['copies']} near-copies among {item['n']} images ({100 * item['share']:.1f}%, 95% "
        f"interval {low:.1f} to {high:.1f}%), {item['identical_files']} of them byte for byte; "
        f"{tell_rate(item)}"
        + ("; more than by chance: a sign of copying." if item["excess"] else ".")
    )


def _show_distances(out: Path, facts: dict[str, Any]) -> list[str]:
    parts = []
    for number, network in enumerate(facts["features"]):
        chosen = [it for it in facts["comparisons"] if it["features"] == network["name"]]
        parts.append(f"<h2>{html.escape(network['title'])}</h2>")
        rows = [format_comparison(item) for item in chosen]
        parts.append(f"<div class=wide>{build_table(head_comparison(network), rows)}</div>")
        if any(item["floor"] for item in chosen):
            rows = [format_floor(item) for item in chosen]
            parts.append(f"<div class=wide>{build_table(head_floor(network), rows)}</div>")
            parts.append(_note(ABOUT_FLOOR))
        figure = draw_distances(chosen, network["frechet"])
        parts.append(
            _place_plot(
                figure,
                out / f"distances-{number + 1}.png",
                "Full dot and bar: all images, with the 95% interval. Open dot: the synthetic set "
                "at the smaller n at which halves of the real set (gray, all splits) are compared; "
                "an open dot in the gray is as near as real images are to each other.",
            )
        )
        overall = [item for item in chosen if item["label"] is None]
        notes = dict.fromkeys(
            f"{it['set']}: {text}" for it in overall for text in it["notes"] if text != UNKNOWN
        )
        parts += [_note(text) for text in notes]
    return parts


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
    axes.set_yticks(range(len(comparisons)), [name_comparison(it) for it in comparisons])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(name)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _place_plot(figure: Figure, path: Path, caption: str) -> str:
    """Save a plot beside the page, and put it into the page as well."""
    save_figure(figure, path, dpi=130)
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f"<figure><img src='data:image/png;base64,{data}' alt=''>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _show_colors(
    out: Path, facts: dict[str, Any], histograms: dict[str, npt.NDArray[np.float64]]
) -> list[str]:
    parts = ["<h2>Colors</h2>"]
    for item in facts["color"]:
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
        parts.append(f"<h3>{html.escape(item['set'])}, n = {item['n']}</h3>")
        parts.append(build_table(head, rows))
        parts.append(build_table(*format_varieties(item)))
    parts.append(
        _note(
            "Synthetic less real, the whole range being 1, with 95% intervals; histogram is the "
            "Wasserstein distance. By chance: the sizes that of two sets of one source, at these "
            "n, only one pair in 25 exceeds in any of the twelve. * lies beyond it."
        )
    )
    parts.append(
        _note(
            "Variety: the standard deviation over images of their channel means, synthetic over "
            "real; 1 is as varied as real images. In braces lowest and highest of halves of the "
            "real set. Energy: the distance between the distributions of the images' channel means "
            "and deviations; halves of the real set in braces, 0 is none. * the variety has "
            f"collapsed: the interval of a color ends below {COLLAPSED} and below all halves."
        )
    )
    figure = draw_histograms(histograms)
    parts.append(_place_plot(figure, out / "colors.png", "All pixels of each set."))
    return parts


def format_varieties(item: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
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
    for place, channel in enumerate(CHANNELS):
        axes = figure.add_subplot(2, 2, place + 1)
        for number, (name, shares) in enumerate(histograms.items()):
            height = shares[place].reshape(64, 4).sum(axis=1) * 64  # a density
            color = PLOT_COLORS[number % len(PLOT_COLORS)]
            axes.plot(levels, height, color=color, label=name, linewidth=1.3)
        axes.set_title(channel, fontsize=10)
        axes.set_yticks([])
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _show_copies(facts: dict[str, Any], found: list[Pairs]) -> list[str]:
    parts = ["<h2>Near-copies of real images</h2>"]
    if not facts["copies"]:
        return [*parts, _note("Not looked for.")]
    parts.append(_note(SEEN_THROUGH))
    for item, pairs in zip(facts["copies"], found, strict=True):
        parts.append(
            f"<h3>{html.escape(item['set'])}</h3><p>{html.escape(_count_copies(item))}</p>"
        )
        if item["real_twins"]:
            parts.append(
                _note(
                    f"{item['real_twins']} real images look like duplicates or retakes of another "
                    "real image; they were left out of the threshold, and their share is part of "
                    "the rate."
                )
            )
        tiles = [_draw_pair(pairs, row) for row in pairs.worst(MOST_PAIRS)]
        caption = (
            "The nearest pairs, synthetic left, real right; a red frame marks those taken for "
            "copies. The number is the score: above 1 is closer than the threshold."
        )
        parts.append(build_figure(tile_images(tiles, columns=4, gap=10), caption, lossy=True))
    return parts


def _draw_pair(pairs: Pairs, row: int) -> Image.Image:
    pair = pairs.describe(row)
    tile = Image.new("RGB", (2 * THUMB + 10, THUMB + 22), "#cf222e" if pair["copy"] else "white")
    tile.paste("white", (3, 3, tile.width - 3, tile.height - 3))
    tile.paste(_thumb(pairs.own, row), (4, 4))
    tile.paste(_thumb(pairs.real, pairs.found[row]), (THUMB + 6, 4))
    score = f"{pair['score']:.2f}" if pair["score"] < 100 else "over 100"
    text = "same file" if pair["identical"] else f"{score}, {pair['space']}"
    ImageDraw.Draw(tile).text((6, THUMB + 6), text, fill="#1b1f24")
    return tile


def _thumb(item: ImageSet, row: int) -> Image.Image:
    return fit_image(load_image(item.record(row).path), THUMB, "pad")


def _show_grids(sets: Sequence[ImageSet]) -> list[str]:
    """Show the first images of each label, the real ones and each set's below one another."""
    labels: list[str | None] = list(dict.fromkeys(key for it in sets for key in it.count_labels()))
    parts = []
    for label in labels[:MOST_LABELS] or [None]:
        parts.append(f"<h3>{html.escape(label or 'all')}</h3>")
        for item in sets:
            rows = item.rows_of(label)
            if len(rows):
                chosen = np.linspace(0, len(rows) - 1, min(len(rows), GRID_COLUMNS)).round()
                tiles = [_thumb(item, rows[int(place)]) for place in chosen]
                sheet = tile_images(tiles, columns=GRID_COLUMNS)
                parts.append(build_figure(sheet, f"{item.name}, {len(rows)} images", lossy=True))
    if len(labels) > MOST_LABELS:
        parts.append(_note(f"{len(labels) - MOST_LABELS} more labels are not shown."))
    return parts
