"""Figures that only one page has, in the report's style, each with its data as CSV beside it."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "notebooks-data"))

from matplotlib.figure import Figure
from report.main import csv_text
from report.style import Plot, on_paper, styled

COLOURS = ("#0064a8", "#d55e00", "#009068", "#882255")


@styled
def curves_and_points(name, title, caption, lines, points, labels, x_label, y_label):
    """lines, points: {label: [(x, y)]}, points with a word beside each where a third value stands."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    ax = figure.subplots()
    rows = []
    for label, colour in zip(labels, COLOURS):
        ax.plot(*zip(*lines[label]), color=colour, linewidth=1.2, label=f"{label}, theory")
        rows += [["theory", label, x, y] for x, y in lines[label]]
        if label in points:
            ax.plot([p[0] for p in points[label]], [p[1] for p in points[label]], linestyle="none", marker="o", markersize=5, color=colour,
                    markeredgecolor="white", markeredgewidth=0.5, label=f"{label}, measured")
            rows += [["measured", label, p[0], p[1]] for p in points[label]]
            for x, y, word in points[label]:
                ax.annotate(word, (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    ax.set(xlabel=x_label, ylabel=y_label)
    ax.grid()
    ax.legend(loc="best")
    return Plot(name, title, caption, figure, ["kind", "series", "x", "y"], rows)


def write_plots(plots, directory):
    folder = Path(directory) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        (folder / f"{plot.name}.svg").write_text(on_paper(plot.svg), encoding="utf-8")
        (folder / f"{plot.name}.csv").write_text(csv_text(plot.header, plot.rows), encoding="utf-8")
