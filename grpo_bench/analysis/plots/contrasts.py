"""Differences from the baseline in gold at the full budget, with both intervals: what decides and what suggests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_bench.analysis.plots.style import (
    FAINT,
    LINE,
    QUIET,
    RIGHT,
    SMALL,
    WIDTH,
    Styles,
    limits,
    number_ticks,
    page,
    sign,
)
from grpo_bench.analysis.summary import ViewSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES, FIGURES, ROW, TITLE = 78.0, 58.0, 11.0, 14.0


@dataclass(frozen=True)
class Difference:
    """One label less the baseline."""

    label: str
    primary: bool
    seeds: int
    mean: float
    interval: tuple[float, float]
    """Unadjusted, 95%."""
    bonferroni: tuple[float, float]
    """All primary ones hold together with 95%; NaN for an exploratory difference."""
    holm_p: float


@dataclass(frozen=True)
class Contrasts:
    """What the forest plot shows."""

    title: str
    baseline: str
    floor: float
    two_way: bool
    """Whether the intervals hold for other seeds and other prompts; else over seeds alone."""
    differences: tuple[Difference, ...]


def collect(summary: ViewSummary, title: str) -> Contrasts | None:
    """The plot's numbers; None where there is nothing to compare with."""
    found = [contrast for contrast in summary.contrasts if contrast.seeds]
    if not found:
        return None
    differences = []
    for one in found:
        wide = one.result.bonferroni if one.primary and one.two_way is None else (math.nan, math.nan)
        near = (one.difference.low, one.difference.high)
        differences.append(Difference(one.label, one.primary, one.seeds, one.difference.mean, near, wide, one.holm_p))
    floor = summary.floor.gold if summary.floor else math.nan
    two_way = bool(summary.two_way)
    return Contrasts(title, summary.baseline, floor, two_way, tuple(differences))


def draw(data: Contrasts, styles: Styles) -> Figure:
    """Primary contrasts above, exploratory ones below, zero and the noise floor behind them."""
    primary = sum(one.primary for one in data.differences)
    both = 0 < primary < len(data.differences)
    places = [place + (0.8 if both and not one.primary else 0) for place, one in enumerate(data.differences)]
    tall = ROW * (places[-1] + 1)
    top = TITLE + LINE + 2
    drawn = page(top + tall + 16 + 2 * LINE + 8)
    drawn.text(4, 7, data.title)
    width = WIDTH - NAMES - FIGURES - RIGHT
    axes = drawn.panel(NAMES, top, width, tall)
    _rows(axes, data, styles, places)
    axes.set_ylim(places[-1] + 0.5, -0.5)
    drawn.text(WIDTH - RIGHT - 30, top - 7, "Holm's p", size=SMALL, colour=QUIET, align="right")
    drawn.text(WIDTH - RIGHT, top - 7, "seeds", size=SMALL, colour=QUIET, align="right")
    for place, one in zip(places, data.differences, strict=True):
        line = top + ROW * (place + 0.5)
        drawn.fitted(6, line, one.label, NAMES - 8)
        p = _p(one.holm_p) if one.primary else "exploratory"
        colour = "#222222" if one.primary else QUIET
        drawn.text(WIDTH - RIGHT - (30 if one.primary else 18), line, p, size=SMALL, colour=colour, align="right")
        drawn.text(WIDTH - RIGHT, line, str(one.seeds), size=SMALL, colour=colour, align="right")
    below = top + tall + 15
    drawn.text(NAMES + width / 2, below, f"gold less {data.baseline}'s, seed by seed", align="center")
    words = ["95% interval, for other seeds and prompts" if data.two_way else "thick: 95% interval, unadjusted"]
    if primary and not data.two_way:
        words.append(f"thin: Bonferroni's for {primary} contrast{'s' if primary > 1 else ''}")
    drawn.text(WIDTH / 2, below + LINE + 2, "; ".join(words), size=SMALL - 0.5, colour=QUIET, align="center")
    if data.floor == data.floor:
        drawn.text(WIDTH / 2, below + 2 * LINE, "grey: no more than the noise floor", size=SMALL - 0.5, colour=QUIET,
                   align="center")  # fmt: skip
    return drawn.figure


def _rows(axes: Axes, data: Contrasts, styles: Styles, places: list[float]) -> None:
    if data.floor == data.floor:
        axes.axvspan(-data.floor, data.floor, color=FAINT, linewidth=0, zorder=0)
    axes.axvline(0, color=QUIET, linewidth=0.6, zorder=1)
    for place, one in zip(places, data.differences, strict=True):
        style = styles[one.label]
        for (low, high), thick in ((one.bonferroni, 0.7), (one.interval, 2.0)):
            if low == low:
                axes.plot([low, high], [place, place], color=style.colour, linewidth=thick, solid_capstyle="butt",
                          alpha=1.0 if one.primary else 0.75, zorder=2)  # fmt: skip
        sign(axes, [one.mean], [place], style, size=4.0, over=3)
    ends = [end for one in data.differences for end in (*one.interval, *one.bonferroni)]
    axes.set_xlim(limits([0.0, *(one.mean for one in data.differences)], ends))
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.spines["left"].set_visible(False)
    number_ticks(axes, "x", 5)


def _p(value: float) -> str:
    if value != value:
        return "none"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
