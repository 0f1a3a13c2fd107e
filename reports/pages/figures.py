"""Figures that only one page has, in the report's style, each with its data as CSV beside it."""
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "notebooks-data"))

from matplotlib.figure import Figure
from report.main import csv_text
from report.style import Plot, log_range, on_paper, styled

COLOURS = ("#333333", "#0064a8", "#d55e00", "#009068", "#882255", "#bd7b00", "#6478c8")
MARKS = "os^DvPX"


@dataclass
class Series:
    """A curve of theory, measured points, or both: [(x, y)]; a point may have a word beside it."""
    label: str
    theory: list = field(default_factory=list)
    measured: list = field(default_factory=list)


@styled
def panels(name, content, x_label, y_label, x_scale="linear", y_scale="linear", ticks=()):
    """content: {title of a panel: [Series]}; a label has one colour and mark in all panels. The legend stands below."""
    columns = min(len(content), 2)
    lines = -(-len(content) // columns)
    figure = Figure(figsize=(3.5 * columns + 0.4, 2.7 * lines + 0.7), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
    labels, handles, rows = [], [], []
    for ax in axes[len(content):]:
        ax.set_visible(False)
    for ax, (title, series) in zip(axes, content.items()):
        for s in series:
            if s.label not in labels:
                labels.append(s.label)
            look = labels.index(s.label)
            colour, drawn = COLOURS[look % len(COLOURS)], []
            if s.theory:
                drawn += ax.plot(*zip(*s.theory), color=colour, linewidth=1.1)
            if s.measured:
                drawn += ax.plot([p[0] for p in s.measured], [p[1] for p in s.measured], color=colour, linestyle="none" if s.theory else ":",
                                 linewidth=0.7, marker=MARKS[look % len(MARKS)], markersize=5, markeredgecolor="white", markeredgewidth=0.5)
            if len(handles) < len(labels):
                handles.append(tuple(drawn))
            for x, y, *word in s.measured:
                if word:
                    ax.annotate(word[0], (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
            rows += [[title, kind, s.label, x, y] for kind in ("theory", "measured") for x, y, *_ in getattr(s, kind)]
        ax.set_title(title)
        ax.set(xscale=x_scale, yscale=y_scale)
        ax.grid()
        if y_scale == "log":
            log_range(ax.yaxis, [y for s in series for _, y, *_ in s.measured + s.theory])
        if ticks:
            ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
            ax.minorticks_off()
    figure.supxlabel(x_label, fontsize=9)
    figure.supylabel(y_label, fontsize=9)
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=4)
    return Plot(name, name, "", figure, ["panel", "kind", "series", "x", "y"], rows)


def write_plots(plots, directory):
    folder = Path(directory) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        (folder / f"{plot.name}.svg").write_text(on_paper(plot.svg), encoding="utf-8")
        (folder / f"{plot.name}.csv").write_text(csv_text(plot.header, plot.rows), encoding="utf-8")
