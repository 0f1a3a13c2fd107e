"""The page: a self-contained index.html."""
import functools
import html
import math
import pkgutil
import re

import numpy as np

from . import audit
from .groups import grouped, listed, tensors, title_of
from .style import theme_css, themed_svg
from .words import finding, summary

LEADING = ("run", "input", "tensor", "format", "block", "method", "select", "weight_error", "output_error",
           "optimal_error", "gap", "optimal_share", "verdict", "recipe")  # first in the page's table
PERCENT = re.compile(r"(_share|_error|_term|relative_mse(_low|_high)?)$|^cause_|^gap$")
ABSOLUTE = {"max_error"}  # ends in _error, but in the tensor's own units

escape = functools.partial(html.escape, quote=True)


def part(name):
    """A file of this package as text."""
    return pkgutil.get_data(__package__, name).decode("utf-8")


def inline_svg(plot):
    """The figure for this page, with a name for screen readers."""
    return themed_svg(plot).replace("<svg", f'<svg role="img" aria-label="{escape(plot.title)}"', 1)


def as_percent(name):
    return bool(PERCENT.search(name)) and name not in ABSOLUTE


def digits(value):
    """A real number with four digits that matter."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value)
    if size and not 1e-3 <= size < 1e6:
        return f"{value:.3e}"
    places = 0 if size == 0 or value == int(value) else max(0, 3 - math.floor(math.log10(size)))
    return f"{value:.{places}f}"


def cell_text(name, value):
    """What a reader sees of a value."""
    if isinstance(value, str):
        return value[:12] + "…" if name.endswith("_hash") and len(value) > 13 else value
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    value = float(value)
    if as_percent(name) and math.isfinite(value):
        return digits(100 * value) if abs(value) < 1e-4 and value else f"{100 * value:.2f}"
    return digits(value)


def cell(name, value):
    """One <td>; numbers carry their full value for sorting."""
    if isinstance(value, str):
        kind = ' class="wrap"' if len(value) > 30 and not name.endswith("_hash") else ""
        tip = f' title="{escape(value)}"' if name.endswith("_hash") else ""
        return f"<td{kind}{tip}>{escape(cell_text(name, value))}</td>"
    exact = int(value) if isinstance(value, (int, np.integer)) else float(value)
    number = "NaN" if exact != exact else str(exact).replace("inf", "Infinity")
    return f'<td class="n" data-v="{number}">{escape(cell_text(name, value))}</td>'


def head(results, name):
    """One <th> with the unit below and the meaning as a tip."""
    unit, meaning = results.notes.get(name, ("", ""))
    unit = "%" if as_percent(name) else "" if unit == "1" else unit
    side = "" if results.table[name].dtype.kind == "O" else ' class="n"'
    small = f"<small>{escape(unit)}</small>" if unit else ""
    return f'<th{side} scope="col" title="{escape(meaning)}"><button>{escape(name.replace("_", " "))}</button>{small}</th>'


def split_columns(results):
    """Columns to show, the telling ones first, and those with one value in all rows, which a line above the table tells instead."""
    table = sorted(results.table, key=lambda n: LEADING.index(n) if n in LEADING else len(LEADING))
    same = [n for n in table if results.size > 1 and n not in ("tensor", "format", "block", "method")
            and len({str(v) for v in results.table[n]}) == 1]
    return [n for n in table if n not in same], same


def table_html(results):
    """The table, with a line for what is the same in every row."""
    if not results.size:
        return "<p>The table has no rows.</p>"
    names, same = split_columns(results)
    note = ""
    if same:
        def told(n):
            value = cell_text(n, results.table[n][0])
            value = "none" if value in ("", "–") else value + (" %" if as_percent(n) else "")
            return f"{escape(n.replace('_', ' '))} {escape(value)}"
        note = '<p class="note">The same in every row: ' + "; ".join(told(n) for n in same) + ".</p>"
    heads = "".join(head(results, n) for n in names)
    rows = "\n".join("<tr>" + "".join(cell(n, results.table[n][i]) for n in names) + "</tr>" for i in range(results.size))
    return (f'{note}<input id="filter" type="search" placeholder="filter rows" aria-label="filter rows">'
            f'<div class="scroll"><table id="rows"><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
            '<p class="note">Click a heading to sort; hover it for its meaning. All digits: <a href="table.csv">table.csv</a>.</p>')


def summary_html(results):
    """Best method per format and block, as a small table."""
    rows = summary(results)
    outputs = any(r["output_error"][0] for r in rows)
    kinds = ("weight_error", "output_error") if outputs else ("weight_error",)
    heads = "<th>format, block</th>" + "".join(
        f'<th>best {kind[:6]} error</th><th class="n">error<small>%</small></th><th class="n">naive<small>%</small></th>'
        '<th class="n">less<small>%</small></th>' for kind in kinds)
    body = ""
    for row in rows:
        body += f"<tr><td>{escape(title_of(row['group']))}</td>"
        for kind in kinds:
            best, score = row[kind]
            numbers = (score.value if math.isnan(score.gain) else score.paired, score.naive, score.gain) if score else (math.nan,) * 3
            body += f"<td>{escape(listed(v.label for v in best)) if best else '–'}</td>"
            body += "".join(f'<td class="n">{f"{100 * n:.{d}f}" if math.isfinite(n) else "–"}</td>' for n, d in zip(numbers, (2, 2, 1)))
        body += "</tr>\n"
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>'


def figure_html(plot):
    """A figure, or a table of words, with its caption and its files."""
    if not plot.figure:
        return plain_table(plot)
    files = f'<a href="figures/{plot.name}.svg">SVG</a>, <a href="figures/{plot.name}.csv">CSV</a>'
    return (f"<h2>{escape(plot.title)}</h2>\n<figure><div class=\"sheet\">{inline_svg(plot)}</div>\n"
            f"<figcaption>{escape(plot.caption)} {files}</figcaption></figure>\n")


def plain_table(plot):
    """A small table; cells that start with a digit or a sign stand on the right."""
    header, rows = plot.shown
    number = [all(re.match(r"[-−+–\d]", row[i]) for row in rows) for i in range(len(header))]
    side = [' class="n"' if n else "" for n in number]
    heads = "".join(f'<th scope="col"{s}>{escape(h)}</th>' for h, s in zip(header, side))
    body = "\n".join("<tr>" + "".join(f"<td{s}>{escape(c)}</td>" for c, s in zip(row, side)) + "</tr>" for row in rows)
    return (f"<h2>{escape(plot.title)}</h2>\n<div class=\"scroll\"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
            f'<p class="note">{escape(plot.caption)} <a href="figures/{plot.name}.csv">CSV</a></p>\n')


def sweep_words(results):
    """Heading, line below it, what precedes the figures and what follows the table, of a sweep."""
    about = [f"{results.size} row{'s' * (results.size != 1)}"]
    if results.size:
        about += [f"{len(tensors(results))} tensor{'s' * (len(tensors(results)) != 1)}", listed(title_of(g) for g in grouped(results))]
    banner = "" if results.complete else ('<p class="banner" role="alert">Incomplete: the run was interrupted. Every row here is finished, '
                                          "but some are missing (go on with <code>fp4scope sweep --resume</code>).</p>\n")
    told = f'<p class="finding">{escape(finding(results))}</p>\n{summary_html(results)}' if results.size else ""
    configuration = escape(str(results.attributes.get("configuration", "not recorded")))
    return ("Block-scaled 4-bit quantization", "; ".join(about), banner + told,
            f"<details><summary>Configuration</summary><pre>{configuration}</pre></details>")


def audit_words(results):
    """The same of an audit."""
    original = results.attributes.get("original") or "no original"
    told = f'<p class="finding">{escape(audit.finding(results))}</p>\n' if results.size else ""
    return "Audit of a quantized checkpoint", f"{results.attributes.get('checkpoint', '')}; {original}", told, ""


def page(results, made, name):
    """index.html as text."""
    attributes = results.attributes
    heading, about, told, after = (audit_words if results.audits else sweep_words)(results)
    provenance = "; ".join(f"{escape(key.replace('_', ' '))} {escape(str(attributes[key]))}"
                           for key in ("tool", "tool_version", "git_commit", "seed", "schema_version") if key in attributes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>fp4scope: {escape(name)}</title>
<style>{part("page.css")}{theme_css(made)}</style>
</head>
<body>
<main>
<h1>{heading}: {escape(name)}</h1>
<p class="sub">{escape(about)}</p>
{told}
{"".join(figure_html(plot) for plot in made)}<h2>All results</h2>
{table_html(results)}
{after}
<footer>{provenance}</footer>
</main>
{f"<script>{part('page.js')}</script>" if results.size else ""}
</body>
</html>
"""
