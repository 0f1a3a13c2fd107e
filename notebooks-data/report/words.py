"""What the table says, in words: the key finding and the best method of each format and block."""
from .estimates import best_of, pairings, scores
from .groups import grouped, listed, tensors, title_of
from .style import Plot, percent, signed


def summary(results):
    """One dict per format and block: the best variants by weight and by output error, each with its Score."""
    out = []
    for g, variants in grouped(results).items():
        row = {"group": g}
        for column in ("weight_error", "output_error"):
            score = scores(results, column, g, variants) if results.column(column) is not None else {}
            best = best_of(score)
            row[column] = (best, score[best[0]]) if best else ([], None)
        out.append(row)
    return out


def lowered(rows, column):
    """How far the best method is below naive in each format and block, in words."""
    parts = []
    for row in rows:
        best, score = row[column]
        names = ", ".join(v.label for v in best)
        if score.gain > 0:
            parts.append(f"{percent(score.gain, 1)} for {title_of(row['group'])} ({names})")
    return ", ".join(parts)


def finding(results):
    """The key finding, one paragraph computed from the table."""
    rows = summary(results)
    weight = [r for r in rows if r["weight_error"][0]]
    output = [r for r in rows if r["output_error"][0]]
    if not weight:
        return "No row has a weight error, so there is nothing to compare."
    count = len(tensors(results))
    first = min(weight, key=lambda r: r["weight_error"][1].value)
    best, score = first["weight_error"]
    tie = " (equal)" if len(best) > 1 else ""
    told = (f"{f'Over {count} tensors, the' if count > 1 else 'The'} smallest weight error is {percent(score.value)}: "
            f"{title_of(first['group'])} with scales by {listed(v.label for v in best)}{tie}.")
    for rows, column, words in ((weight, "weight_error", "Against the naive scale, the best method lowers the weight error by"),
                                (output, "output_error", "The output error (root mean square over tensors) falls by")):
        text = lowered(rows, column)
        told += f" {words} {text}." if text else ""
    return told


def interval_words(low, high):
    """A 95 % interval of a change in percent."""
    return f"{signed(100 * low, 2)} to {signed(100 * high, 2)}"


def pairing_table(results):
    """Every method against naive on the same tensors or seeds, as a table of the page; None without two pairs of anything."""
    pairs = pairings(results)
    if not pairs:
        return None
    kinds = {"weight_error": "weight", "output_error": "output"}
    shown = [[title_of(p.group), p.variant.label, kinds[p.column], f"{p.count} {p.over}", signed(100 * p.change, 2), interval_words(p.low, p.high),
              str(p.wins), str(p.losses)] for p in pairs]
    data = [[*p.group, *p.variant.cells, p.column, p.over, p.count, p.change, p.low, p.high, p.wins, p.losses] for p in pairs]
    return Plot("pairs", "Methods against naive, pair by pair",
                "The change of the error against the naive method, in percent: the geometric mean over tensors (seeds of one tensor averaged "
                "first; over seeds where there is one tensor) with Student's 95 % interval, and on how many the error is less or more. Every "
                "tensor counts the same here, so a change can differ from that of the whole, which large weights dominate.", None,
                ["format", "block", "method", "settings", "error", "over", "pairs", "change", "low", "high", "less", "more"], data,
                shown=(["format, block", "method", "error", "over", "change %", "95 % interval", "less", "more"], shown))
