"""page.py NAME FILE.h5...: the Markdown page of a committed report, on standard output. Every number comes from FILE.h5.

pages/NAME.py makes it. `page.py NAME FILE.h5 --check` prints nothing but what leaves its tolerance, and then exits 1: a test.
"""
import importlib
import sys

sys.dont_write_bytecode = True

from pages.common import read_rows


def main(arguments):
    name, *files = [a for a in arguments if a != "--check"]
    rows = [row for path in files for row in read_rows(path)]
    text, ok = importlib.import_module(f"pages.{name}").page(rows)
    failed = [] if ok is True else ["a number is outside its tolerance"] if ok is False else ok
    if "--check" not in arguments:
        print(text, end="")
        return 0
    for line in failed:
        print(f"{name}: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
