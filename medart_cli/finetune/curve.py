"""The loss curve of a run, as a picture."""

import json
from pathlib import Path


def plot_losses(log: Path, picture: Path) -> None:
    """Draw the losses of a run's metrics.jsonl as a PNG: noise loss above, color loss below."""
    from matplotlib.figure import Figure  # a second to load, and only needed here

    from medart_cli.data.charts import save_figure

    with log.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    names = [name for name in ("loss", "color_loss") if any(name in row for row in rows)]
    figure = Figure(figsize=(7, 2.5 * max(1, len(names))), layout="constrained")
    for place, name in enumerate(names):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes = figure.add_subplot(len(names), 1, place + 1)
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 60 else None)
        axes.set(xlabel="optimizer step", ylabel=name.replace("_", " "))
        axes.grid(alpha=0.3)
    save_figure(figure, picture, dpi=120)
