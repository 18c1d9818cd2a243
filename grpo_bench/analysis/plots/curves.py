"""Learning curves: gold and proxy against what was spent, a panel a label; thin lines are seeds, thick ones means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.analysis.axes import TITLES, Axis
from grpo_bench.analysis.hypervolume import grid
from grpo_bench.analysis.plots.style import (
    LEFT,
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
    stroke,
)
from grpo_bench.analysis.summary import ViewSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from grpo_bench.analysis.study import Curve, View

COLUMNS = 3
CELL, GAP, TITLE = 62.0, 18.0, 14.0


@dataclass(frozen=True)
class Course:
    """One seed's points, or the mean of the seeds."""

    cost: tuple[float, ...]
    gold: tuple[float, ...]
    proxy: tuple[float, ...]
    """Empty where the run trained on gold."""


@dataclass(frozen=True)
class Learner:
    """One label's curves."""

    label: str
    seeds: tuple[int, ...]
    courses: tuple[Course, ...]
    """One a seed, as measured."""
    mean: Course


@dataclass(frozen=True)
class Curves:
    """What the learning curves over one axis show."""

    title: str
    axis: Axis
    untimed: int
    base: float
    targets: tuple[tuple[str, float], ...]
    """Name, such as 50 (per cent of the baseline's gain), and the gold to reach."""
    learners: tuple[Learner, ...]


def collect(view: View, summary: ViewSummary, axis: Axis, title: str) -> Curves | None:
    """The plot's numbers; None where no run may be drawn over the axis."""
    found = next((one for one in summary.axes if one.axis == axis), None)
    if found is None or not found.cut > 0:
        return None
    learners = []
    for label in view.labels:
        runs = [curve for curve in view.on(axis) if curve.label == label]
        if runs:
            courses = tuple(_course(run, axis, gold_only=view.gold_is_proxy) for run in runs)
            learners.append(Learner(label, tuple(run.seed for run in runs), courses, mean(courses)))
    targets = tuple(summary.references.targets.items())
    return Curves(title, axis, found.untimed, summary.references.base, targets, tuple(learners))


def _course(run: Curve, axis: Axis, *, gold_only: bool) -> Course:
    proxy = () if gold_only else tuple(run.column("proxy").tolist())
    return Course(tuple(run.cost(axis).tolist()), tuple(run.gold.tolist()), proxy)


def mean(courses: tuple[Course, ...]) -> Course:
    """The mean over seeds: at their points where all have the same costs, else at 0 and the 20 costs of a grid.

    The grid ends where the first of the seeds does, so that the mean is of all of them everywhere.
    """
    cost_M = np.array(courses[0].cost)
    if any(one.cost != courses[0].cost for one in courses):
        cost_M = np.concatenate([[0.0], grid(min(one.cost[-1] for one in courses))])
    gold_M = np.mean([np.interp(cost_M, one.cost, one.gold) for one in courses], axis=0)
    proxy: tuple[float, ...] = ()
    if courses[0].proxy:
        proxy = tuple(np.mean([np.interp(cost_M, one.cost, one.proxy) for one in courses], axis=0).tolist())
    return Course(tuple(cost_M.tolist()), tuple(gold_M.tolist()), proxy)


def draw(data: Curves, styles: Styles) -> Figure:
    """A panel a label, all to one scale."""
    columns = min(COLUMNS, len(data.learners))
    rows = -(-len(data.learners) // columns)
    bottom = TITLE + rows * (CELL + GAP)
    drawn = page(bottom + 38)
    drawn.text(4, 7, data.title)
    values = [value for one in data.learners for course in one.courses for value in (*course.gold, *course.proxy)]
    span = limits([*values, *(gold for _, gold in data.targets)], least=0.05 * abs(data.base))
    end = max(course.cost[-1] for one in data.learners for course in one.courses)
    width = (WIDTH - LEFT - RIGHT - (columns - 1) * 8) / columns
    for place, learner in enumerate(data.learners):
        row, column = divmod(place, columns)
        left, top = LEFT + column * (width + 8), TITLE + GAP - 6 + row * (CELL + GAP)
        axes = drawn.panel(left, top, width, CELL)
        _lines(axes, data, learner, styles)
        axes.set(xlim=(0, end), ylim=span)
        number_ticks(axes, "y", 4)
        end_ticks(axes, end)
        last = row == (len(data.learners) - 1 - column) // columns
        axes.tick_params(labelleft=column == 0, labelbottom=last)
        drawn.sample(left, top - 6, styles[learner.label], 9)
        drawn.fitted(left + 12, top - 6, learner.label, width - 6)
    drawn.text(8, TITLE + rows * (CELL + GAP) / 2, "held-out score", turn=90, align="center")
    left_out = f"; {data.untimed} untimed runs left out" if data.untimed else ""
    drawn.text(WIDTH / 2, bottom + 14, TITLES[data.axis] + left_out, align="center")
    _key(drawn, data, bottom + 27)
    return drawn.figure


def _lines(axes: Axes, data: Curves, learner: Learner, styles: Styles) -> None:
    style = styles[learner.label]
    for _, gold in data.targets:
        axes.axhline(gold, color=QUIET, linewidth=0.45, linestyle=(0, (1, 2)), zorder=1)
    for course in learner.courses:
        axes.plot(course.cost, course.gold, color=style.colour, linewidth=0.45, alpha=0.6, zorder=3)
        if course.proxy:
            axes.plot(course.cost, course.proxy, color=QUIET, linewidth=0.3, alpha=0.55, zorder=2)
    stroke(axes, learner.mean.cost, learner.mean.gold, style, width=1.3, over=5)
    if learner.mean.proxy:
        axes.plot(learner.mean.cost, learner.mean.proxy, color=QUIET, linewidth=0.9, linestyle=(0, (3, 1)), zorder=4)


def _key(drawn: Page, data: Curves, top: float) -> None:
    parts = ["colour: gold" + (", grey: proxy" if data.learners[0].mean.proxy else ""), "thin: seeds, thick: mean"]
    if data.targets:
        parts.append(f"dotted: targets ({', '.join(name for name, _ in data.targets)}%)")
    words = "; ".join(parts)
    drawn.text(WIDTH / 2, top, words, size=SMALL - 0.5, colour=QUIET, align="center")
