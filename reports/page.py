"""page.py NAME FILE.h5...: the Markdown page of a committed report, on standard output. Every number comes from FILE.h5.

    --check                        print nothing but what leaves its tolerance, and then exit 1: a test
    --figures DIR --program PROG   the page's own figures too, as SVG and CSV; theory curves come from `PROG theory`

pages/NAME.py has page(rows) -> (text, what failed), and where it has figures or sentences from theory, draw(rows, theory) ->
plots and finish(text, theory) -> text.
"""
import argparse
import importlib
import json
import subprocess
import sys

sys.dont_write_bytecode = True

from pages.common import read_rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--figures", metavar="DIR")
    parser.add_argument("--program")
    options = parser.parse_args()
    rows = [row for path in options.files for row in read_rows(path)]
    page = importlib.import_module(f"pages.{options.name}")
    text, failed = page.page(rows)
    for line in failed:
        print(f"{options.name}: {line}", file=sys.stderr)
    if options.check:
        return 1 if failed else 0
    theory = lambda *words: json.loads(subprocess.run([options.program, "theory", *words, "--json"], check=True,
                                                      capture_output=True, text=True).stdout)["table"]
    if options.figures and hasattr(page, "draw"):
        from pages.figures import write_plots
        write_plots(page.draw(rows, theory), options.figures)
    if options.program and hasattr(page, "finish"):
        text = page.finish(text, theory)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
