"""Numbers over tensors and seeds: aggregates, intervals, paired comparisons, correlations."""
import functools
import math
from dataclasses import dataclass

import numpy as np

from .groups import baseline, by_tensor, grouped, seeds, tensor_key, tensors

NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %, as in the columns *_low and *_high


def weights_of(results, column):
    """{tensor: weight} for an aggregate of a relative error: the sum of squares for weight errors, 1 for output errors."""
    if column != "weight_error":
        return dict.fromkeys(tensors(results), 1.0)
    table, energy, seen = results.table, {}, set()
    for i, seed in enumerate(seeds(results)):
        relative, mse, key = float(table["relative_mse"][i]), float(table["mse"][i]), tensor_key(results, i)
        if (key, seed) not in seen and relative > 0 and math.isfinite(relative) and math.isfinite(mse):
            seen.add((key, seed))
            energy.setdefault(key, []).append(mse * int(table["rows"][i]) * int(table["cols"][i]) / relative)
    return {key: math.fsum(values) / len(values) for key, values in energy.items()}


def weighted_mean(values, weights, over=None):
    """sum w v / sum w over some tensors (all by default); equal weights where none is known."""
    keys = [k for k in values if over is None or k in over]
    if not keys:
        return math.nan
    w = [weights.get(k, 0.0) for k in keys]
    w = w if sum(w) > 0 else [1.0] * len(keys)
    return math.fsum(a * values[k] for a, k in zip(w, keys)) / math.fsum(w)


def aggregate(values, weights, over=None):
    """sqrt(sum w v^2 / sum w): for weight errors sqrt(sum of squared errors / sum of squares)."""
    return math.sqrt(weighted_mean({k: v * v for k, v in values.items()}, weights, over)) if values else math.nan


def standard_error(results, rows, weights, column):
    """Of the weighted mean of what has the standard error `column(row)`; tensors and seeds are independent. NaN where a row has none."""
    parts = {}
    for i in rows:
        parts.setdefault(tensor_key(results, i), []).append(column(i))
    total = math.fsum(weights.get(k, 0.0) for k in parts)
    squares = math.fsum((weights.get(k, 0.0) / len(errors) * e) ** 2 for k, errors in parts.items() for e in errors)
    return math.sqrt(squares) / total if total > 0 else math.nan


def error_interval(results, rows, weights):
    """(low, high) of 95 % of the aggregate weight error, as blocks vary; None where the file does not tell."""
    values = by_tensor(results, rows, "relative_mse")
    if results.column("relative_mse_error") is None or not values:
        return None
    errors = results.table["relative_mse_error"]
    half = NORMAL_QUANTILE * standard_error(results, rows, weights, lambda i: float(errors[i]))
    mean = weighted_mean(values, weights)
    return (math.sqrt(max(mean - half, 0.0)), math.sqrt(mean + half)) if math.isfinite(half) else None


def ratio_interval(results, rows, weights):
    """(ratio, half) of the norm of the error to naive's, on the same blocks at the same tensor scale; None if the file lacks it.

    The squared ratio is one of sums: of the errors over naive's, each row's interval taken with what its naive weighs."""
    table = results.table
    if results.column("naive_ratio") is None or not all(float(table["naive_ratio"][i]) > 0 for i in rows):
        return None
    naive, spread = {}, (table["naive_ratio_high"] - table["naive_ratio_low"]) / 2
    for i in rows:
        naive.setdefault(tensor_key(results, i), []).append(float(table["relative_mse"][i] / table["naive_ratio"][i]))
    whole = weighted_mean({k: math.fsum(v) / len(v) for k, v in naive.items()}, weights)
    square = weighted_mean(by_tensor(results, rows, "relative_mse"), weights) / whole if whole > 0 else math.nan
    if not square > 0:
        return None
    half = standard_error(results, rows, weights, lambda i: float(spread[i] * table["relative_mse"][i] / table["naive_ratio"][i])) / whole
    return (math.sqrt(square), half / (2 * math.sqrt(square))) if math.isfinite(half) else None


@dataclass
class Score:
    """How a variant does on all its tensors, and against naive on those that both have."""
    value: float
    tensors: int
    naive: float = math.nan
    paired: float = math.nan
    interval: tuple = None   # (low, high) of the value, 95 %
    half: float = math.nan   # half the width of the gain's interval, 95 %

    @property
    def gain(self):
        return 1 - self.paired / self.naive if self.naive > 0 else math.nan


