"""Charts of a classifier's test, PNG and SVG: confusion, ROC and calibration, a panel a regime.

And the scores of each class with their intervals, all regimes side by side.
"""

import math
import warnings
from collections.abc import Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import get_data_path, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

from medart_cli.data.files import draft_of
from medart_cli.data.names import shorten_names
from medart_cli.log import log

MOST_CELLS = 15  # classes up to which the cells of a confusion matrix hold their numbers
MOST_NAMES = 20  # classes up to which curves are named
MOST_ROWS = 60  # classes whose scores are drawn
WIDEST = 13  # inches of a chart: wider, its letters would be too small on a page
STYLES = ("-", "--", ":", "-.")  # for those who do not tell colors apart
MARKERS = "osD^v"
_SAID: set[str] = set()  # letters that were named as lacking

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
Score = tuple[float, float, float]  # a value, and both ends of its 95 % interval


def draw_confusion(
    path: Path, tables: Mapping[str, npt.NDArray[np.int64]], classes: Sequence[str]
) -> None:
    """Draw confusion matrices: share of each true class (row) that was called each class.

    Args:
        path: PNG file to write.
        tables: Counts (K, K) of each regime, true classes in rows.
        classes: Names of the K classes.
    """
    count, classes = len(classes), shorten_names(classes)
    side = max(3.6, 0.55 * count + 1.8)
    figure, panels = _open_panels(list(tables), (side, side * 0.95))
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))  # (K, K)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=name, xlabel="predicted class", ylabel="true class, n")
        if count <= 4 * MOST_CELLS:
            rows = [f"{it}, {n}" for it, n in zip(classes, table.sum(axis=1), strict=True)]
            axes.set_xticks(range(count), classes, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(count), rows)
        if count <= MOST_CELLS:
            _write_cells(axes, shares)
    save_figure(figure, path)


def _write_cells(axes: Axes, shares: npt.NDArray[np.float64]) -> None:
    for row, column in np.argwhere(shares >= 0.005):
        share = shares[row, column]
        color = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=color, fontsize=8)


def draw_roc(path: Path, curves: Mapping[str, Mapping[str, Curve]]) -> None:
    """Draw ROC curves of each class against the rest.

    Args:
        path: PNG file to write.
        curves: For each regime and class the false and true positive rates.
    """
    figure, panels = _open_panels(list(curves), (4, 4))
    for axes, (name, table) in zip(panels, curves.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
        labels = shorten_names([*table])
        for number, (false_rate, true_rate) in enumerate(table.values()):
            style = STYLES[number % len(STYLES)]
            axes.plot(false_rate, true_rate, label=labels[number], linestyle=style, linewidth=1.3)
        axes.set(
            title=name,
            xlabel="1 - specificity (share of false alarms)",
            ylabel="sensitivity (share of cases found)",
        )
        axes.set_aspect("equal")
        if len(table) <= MOST_NAMES:
            axes.legend(fontsize=7, loc="lower right")
    save_figure(figure, path)


def draw_calibration(path: Path, tables: Mapping[str, Sequence[tuple[float, float, int]]]) -> None:
    """Draw how often predictions of each confidence were right, and how many there were.

    Args:
        path: PNG file to write.
        tables: For each regime the mean confidence, accuracy and count of each bin.
    """
    figure, panels = _open_panels(list(tables), (4, 4))
    for axes, (name, bins) in zip(panels, tables.items(), strict=True):
        confidence, accuracy, counts = (np.array(column) for column in zip(*bins, strict=True))
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
        axes.bar(
            confidence, counts / counts.sum(), width=0.03, color="0.85", label="share of images"
        )
        axes.plot(confidence, accuracy, marker="o", markersize=4, label="accuracy")
        axes.set(title=name, xlim=(0, 1), ylim=(0, 1.02))
        axes.set(xlabel="confidence (stated probability)", ylabel="accuracy (share that is right)")
        axes.set_aspect("equal")
        axes.legend(fontsize=8, loc="upper left")
    save_figure(figure, path)


def draw_class_scores(
    path: Path, scores: Mapping[str, Mapping[str, Mapping[str, Score]]], counts: Mapping[str, int]
) -> None:
    """Draw the scores of each class with their 95 % intervals, the regimes below each other.

    Args:
        path: PNG file to write.
        scores: For each measure, regime and class the value and its interval, in [0, 1].
        counts: Test images of each class; of more than `MOST_ROWS` the first are drawn.
    """
    classes = [*counts][:MOST_ROWS]
    short = dict(zip(classes, shorten_names(classes), strict=True))
    regimes = len(next(iter(scores.values())))
    figure = Figure(
        figsize=(4.4 * len(scores), 1.3 + 0.2 * (regimes + 1) * len(classes)), layout="constrained"
    )
    panels = np.atleast_1d(figure.subplots(1, len(scores), sharey=True))
    for axes, (measure, table) in zip(panels, scores.items(), strict=True):
        for place, (regime, found) in enumerate(table.items()):
            heights = np.arange(len(classes)) + (place - (regimes - 1) / 2) * 0.8 / regimes
            values, low, high = np.array([found[name] for name in classes]).T
            axes.errorbar(
                values, heights, xerr=np.maximum(0, [values - low, high - values]), label=regime,
                fmt=MARKERS[place % len(MARKERS)], markersize=4, capsize=2, linewidth=1.2,
            )  # fmt: skip
        axes.set(title=f"{measure} of each class", xlabel=f"{measure}, 0 to 1", xlim=(0, 1))
        axes.grid(axis="x", alpha=0.3)
    rows = [f"{short[name]}, n = {counts[name]}" for name in classes]
    panels[0].set_yticks(range(len(classes)), rows)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save_figure(figure, path)


def _open_panels(names: Sequence[str], size: tuple[float, float]) -> tuple[Figure, list[Any]]:
    columns = min(len(names), max(1, int(WIDEST / size[0])))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(len(names))]


