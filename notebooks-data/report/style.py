"""How figures look: colours, marks, legends, panels; a figure as SVG, light or following the page's theme."""
import functools
import io
import math
import re
import warnings
from dataclasses import dataclass

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .groups import grouped, natural, rank, shorten
from .groups import METHODS as METHOD_ORDER

# Colour and marker per method, the same in every figure. Every colour stands out against a light and, after `dark`, a dark sheet.
METHODS = {
    "naive": ("#333333", "o"), "static6": ("#7d7d7d", "s"), "static4": ("#bd7b00", "D"), "floor": ("#87871e", "v"),
    "prevent_zero": ("#a8327e", ">"), "4over6_prevent_zero": ("#5a4fcf", "H"), "oas": ("#2e7d54", "<"), "uos": ("#b3446c", ">"),
    "macro": ("#8a5a00", "s"), "macro_search": ("#8a5a00", "D"), "macro_oas_search": ("#8a5a00", "d"), "residual": ("#4f7fb0", "8"),
    "residual_half": ("#4f7fb0", "h"),
    "ceil": ("#d55e00", "^"), "even": ("#c2619a", "P"), "rceil": ("#882255", "X"), "4over6": ("#2f8fca", "h"),
    "scalesweep": ("#6478c8", "<"), "ms_eden": ("#a0522d", ">"), "sse": ("#0064a8", "d"), "exhaustive": ("#332288", "*"),
    "closed_form": ("#5b8c00", "^"), "coordinate": ("#117733", "v"), "decoupled": ("#7a6a2b", "P"), "joint": ("#00666b", "X"),
    "hessian": ("#009068", "p"), "hessian_row": ("#3c9a3c", "D"), "hessian_row_fast": ("#009068", "s"),
    "hessian_row_joint": ("#117733", "*"), "gptq": ("#aa4499", "o"), "gptq_sse": ("#aa4499", "d"), "gptq_hessian": ("#7b3fb5", "p"),
    "gptq_feedback": ("#7b3fb5", ">"), "gptq_joint": ("#d0387b", "X"), "gptq_ordered": ("#d0387b", "<"),
}
SPARE = (("#b3446c", "<"), ("#2e7d54", ">"), ("#661100", "8"), ("#4f7fb0", "H"), ("#a8780f", "s"), ("#5a4fcf", "v"))
MARKERS = "os^Dv<>Pp"  # of one method's further settings
INK, SOFT, FAINT, RULE, SHEET = "#222222", "#555555", "#8a8a8a", "#dddddd", "#ffffff"

STYLE = {
    "svg.hashsalt": "fp4scope", "svg.fonttype": "path", "text.parse_math": False, "font.family": "DejaVu Sans",
    "font.size": 9.0, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 8.5, "legend.frameon": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "savefig.edgecolor": "none",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "grid.color": RULE, "grid.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
}


# Themes

def oklab(colour):
    """(lightness, a, b) of a colour in Ottosson's OKLab: equal steps look equal."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    l, m, s = (x ** (1 / 3) for x in (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
                                      0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
                                      0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b))
    return (0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s, 1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
            0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s)


def linear_rgb(lightness, a, b):
    l, m, s = ((lightness + p * a + q * b) ** 3 for p, q in
               ((0.3963377774, 0.2158037573), (-0.1055613458, -0.0638541728), (-0.0894841775, -1.2914855480)))
    return (4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
            -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s)


def from_oklab(lightness, a, b):
    """The colour #rrggbb; paler where the screen has none so vivid."""
    for fade in range(21):
        rgb = linear_rgb(lightness, a * (1 - fade / 20), b * (1 - fade / 20))
        if all(-1e-4 <= c <= 1.0001 for c in rgb):
            break
    rgb = [min(max(c, 0.0), 1.0) for c in rgb]
    return "#" + "".join(f"{round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055)):02x}" for c in rgb)


def dark(colour, inverts=False):
    """What a colour of a light sheet becomes on a dark one: greys change ends, and all colours of a map do; data colours get lighter."""
    lightness, a, b = oklab(colour)
    if inverts or math.hypot(a, b) < 0.02:
        return from_oklab(0.245 + 0.9 * (1 - lightness), a, b)
    return from_oklab(min(0.62 + 0.5 * max(lightness - 0.32, 0.0), 0.95), a, b)


# Figures

@dataclass
class Plot:
    """A figure, how to read it, and the data behind it. A table of the page is a Plot whose figure is None."""
    name: str
    title: str
    caption: str
    figure: object
    header: list
    rows: list
    inverts: bool = False  # a map, whose colours change ends on a dark sheet
    shown: tuple = ()      # of a table: (header, rows) in words

    @functools.cached_property
    def svg(self):
        return to_svg(self.figure)


def styled(function):
    """Runs a function under this file's style, whatever the user's settings are."""
    @functools.wraps(function)
    def wrapped(*arguments, **keywords):
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return function(*arguments, **keywords)
    return wrapped


def on_paper(svg):
    """The figure with a light background of its own, so that a file is readable on any page."""
    return re.sub(r"(<svg [^>]*>)", r'\1\n <rect width="100%" height="100%" fill="#fdfdfc"/>', svg, count=1, flags=re.DOTALL)


@styled
def to_svg(figure):
    """The figure as SVG text: no date, no program, the same bytes each time."""
    FigureCanvasSVG(figure)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.08, transparent=True,
                       metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return numbered(out.getvalue().decode("utf-8"))


def numbered(svg):
    """The same figure with its clip paths numbered: their ids are hashes of positions, whose last bits differ from run to run."""
    names = {}
    return re.sub(r'(\bid="|url\(#)(p[0-9a-f]{10})\b', lambda m: m[1] + names.setdefault(m[2], f"clip{len(names)}"), svg)


