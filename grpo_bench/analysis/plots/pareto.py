"""Gold against what was spent: every label's mean at the same 20 costs, where it ends, and what its seeds attained."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.analysis.attainment import attainment
from grpo_bench.analysis.axes import TITLES, Axis
from grpo_bench.analysis.hypervolume import COSTS, grid
from grpo_bench.analysis.plots.style import (
    FAINT,
    LEFT,
    LINE,
    QUIET,
    RIGHT,
    SMALL,
    WIDTH,
    Page,
    Styles,
    end_ticks,
    limits,
    number_ticks,
    page,
    sign,
    stroke,
)
from grpo_bench.analysis.reading import curve_at
from grpo_bench.analysis.summary import ViewSummary
from grpo_bench.palette import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from grpo_bench.analysis.study import View

COLUMNS = 3
TITLE, MAIN, CELL, GAP = 14.0, 128.0, 46.0, 19.0
LEADER = 4.0


@dataclass(frozen=True)
class Attained:
    """The staircase that at least `level` of the seeds attained."""

    level: int
    cost: tuple[float, ...]
    value: tuple[float, ...]


@dataclass(frozen=True)
class Front:
    """One label over a cost axis."""

    label: str
    seeds: int
    cost: tuple[float, ...]
    """0 and the 20 costs of the grid."""
    mean: tuple[float, ...]
    """Mean gold over the seeds at each of them."""
    attained: tuple[Attained, ...]
    end: tuple[float, float, float]
    """Mean gold at the cut, and its 95% interval."""


@dataclass(frozen=True)
class Pareto:
    """What a Pareto plot shows."""

    title: str
    axis: Axis
    cut: float
    runs: int
    untimed: int
    base: float
    floor: float
    """Half of the band about the base, in gold; NaN where the base was evaluated once."""
    fronts: tuple[Front, ...]
    leaders: tuple[tuple[str, float, float], ...]
    """Whose mean is the highest, from one cost to another."""


def collect(view: View, summary: ViewSummary, axis: Axis, title: str) -> Pareto | None:
    """The plot's numbers; None where no run may be drawn over the axis."""
    found = next((one for one in summary.axes if one.axis == axis), None)
    if found is None or not found.cut > 0:
        return None
    cost_M = np.concatenate([[0.0], grid(found.cut)])
    fronts = []
    for label in view.labels:
        curves = [curve for curve in view.on(axis) if curve.label == label]
        if not curves:
            continue
        value_SM = np.array([curve_at(curve, axis, cost_M) for curve in curves])
        surfaces = attainment([(cost_M[1:], value_M[1:]) for value_M in value_SM])
        end = summary.method(label).gold_at[axis]
        fronts.append(
            Front(
                label,
                len(curves),
                tuple(cost_M.tolist()),
                tuple(value_SM.mean(axis=0).tolist()),
                tuple(Attained(one.level, tuple(one.cost_P), tuple(one.value_P)) for one in surfaces),
                (end.mean, end.low, end.high),
            )
        )
    # A cost of the grid stands for what lies between it and the one before.
    leaders = tuple((one.label, one.first - found.cut / COSTS, one.last) for one in found.frontier)
    floor = summary.floor.gold if summary.floor else float("nan")
    return Pareto(
        title, axis, found.cut, found.runs, found.untimed, summary.references.base, floor, tuple(fronts), leaders
    )