def save_figure(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure as PNG and SVG, its texts as they are: no mathematics, and in fonts that fit.

    Letters that no font of this machine has are boxes in the picture, which is said once.

    Args:
        figure: The figure; its texts get other fonts where theirs lacks letters.
        path: PNG file to write; the SVG file lies beside it.
        dpi: Pixels an inch.
    """
    texts = [item for item in figure.findobj(Text) if isinstance(item, Text)]
    letters = {letter for item in texts for letter in item.get_text() if letter.isprintable()}
    families, lacking = find_fonts(letters)
    for item in texts:
        item.set_fontfamily(families)
        if "$" in item.get_text():  # a name, for no chart has a formula
            item.set_parse_math(False)
    new = lacking - _SAID
    if new:
        _SAID.update(new)
        log.warning(
            "%s: no font on this machine has the letters %s; they show as boxes in the charts, "
            "not in pages and tables; install a font that has them, such as Noto",
            *(path, "".join(sorted(new))[:MOST_NAMES]),
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        with draft_of(path) as draft:
            figure.savefig(draft, format="png", dpi=dpi)
        # The same figures give the same bytes: no date, and no ids drawn at random.
        with draft_of(path.with_suffix(".svg")) as draft, rc_context({"svg.hashsalt": path.stem}):
            figure.savefig(draft, format="svg", metadata={"Date": None})


def find_fonts(letters: Set[str]) -> tuple[list[str], set[str]]:
    """Find fonts that have all the letters between them.

    Returns:
        Names of the fonts, the usual ones first; and the letters that none has.
    """
    families = list(rcParams["font.family"])
    usual = _letters_of(findfont(FontProperties()))
    lacking = {letter for letter in letters if ord(letter) not in usual}
    own = get_data_path()  # the fonts there are for formulas, or draw any letter as a box
    fonts = [font for font in fontManager.ttflist if not font.fname.startswith(own)]
    for font in sorted(fonts, key=lambda font: (font.style != "normal", font.name, font.fname)):
        if not lacking:
            break
        found = {letter for letter in lacking if ord(letter) in _letters_of(font.fname)}
        if found:
            families.append(font.name)
            lacking -= found
    return families, lacking


@cache
def _letters_of(file: str) -> frozenset[int]:
    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):  # FreeType cannot read it: then it draws nothing either
        return frozenset()
