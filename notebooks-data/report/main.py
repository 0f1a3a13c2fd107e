"""The command: makes a page, figures and CSV from a results file of `fp4scope sweep` or `fp4scope audit`.

DIR/index.html is self-contained; DIR/figures/NAME.svg and NAME.csv hold each figure and the data behind it; DIR/table.csv
holds the table. The same file gives the same bytes.
"""
import argparse
import csv
import io
import sys
from pathlib import Path

import numpy as np

from . import audit, figures
from .page import page
from .results import ReportError, load
from .style import on_paper


def csv_text(header, rows):
    """CSV with \\n at line ends; numbers in the shortest form that reads back the same."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([v.item() if isinstance(v, np.generic) else v for v in row] for row in rows)
    return out.getvalue()


def write(path, text):
    path.write_bytes(text.encode("utf-8", "replace"))


def write_report(results, name, directory):
    """Writes the page, the figures and the CSV; returns the figures."""
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (*figures.MAKERS, *audit.MAKERS):
        for ending in (".svg", ".csv"):
            (folder / (stale + ending)).unlink(missing_ok=True)
    made = (audit if results.audits else figures).plots(results)
    for plot in made:
        if plot.figure:
            write(folder / f"{plot.name}.svg", on_paper(plot.svg))
        write(folder / f"{plot.name}.csv", csv_text(plot.header, plot.rows))
    write(directory / "table.csv", csv_text(results.table, zip(*results.table.values())))
    write(directory / "index.html", page(results, made, name))
    return [plot for plot in made if plot.figure]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE.h5")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, type=Path)
    options = parser.parse_args(arguments)
    try:
        results = load(options.file)
    except ReportError as error:
        print(f"fp4scope: {error}", file=sys.stderr)
        return 1
    try:
        made = write_report(results, Path(options.file).name, options.output)
    except OSError as error:
        print(f"fp4scope: {options.output}: cannot write: {error.strerror} (choose another folder with -o)", file=sys.stderr)
        return 1
    print(f"{options.output / 'index.html'}: {results.size} rows, {len(made)} figures")
    return 0
