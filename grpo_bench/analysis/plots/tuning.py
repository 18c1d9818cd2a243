"""What another learning rate would have done: the gain in gold of each label at each factor, on the tuning seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
    from matplotlib.figure import Figure

    from grpo_bench.analysis.study import View

TITLE, PANEL = 14.0, 100.0


@dataclass(frozen=True)
class Tuned:
    """One label at one learning rate."""

    label: str
    factor: float
    gains: tuple[float, ...]
    """One a tuning seed."""


@dataclass(frozen=True)
class Tuning:
    """What the plot shows."""

    title: str
    tuned: tuple[Tuned, ...]


def collect(view: View, title: str) -> Tuning | None:
    """The plot's numbers; None where no label ran at two learning rates."""
    tuned = []
    for label in dict.fromkeys(curve.label for curve in view.tuning):
        for factor in sorted({curve.factor for curve in view.retuned if curve.label == label}):
            runs = [curve for curve in view.retuned if (curve.label, curve.factor) == (label, factor)]
            gains = tuple(run.gain() for run in sorted(runs, key=lambda run: run.seed))
            tuned.append(Tuned(label, factor, gains))
    return Tuning(title, tuple(tuned)) if len({one.factor for one in tuned}) > 1 else None


def draw(data: Tuning, styles: Styles) -> Figure:
    """Gain against the learning rate's factor: a dot a seed, a line through the means."""
    labels = list(dict.fromkeys(one.label for one in data.tuned))
    factors = sorted({one.factor for one in data.tuned})
    drawn = page(TITLE + PANEL + 38 + LINE * legend_rows(labels))
    drawn.text(4, 7, data.title)
    axes = drawn.panel(LEFT, TITLE, WIDTH - LEFT - RIGHT, PANEL)
    axes.axhline(0, color=QUIET, linewidth=0.6, zorder=1)
    for place, label in enumerate(labels):
        own = [one for one in data.tuned if one.label == label]
        aside = 0.5 * (place - (len(labels) - 1) / 2) / max(1, len(labels))
        x = [factors.index(one.factor) + aside for one in own]
        means = [float(np.mean(one.gains)) for one in own]
        stroke(axes, x, means, styles[label])
        sign(axes, x, means, styles[label], size=4.0)
        for at, one in zip(x, own, strict=True):
            axes.plot([at] * len(one.gains), one.gains, ".", color=styles[label].colour, markersize=2.5, zorder=2)
    axes.set_xticks(range(len(factors)), [_factor(factor) for factor in factors])
    axes.set(xlim=(-0.5, len(factors) - 0.5), ylim=limits([0.0, *(gain for one in data.tuned for gain in one.gains)]))
    number_ticks(axes, "y", 6)
    drawn.text(8, TITLE + PANEL / 2, "gain in gold", turn=90, align="center")
    drawn.text(LEFT + (WIDTH - LEFT) / 2, TITLE + PANEL + 15, "learning rate, times the shared one", align="center")
    legend(drawn, styles, labels, TITLE + PANEL + 28)
    drawn.foot("a dot a seed, a sign their mean; other rates than the shared one: tuning seeds only")
    return drawn.figure


def _factor(factor: float) -> str:
    """`1/3` for a third, else the number."""
    inverse = 1 / factor
    return f"1/{inverse:.0f}" if factor < 1 and abs(inverse - round(inverse)) < 1e-2 else f"{factor:g}"