def variable(colour, inverts):
    return f"--{'m' if inverts else 'c'}{colour[1:]}"


def themed_svg(plot):
    """The figure for a page, with variables of `theme_css` for its colours: no prolog, no metadata, ids of its own, a name for readers."""
    text = plot.svg
    text = text[text.index("<svg"):].strip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{plot.name}-", text)
    text = re.sub(r"(?<=: |=\")#[0-9a-f]{6}(?=[;\"])", lambda m: f"var({variable(m[0], plot.inverts)})", text)
    return text


def theme_css(plots):
    """The variables of these figures' colours, for light and for dark pages."""
    used = sorted({(colour, plot.inverts) for plot in plots if plot.figure for colour in re.findall(r"(?<=: |=\")#[0-9a-f]{6}(?=[;\"])", plot.svg)})
    light = "".join(f"{variable(*c)}:{c[0]};" for c in used)
    night = "".join(f"{variable(*c)}:{dark(*c)};" for c in used)
    return f":root{{{light}}}\n@media(prefers-color-scheme:dark){{:root{{{night}}}}}\n" if used else ""


# Marks and panels

def mixed(colour, other, share):
    """A colour with a share of another in it."""
    return tuple(round((1 - share) * a + share * b, 4) for a, b in zip(to_rgb(colour), to_rgb(other)))


def looks(results):
    """{Variant: (colour, marker)}: a method's own, darker and with another marker for its further settings."""
    variants = {v for group in grouped(results).values() for v in group}
    methods = sorted({v.method for v in variants} - set(METHODS))
    palette = {**METHODS, **{m: SPARE[i % len(SPARE)] for i, m in enumerate(methods)}}
    out = {}
    for method, (colour, marker) in palette.items():
        same = sorted((v for v in variants if v.method == method), key=lambda v: natural(v.settings))
        others = [m for m in MARKERS if m != marker]
        for i, v in enumerate(same):
            other = SOFT if method == "naive" else INK
            out[v] = (to_rgb(colour), marker) if i == 0 else (mixed(colour, other, min(0.25 * i, 0.6)), others[(i - 1) % len(others)])
    return out


def percent(value, digits=2):
    return f"{100 * value:.{digits}f}\u00a0%"


def signed(value, places):
    """A number with a proper sign; none for zero."""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def dot(colour, marker, size=6.5, **more):
    """Line2D settings of a method's mark."""
    size *= {"*": 1.35, "d": 1.1, "h": 1.1, "p": 1.1, "D": 0.85}.get(marker, 1.0)
    return dict(linestyle="none", marker=marker, markersize=size, markerfacecolor=colour, markeredgecolor=SHEET,
                markeredgewidth=0.5, **more)


def legend(figure, handles, labels, columns=None, where=(1.0, 0.98), loc="upper left", **more):
    """A legend outside the axes; saving grows the picture around it."""
    figure.legend(handles, labels, loc=loc, bbox_to_anchor=where, ncol=columns or 1, borderaxespad=0.6, handletextpad=0.5, **more)


def in_order(variants):
    """Variants without repeats, in the order in which everything is shown."""
    return sorted(dict.fromkeys(variants), key=lambda v: (rank(METHOD_ORDER, v.method), natural(v.settings)))


def method_legend(figure, variants, look, lines=False, extra=(), **more):
    """Names of marks (or of lines with marks), and of `extra` (handle, label) pairs."""
    variants = in_order(variants)
    style = dict(linestyle="-", linewidth=1.3) if lines else {}
    handles = [Line2D([], [], **{**dot(*look[v], size=7 if not lines else 5), "color": look[v][0], **style}) for v in variants]
    labels = [shorten(v.label) for v in variants]
    legend(figure, [*handles, *(h for h, _ in extra)], [*labels, *(label for _, label in extra)], **more)


def stacked_axes(heights, width, row_height, extra):
    """One panel above the other, each as high as it has rows, with one x axis."""
    figure = Figure(figsize=(width, row_height * sum(heights) + 0.42 * len(heights) + extra), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.05, hspace=0.0)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    return figure, axes


def grid_axes(count, width, height, columns=3):
    """A figure of `count` panels; the panels that are left over are hidden."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(width * columns + 0.4, height * lines + 0.3), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes[:count]


def paired_axes(count, width, heights, columns=3):
    """`count` panels of two axes one above the other with one x axis: figure, [(upper, lower)]."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(width * columns + 0.4, (sum(heights) + 0.3) * lines + 0.3), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06)
    outer = figure.add_gridspec(lines, columns)
    pairs = []
    for i in range(count):
        inner = outer[i // columns, i % columns].subgridspec(2, 1, height_ratios=heights)
        upper = figure.add_subplot(inner[0])
        pairs.append((upper, figure.add_subplot(inner[1], sharex=upper)))
        upper.tick_params(axis="x", labelbottom=False)
    return figure, pairs


def margin_text(ax, y, points, text, **style):
    """Text that ends so many points to the right of the axes."""
    ax.annotate(text, (1, y), (points, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points", ha="right", va="center",
                annotation_clip=False, **{"fontsize": 8.5, **style})


def log_range(axis, values):
    """A logarithmic axis around these values, with plain numbers: at least a factor of two, so that it has ticks."""
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.08, math.sqrt(max(2.0 / (high / low), 1.0)), 1.1)
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(low / margin, high * margin)
    steps = (1, 2, 5) if high / low < 100 else (1,)
    axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high / low < 5 else steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
