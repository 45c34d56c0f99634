"""The loss curve of a run, as a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a second to load
    from matplotlib.axes import Axes

SMOOTHED_FROM = 60  # points of a loss; below that the eye does it
# What stands in one panel: its title, and the names of its curves in metrics.jsonl and on paper.
PANELS = {
    "loss": {"loss": "loss"},
    "held-out loss": {"val_loss": "held-out images", "train_loss": "as many training images"},
    "color loss": {"color_loss": "color loss"},
}


def plot_losses(log: Path, picture: Path) -> None:
    """Draw the losses of a run's metrics.jsonl as PNG and SVG, one below the other.

    The noise loss of each step; the held-out loss, beside that of training images at the same
    noises; the color loss.
    """
    from matplotlib.figure import Figure  # a second to load, and only needed here

    from medart_cli.data.charts import save_figure

    with log.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    panels = [
        (title, names)
        for title, names in PANELS.items()
        if any(name in row for row in rows for name in names)
    ]
    figure = Figure(figsize=(7, 2.5 * max(1, len(panels))), layout="constrained")
    for place, (title, names) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, place + 1)
        for name, label in names.items():
            points = [(row["step"], row[name]) for row in rows if name in row]
            draw_points(axes, points, label)
        axes.set(title=title, xlabel="optimizer step", ylabel=f"{title} (no unit)")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    save_figure(figure, picture, dpi=120)


def draw_points(axes: "Axes", points: Sequence[tuple[int, float]], label: str) -> None:
    """Draw a loss; a long one, in which each step has its own noise, with its running mean.

    Args:
        axes: Where.
        points: Optimizer step and loss.
        label: Of the line.
    """
    steps, losses = zip(*points, strict=True)
    if len(points) < SMOOTHED_FROM:
        axes.plot(steps, losses, marker=".", label=label)
        return
    window = max(9, len(points) // 20)
    kernel = np.ones(window) / window
    means = np.convolve(losses, kernel, mode="valid")
    axes.plot(steps, losses, ".", alpha=0.3, markersize=3, color="0.5", label="each step")
    first = (window - 1) // 2
    axes.plot(steps[first : first + len(means)], means, label=f"mean of {window} steps around")
    axes.legend()
