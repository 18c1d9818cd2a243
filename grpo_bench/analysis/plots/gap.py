"""The gap between what was trained on and what is true: a curve, not a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_bench.analysis.plots.curves import Course, Curves
from grpo_bench.analysis.plots.style import (
    LEFT,
    LINE,
    QUIET,
    RIGHT,
    WIDTH,
    Styles,
    legend,
    legend_rows,
    limits,
    number_ticks,
    page,
    sign,
    stroke,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE, PANEL = 14.0, 96.0
SECOND = 50.0
"""Room for the second panel's numbers."""


@dataclass(frozen=True)
class Path:
    """One label's mean over seeds, point by point, as changes since the untrained base."""

    label: str
    nfe: tuple[float, ...]
    proxy: tuple[float, ...]
    gold: tuple[float, ...]


@dataclass(frozen=True)
class Gap:
    """What the gap's plot shows."""

    title: str
    paths: tuple[Path, ...]


def collect(curves: Curves | None) -> Gap | None:
    """The plot's numbers from the curves over nfe; None where the runs trained on gold, so that there is no gap."""
    if curves is None or not curves.learners or not all(learner.mean.proxy for learner in curves.learners):
        return None
    return Gap(curves.title, tuple(_path(learner.label, learner.mean) for learner in curves.learners))


def _path(label: str, mean: Course) -> Path:
    proxy, gold = mean.proxy, mean.gold
    return Path(label, mean.cost, tuple(value - proxy[0] for value in proxy), tuple(value - gold[0] for value in gold))


def draw(data: Gap, styles: Styles) -> Figure:
    """Left: what gold gained for what the proxy did. Right: how far the proxy has run ahead, against nfe."""
    labels = [path.label for path in data.paths]
    rows = legend_rows(labels)
    drawn = page(TITLE + PANEL + 40 + rows * LINE)
    drawn.text(4, 7, data.title)
    width = (WIDTH - LEFT - SECOND - RIGHT) / 2
    left = drawn.panel(LEFT, TITLE, width, PANEL)
    right = drawn.panel(LEFT + SECOND + width, TITLE, width, PANEL)
    for path in data.paths:
        style = styles[path.label]
        _line(left, path.proxy, path.gold, styles, path.label)
        ahead = [proxy - gold for proxy, gold in zip(path.proxy, path.gold, strict=True)]
        _line(right, path.nfe, ahead, styles, path.label)
        for axes, x, y in ((left, path.proxy[-1], path.gold[-1]), (right, path.nfe[-1], ahead[-1])):
            sign(axes, [x], [y], style)
    gold = limits([value for path in data.paths for value in path.gold])
    proxy = limits([value for path in data.paths for value in path.proxy])
    left.plot([0, 1], [0, 1], color=QUIET, linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=1)
    left.set(xlim=proxy, ylim=gold)
    ahead_of_all = [proxy - gold for path in data.paths for proxy, gold in zip(path.proxy, path.gold, strict=True)]
    right.set_ylim(limits(ahead_of_all, least=0.02))
    right.set_xlim(0, 1.04 * max(path.nfe[-1] for path in data.paths))
    right.axhline(0, color=QUIET, linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=1)
    number_ticks(left, "x", 3)
    number_ticks(left, "y", 5)
    number_ticks(right, "x", 4, costs=True)
    number_ticks(right, "y", 5)
    middle, below = TITLE + PANEL / 2, TITLE + PANEL + 16
    drawn.text(8, middle, "gain in gold", turn=90, align="center")
    drawn.text(LEFT + width / 2, below, "gain in proxy", align="center")
    drawn.text(LEFT + width + 10, middle, "proxy's gain less gold's", turn=90, align="center")
    drawn.text(LEFT + SECOND + 1.5 * width, below, "nfe", align="center")
    legend(drawn, styles, labels, below + 14)
    drawn.foot("means over seeds, the sign at the end; dotted: no gap")
    return drawn.figure


def _line(axes: Axes, x: tuple[float, ...], y: tuple[float, ...] | list[float], styles: Styles, label: str) -> None:
    stroke(axes, x, y, styles[label])
