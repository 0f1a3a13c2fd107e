#!/usr/bin/env python3
"""The program from outside: its words and exit codes, its files, and what survives a kill.

    cli_test.py PROGRAM [GROUP]... [-k PATTERN] [-v]      GROUP: the NAME of a NAME_cases.py (default: all)
"""
import argparse
import os
import sys
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

GROUPS = sorted(path.name.removesuffix("_cases.py") for path in Path(__file__).resolve().parent.glob("*_cases.py"))


class TimedResult(unittest.TextTestResult):
    """Remembers how long each test took."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.times, self.started = [], 0

    def startTest(self, test):
        self.started = time.monotonic()
        super().startTest(test)

    def stopTest(self, test):
        self.times.append((time.monotonic() - self.started, test.id()))
        super().stopTest(test)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("groups", nargs="*", metavar="GROUP")
    parser.add_argument("-k", action="append", dest="patterns", help="only tests whose name holds this")
    parser.add_argument("-v", action="store_true", dest="verbose")
    words = parser.parse_intermixed_args()
    for group in words.groups:
        if group not in GROUPS:
            parser.error(f"no group {group}; there are: {' '.join(GROUPS)}")
    harness.PROGRAM = str(Path(words.program).resolve())
    if not Path(harness.PROGRAM).is_file():
        parser.error(f"{words.program} is no program")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # beside other tests, threads that spin only steal from one another
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{pattern}*" for pattern in words.patterns] if words.patterns else None
    suite = unittest.TestSuite(loader.loadTestsFromName(f"{group}_cases") for group in words.groups or GROUPS)
    outcome = unittest.TextTestRunner(verbosity=2 if words.verbose else 1, resultclass=TimedResult).run(suite)
    if words.verbose:
        for seconds, name in sorted(outcome.times, reverse=True)[:10]:
            print(f"{seconds:6.2f} s  {name}", file=sys.stderr)
    for case, reason in outcome.skipped:
        print(f"skipped {case.id()}: {reason}", file=sys.stderr)
    if outcome.testsRun and len(outcome.skipped) == outcome.testsRun:
        return 77
    return 0 if outcome.wasSuccessful() and outcome.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