def draw(data: Pareto, styles: Styles) -> Figure:
    """Above: means, and at the right every label at the cut. Below: a panel a label with what its seeds attained."""
    columns = min(COLUMNS, len(data.fronts))
    rows = -(-len(data.fronts) // columns)
    below = TITLE + MAIN + 10
    cells = below + 26 + LINE
    height = cells + rows * (CELL + GAP) + 20
    drawn = page(height)
    drawn.text(4, 7, data.title)
    span = _span(data)
    strip = min(90.0, max(34.0, 8.0 + 5.6 * len(data.fronts)))
    main = drawn.panel(LEFT, TITLE, WIDTH - LEFT - strip - 6 - RIGHT, MAIN)
    _means(main, data, styles, span)
    _ends(drawn.panel(WIDTH - RIGHT - strip, TITLE, strip, MAIN), data, styles, span)
    drawn.text(8, TITLE + MAIN / 2, "gold, held out", turn=90, align="center")
    drawn.text(WIDTH - RIGHT - strip / 2, TITLE + MAIN + 7, "at the cut", size=SMALL, colour=QUIET, align="center")
    drawn.text(WIDTH / 2, below + 7, TITLES[data.axis], align="center")
    drawn.text(WIDTH / 2, below + 7 + LINE, _cut(data), size=SMALL, colour=QUIET, align="center")
    drawn.text(WIDTH / 2, below + 7 + 2 * LINE, _key(data), size=SMALL - 0.5, colour=QUIET, align="center")
    for place, front in enumerate(data.fronts):
        row, column = divmod(place, columns)
        _cell(drawn, data, front, styles[front.label], span, (row, column), cells + GAP - 6 + row * (CELL + GAP))
    drawn.text(
        WIDTH / 2, height - 7, "shaded: attained by at least k of n seeds; line: their mean; grey: the other means",
        size=SMALL - 0.5, colour=QUIET, align="center",
    )  # fmt: skip
    return drawn.figure


def _cut(data: Pareto) -> str:
    left_out = f"; {data.untimed} untimed runs left out" if data.untimed else ""
    least = f"the least that any of the {data.runs} runs spent" if data.runs > 1 else "where the run ended"
    return f"cut at {data.cut:,.0f}, {least}{left_out}"


def _key(data: Pareto) -> str:
    """What the upper panels show beside the means."""
    whose = "bar on top: whose mean is the highest"
    known = any(front.end[1] == front.end[1] for front in data.fronts)
    return f"{whose}; right: means and 95% intervals" if known else whose


def _span(data: Pareto) -> tuple[float, float]:
    means = [value for front in data.fronts for value in front.mean]
    surfaces = [value for front in data.fronts for one in front.attained for value in one.value]
    floor = data.floor if data.floor == data.floor else 0.0
    ends = [value for front in data.fronts for value in front.end[1:]]
    return limits([*means, *surfaces, data.base - floor, data.base + floor], ends, least=0.05 * abs(data.base))


def _base(axes: Axes, data: Pareto) -> None:
    if data.floor == data.floor:
        axes.axhspan(data.base - data.floor, data.base + data.floor, color=FAINT, linewidth=0, zorder=0)
    axes.axhline(data.base, color=QUIET, linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=1)


def _means(axes: Axes, data: Pareto, styles: Styles, span: tuple[float, float]) -> None:
    _base(axes, data)
    for place, front in enumerate(data.fronts):
        style = styles[front.label]
        stroke(axes, front.cost, front.mean, style)
        marked = slice(1 + place % 4, None, 5)
        sign(axes, front.cost[marked], front.mean[marked], style, size=2.6)
    word = "untrained" if data.floor != data.floor else "untrained, and its noise floor"
    room = data.base - span[0] > 0.08 * (span[1] - span[0])  # for a line of text below the base
    axes.annotate(
        word, (1, data.base), xycoords=("axes fraction", "data"), xytext=(-1, -2 if room else 2),
        textcoords="offset points", fontsize=SMALL - 0.5, color=QUIET, ha="right", va="top" if room else "bottom",
    )  # fmt: skip
    axes.set(xlim=(0, data.cut), ylim=span)
    number_ticks(axes, "x", 4, costs=True)
    number_ticks(axes, "y", 6)
    # Whose mean is highest, as a ribbon along the top.
    for label, first, last in data.leaders:
        axes.plot(
            [first, last], [1, 1], transform=axes.get_xaxis_transform(), color=styles[label].colour, linewidth=LEADER,
            solid_capstyle="butt", clip_on=False, zorder=5,
        )  # fmt: skip
        if styles[label].hollow:
            axes.plot([first, last], [1, 1], transform=axes.get_xaxis_transform(), color="white", linewidth=LEADER / 3,
                      solid_capstyle="butt", clip_on=False, zorder=6)  # fmt: skip


def _ends(axes: Axes, data: Pareto, styles: Styles, span: tuple[float, float]) -> None:
    _base(axes, data)
    for place, front in enumerate(data.fronts):
        mean, low, high = front.end
        style = styles[front.label]
        if low == low:
            axes.plot([place, place], [low, high], color=style.colour, linewidth=1.0, solid_capstyle="butt")
        for end, edge, mark in ((low, span[0], "v"), (high, span[1], "^")):
            if (end < edge) if mark == "v" else (end > edge):  # it goes on beyond the panel
                axes.plot([place], [edge], mark, color=style.colour, markersize=3, clip_on=False)
        sign(axes, [place], [mean], style)
    axes.set(xlim=(-0.9, len(data.fronts) - 0.1), ylim=span)
    number_ticks(axes, "y", 6)
    axes.set_xticks([])
    axes.tick_params(left=False, labelleft=False)
    axes.spines["left"].set_visible(False)


def _cell(
    drawn: Page, data: Pareto, front: Front, style: Style, span: tuple[float, float], place: tuple[int, int], top: float
) -> None:
    """One label: its attainment bands and mean, on top of everybody's mean."""
    row, column = place
    columns = min(COLUMNS, len(data.fronts))
    width = (WIDTH - LEFT - RIGHT - (columns - 1) * 8) / columns
    left = LEFT + column * (width + 8)
    axes = drawn.panel(left, top, width, CELL)
    _base(axes, data)
    for other in data.fronts:
        axes.plot(other.cost, other.mean, color="#D0D0D0", linewidth=0.5, zorder=1)
    for upper, lower in pairwise(front.attained):
        _band(axes, upper, lower, style, data.cut)
    for one in front.attained:
        axes.plot([*one.cost, data.cut], [*one.value, one.value[-1]], drawstyle="steps-post", color=style.colour,
                  linewidth=0.35, alpha=0.8, zorder=3)  # fmt: skip
    stroke(axes, front.cost, front.mean, style, width=0.9, over=4)
    axes.set(xlim=(0, data.cut), ylim=span)
    number_ticks(axes, "y", 3)
    end_ticks(axes, data.cut)
    axes.tick_params(labelleft=column == 0, labelbottom=row == (len(data.fronts) - 1 - column) // columns)
    levels = ", ".join(str(one.level) for one in front.attained)
    drawn.sample(left, top - 6, style, 9)
    drawn.fitted(left + 12, top - 6, front.label, width - 6)
    axes.annotate(
        f"{levels} of {front.seeds}", (0, 1), xycoords="axes fraction", xytext=(3, -1), textcoords="offset points",
        fontsize=SMALL - 1, color=QUIET, ha="left", va="top",
    )  # fmt: skip


def _band(axes: Axes, upper: Attained, lower: Attained, style: Style, cut: float) -> None:
    """The area between two staircases, the upper one attained by fewer seeds."""
    cost_P = np.unique([*upper.cost, *lower.cost, cut])
    sides = []
    for one in (upper, lower):
        at_P = np.searchsorted(one.cost, cost_P, side="right") - 1
        sides.append(np.where(at_P >= 0, np.array(one.value)[np.maximum(at_P, 0)], np.nan))
    axes.fill_between(cost_P, sides[0], sides[1], step="post", color=style.colour, alpha=0.22, linewidth=0, zorder=2)
