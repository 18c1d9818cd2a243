"""Where the seconds went and what evaluated the network: stacked bars, one a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_bench.analysis.plots.style import (
    LINE,
    QUIET,
    RIGHT,
    SMALL,
    WIDTH,
    Page,
    number_ticks,
    page,
)
from grpo_bench.analysis.summary import ViewSummary
from grpo_bench.metering.ledger import CLOCKED_PHASES, TRAIN_WEIGHT
from grpo_bench.palette import PHASE_COLOURS, ROLE_COLOURS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from grpo_bench.analysis.study import View

NAMES, ROW, TITLE = 78.0, 9.5, 14.0
ROLES = ("rollout", "reference", "train")


@dataclass(frozen=True)
class Bar:
    """One label's costs, medians over its seeds."""

    label: str
    nfe: dict[str, float]
    """By role, training times three: what the budget counts."""
    seconds: dict[str, float]
    """By phase of the clock, of timed runs only; empty without any."""


@dataclass(frozen=True)
class Phases:
    """What the breakdown shows."""

    title: str
    bars: tuple[Bar, ...]


def collect(view: View, summary: ViewSummary, title: str) -> Phases | None:
    """The plot's numbers; None without a finished run."""
    bars = []
    for label in view.labels:
        costs = summary.method(label).costs
        weight = {"train": TRAIN_WEIGHT}
        nfe = {role: weight.get(role, 1) * costs.get(f"{role}_nfe", 0.0) for role in ROLES}
        seconds: dict[str, float] = {
            phase: costs[f"{phase}_seconds"] for phase in CLOCKED_PHASES if f"{phase}_seconds" in costs
        }
        bars.append(Bar(label, nfe, seconds))
    return Phases(title, tuple(bars)) if bars else None


def draw(data: Phases) -> Figure:
    """Network evaluations by role, and beside them seconds by phase where any run was timed."""
    timed = any(bar.seconds for bar in data.bars)
    tall = ROW * len(data.bars) + 4
    height = TITLE + 10 + tall + 26 + 2 * LINE + (LINE if timed else 0)
    drawn = page(height)
    drawn.text(4, 7, data.title)
    room = WIDTH - NAMES - RIGHT
    width = (room - 14) / 2 if timed else room - 8
    left, top = NAMES, TITLE + 10
    _bars(drawn.panel(left, top, width, tall), [bar.nfe for bar in data.bars], ROLE_COLOURS)
    drawn.text(left + width / 2, top + tall + 16, "network evaluations", align="center")
    for place, bar in enumerate(data.bars):
        drawn.fitted(6, top + 2 + ROW * (place + 0.5), bar.label, NAMES - 8)
    line = top + tall + 26 + LINE / 2
    roles = [role for role in ROLES if any(bar.nfe[role] > 0 for bar in data.bars)]
    _key(drawn, {("3 x train" if role == "train" else role): ROLE_COLOURS[role] for role in roles}, line)
    if timed:
        second = left + width + 14
        _bars(drawn.panel(second, top, width, tall), [bar.seconds for bar in data.bars], PHASE_COLOURS)
        drawn.text(second + width / 2, top + tall + 16, "seconds of training", align="center")
        seen = {phase for bar in data.bars for phase, seconds in bar.seconds.items() if seconds > 0}
        _key(drawn, {phase: colour for phase, colour in PHASE_COLOURS.items() if phase in seen}, line + LINE)
    words = "medians over seeds" + ("; seconds of timed runs only" if timed else "; no run was timed")
    drawn.text(WIDTH / 2, height - LINE / 2, words, size=SMALL - 0.5, colour=QUIET, align="center")
    return drawn.figure


def _bars(axes: Axes, rows: list[dict[str, float]], colours: Mapping[str, str]) -> None:
    for place, parts in enumerate(rows):
        start = 0.0
        for name, colour in colours.items():
            part = parts.get(name, 0.0)
            axes.barh(place, part, left=start, height=0.7, color=colour, linewidth=0)
            start += part
    axes.set(ylim=(len(rows) - 0.5 + 0.2, -0.7), yticks=[])
    axes.set_xlim(0, 1.02 * max([sum(parts.values()) for parts in rows] + [1e-9]))
    axes.grid(visible=False)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.5)
    number_ticks(axes, "x", 4, costs=True)


def _key(drawn: Page, colours: Mapping[str, str], top: float) -> None:
    from matplotlib.patches import Rectangle

    left = 6.0
    for name, colour in colours.items():
        drawn.canvas.add_patch(Rectangle((left, top - 2.5), 6, 5, facecolor=colour, linewidth=0))
        drawn.text(left + 8, top, name, size=SMALL)
        left += 14 + 3.7 * len(name)
