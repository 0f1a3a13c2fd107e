"""What the pages share: rows of a results file, Markdown, expected numbers with their tolerance."""
from pathlib import Path

import h5py


def read_rows(path):
    """The table as a list of dictionaries, with the histogram of scale moves where there is one, and the file's name."""
    decode = lambda value: value.decode() if isinstance(value, bytes) else value
    with h5py.File(path) as f:
        table = {name: column[:] for name, column in f["table"].items()}
        if "run" not in table:
            return [{name: decode(column[i]) for name, column in table.items()} for i in range(len(next(iter(table.values()))))]
        runs = [decode(run) for run in table["run"]]
        moves = [dict(zip(f[f"runs/{run}/scale_move_offsets"][:], f[f"runs/{run}/scale_moves"][:])) if f"runs/{run}" in f else {}
                 for run in runs]
    file = Path(path).stem
    return [{**{name: decode(column[i]) for name, column in table.items()}, "moves": moves[i], "file": file} for i in range(len(runs))]


def markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(part, whole):
    return "0" if part == 0 else f"{100 * part / whole:.3g}"


def pick(rows, **wanted):
    """The rows whose columns have these values."""
    return [r for r in rows if all(r[name] == value for name, value in wanted.items())]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def one(rows, **wanted):
    """The only row whose columns have these values."""
    found = pick(rows, **wanted)
    if len(found) != 1:
        raise SystemExit(f"{len(found)} rows have {wanted}")
    return found[0]


class Checks:
    """Numbers held against what is expected of them; a page is right if all of them are."""

    def __init__(self):
        self.failed = []

    def near(self, what, measured, expected, relative=0.0, absolute=0.0):
        if not abs(measured - expected) <= absolute + relative * abs(expected):
            self.failed.append(f"{what}: {measured}, expected {expected}")

    def holds(self, what, true):
        if not true:
            self.failed.append(what)
