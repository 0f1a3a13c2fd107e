"""Figures of the block scales: how far methods move them, and which codes they use."""
from matplotlib.figure import Figure

from .groups import grouped, is_naive, left_out, sampled, shorten, title_of
from .style import INK, RULE, SOFT, Plot, looks, margin_text, percent, signed, styled


PANELS = 12


def moves_of(results, rows):
    """{offset: blocks} summed over rows, or {} if there is no histogram."""
    total = {}
    for i in rows:
        for offset, blocks in results.moves.get(results.table["run"][i], {}).items():
            total[offset] = total.get(offset, 0) + blocks
    return total if sum(total.values()) else {}


@styled
def scale_moves_plot(results):
    """How far each method moves the scale code from the naive one: a histogram per method, format and block."""
    groups, data = {}, []
    for g, variants in grouped(results).items():
        for v, rows in variants.items():
            moves = moves_of(results, rows)
            if not moves or is_naive(g, variants, v):
                continue
            total = sum(moves.values())
            groups.setdefault(g, {})[v] = {offset: blocks / total for offset, blocks in moves.items()}
            data += [[*g, *v.cells, offset, blocks, blocks / total] for offset, blocks in sorted(moves.items())]
    if not groups:
        return None
    look = looks(results)
    shown = {g: groups[g] for g in sampled(groups, PANELS)}
    figure, axes = format_axes(shown)
    for g, shares in shown.items():
        draw_moves(axes[g], g, shares, look)
    figure.supxlabel("scale code minus naive code (codes)", fontsize=9)
    figure.supylabel("share of blocks (0 to 100 %)", fontsize=9)
    caption = ("Where a method puts the block scale, counted in codes from the naive one at the same tensor scale; right of the dotted "
               "line the scale is larger. In E4M3 a code is a step of 1/16 to 1/8 of the scale, in UE8M0 a factor of two. All bars have "
               "one scale: one that ends just below the next line holds all blocks. The number on the right is the share of blocks that "
               "moved. Bars at 16 hold what lies beyond, too." + left_out(shown, groups))
    return Plot("scale_moves", "Scale moves", caption, figure,
                ["format", "block", "method", "settings", "offset", "blocks", "share"], data)


def format_axes(groups):
    """A figure with a line of panels per format, each line as high as its methods need: {group: axes}."""
    lines = []
    for g in groups:
        if lines and lines[-1][-1][0] == g[0] and len(lines[-1]) < 3:
            lines[-1].append(g)
        else:
            lines.append([g])
    heights = [max(len(groups[g]) for g in line) + 0.4 for line in lines]
    columns = max(len(line) for line in lines)
    figure = Figure(figsize=(3.4 * columns + 0.5, max(2.0, 0.38 * sum(heights) + 0.55 * len(lines) + 0.3)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06)
    grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
    return figure, {g: figure.add_subplot(grid[i, j]) for i, line in enumerate(lines) for j, g in enumerate(line)}


def draw_moves(ax, group, shares, look):
    """One panel: a small histogram per method on baselines one apart."""
    reach = max([abs(o) for s in shares.values() for o, share in s.items() if share > 0] + [1])
    ax.set_title(title_of(group))
    ax.axvline(0, color=INK, linewidth=0.7, linestyle=":", zorder=0)
    margin_text(ax, -1.12, 34, "moved", fontsize=7.5, color=SOFT)
    for y, (v, share) in enumerate(shares.items()):
        ax.axhline(y, color=RULE, linewidth=0.6, zorder=0)
        offsets = [o for o in sorted(share) if share[o] > 0]
        ax.bar(offsets, [-0.88 * share[o] for o in offsets], bottom=y, width=0.8, color=look[v][0], linewidth=0)
        margin_text(ax, y - 0.3, 34, percent(1 - share.get(0, 0.0), 0), color=SOFT)
    ax.set_xlim(-reach - 0.7, reach + 0.7)
    ax.set_ylim(len(shares) - 0.9, -1.1)
    ax.set_yticks([y - 0.3 for y in range(len(shares))])
    ax.set_yticklabels([shorten(v.label, 22) for v in shares])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ticks = [t for t in range(-16, 17, 1 if reach < 5 else 2 if reach < 9 else 4 if reach < 13 else 8) if abs(t) <= reach]
    ax.set_xticks(ticks)
    ax.set_xticklabels([{-16: "≤−16", 16: "≥16"}.get(t, signed(t, 0)) for t in ticks])