def scores(results, column, group, variants):
    """{Variant: Score} of one format and block."""
    weights = weights_of(results, column)
    values = {v: by_tensor(results, rows, column) for v, rows in variants.items()}
    out = {}
    for v, mine in values.items():
        base = baseline(group, variants, v)
        naive = values.get(base, {})
        common = mine.keys() & naive.keys()
        score = Score(aggregate(mine, weights), len(mine), aggregate(naive, weights, common), aggregate(mine, weights, common))
        if column == "weight_error":
            score.interval = error_interval(results, variants[v], weights)
            ratio = ratio_interval(results, variants[v], weights)
            if base != v and ratio and abs(ratio[0] - (1 - score.gain)) < 1e-6:  # the file's naive is that of this row
                score.half = ratio[1]
        out[v] = score
    return out


def best_of(score):
    """The variants of least error, ties included; of largest gain over naive where they were run on different tensors."""
    usable = {v: s for v, s in score.items() if math.isfinite(s.value)}
    if not usable:
        return []
    alike = len({s.tensors for s in usable.values()}) == 1
    if not alike and any(math.isfinite(s.gain) for s in usable.values()):
        merit = {v: s.gain for v, s in usable.items() if math.isfinite(s.gain)}
    else:
        merit = {v: -s.value for v, s in usable.items()}
    top = max(merit.values())
    return [v for v in merit if top - merit[v] <= 1e-9 * max(abs(top), 1e-3)]


# Student's t

@functools.cache
def t_quantile(degrees):
    """97.5 % of Student's t: with x = sqrt(n) tan(a), P(0 < T < x) is the integral of cos^(n-1) over 0..a, normalised."""
    nodes = np.linspace(0.0, 1.0, 401)
    simpson = np.tile([2.0, 4.0], 201)[:401]
    simpson[[0, -1]] = 1.0
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        inside = scale * angle * float(simpson @ np.cos(angle * nodes) ** (degrees - 1)) / 1200
        low, high = (angle, high) if inside < 0.475 else (low, angle)
    return math.sqrt(degrees) * math.tan(low)


def mean_interval(values):
    """(mean, low, high) of 95 % by Student's t; the ends are NaN for one value."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return mean, math.nan, math.nan
    half = t_quantile(n - 1) * math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return mean, mean - half, mean + half


# Pairs

@dataclass
class Pairing:
    """A variant against naive on the same tensors or seeds; `change` is the geometric mean of the error ratios, minus 1."""
    group: tuple
    variant: object
    column: str
    over: str          # what was counted: tensors or seeds
    count: int
    change: float
    low: float
    high: float
    wins: int
    losses: int


def log_ratios(results, mine, naive, column):
    """{tensor: [log of the error ratio for each seed]} of rows paired by tensor and seed."""
    values, of = results.table[column], seeds(results)
    base = {(tensor_key(results, i), of[i]): float(values[i]) for i in naive}
    out = {}
    for i in mine:
        value, other = float(values[i]), base.get((tensor_key(results, i), of[i]), 0.0)
        if math.isfinite(value) and math.isfinite(other) and value > 0 and other > 0:
            out.setdefault(tensor_key(results, i), []).append(math.log(value / other))
    return out


def pairings(results):
    """Every variant that has two or more pairs with naive: over tensors (seeds averaged first), or over the seeds of one tensor."""
    out = []
    for column in ("weight_error", "output_error"):
        if results.column(column) is None:
            continue
        for g, variants in grouped(results).items():
            for v, rows in variants.items():
                base = baseline(g, variants, v)
                logs = log_ratios(results, rows, variants[base], column) if base not in (None, v) else {}
                one = len(logs) == 1
                values = next(iter(logs.values())) if one else [math.fsum(x) / len(x) for x in logs.values()]
                if len(values) > 1:
                    ends = [math.expm1(x) for x in mean_interval(values)]
                    wins, losses = sum(x < -1e-12 for x in values), sum(x > 1e-12 for x in values)
                    out.append(Pairing(g, v, column, "seeds" if one else "tensors", len(values), *ends, wins, losses))
    return out


# Correlations

def ranks(values):
    """Ranks from 0; equal values share the mean of theirs."""
    values = np.asarray(values, float)
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[where]


def pearson(x, y):
    """The linear correlation; NaN for fewer than three pairs or where one of them does not vary."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm > 1e-12 * len(x) else math.nan


def spearman(x, y):
    """The correlation of ranks."""
    return pearson(ranks(x), ranks(y))
