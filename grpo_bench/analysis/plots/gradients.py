"""Gradient quality beside gain: a sign a label, with errors both ways, and the rank correlation over labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_bench.analysis.diagnosis import RankCorrelation, label_figures, rank_correlation
from grpo_bench.analysis.gradients import BUDGET
from grpo_bench.analysis.plots.style import (
    LEFT,
    LINE,
    QUIET,
    RIGHT,
    SMALL,
    WIDTH,
    Styles,
    amount,
    legend,
    legend_rows,
    limits,
    number_ticks,
    page,
    short_label,
    sign,
)
from grpo_bench.analysis.statistics import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from grpo_bench.analysis.study import View
    from grpo_bench.store.diagnosis import Diagnosis, PolicyRecord

TITLE, HEAD, PANEL, GAP = 14.0, 20.0, 100.0, 54.0


@dataclass(frozen=True)
class Pair:
    """One label: its quality with a standard error, its mean gain in gold with a t interval over `seeds` seeds."""

    label: str
    q: float
    error: float
    gain: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Panel:
    """One policy's labels and the rank correlation over them."""

    policy: str
    nfe: float
    pairs: tuple[Pair, ...]
    ranks: RankCorrelation


@dataclass(frozen=True)
class Qualities:
    """What the plot shows."""

    title: str
    panels: tuple[Panel, ...]


def collect(diagnosis: Diagnosis, view: View | None) -> Qualities | None:
    """The plot's numbers; None where no label was both diagnosed and run."""
    if view is None:
        return None
    panels = [one for policy in diagnosis.policies if (one := panel(policy, view)).pairs]
    title = f"{diagnosis.workload}, reward {diagnosis.reward}"
    return Qualities(title, tuple(panels)) if panels else None


def panel(policy: PolicyRecord, view: View) -> Panel:
    """The labels that were diagnosed at the policy and have finished runs."""
    pairs = []
    for one in label_figures(policy):
        runs = view.of(one.label)
        if runs and math.isfinite(one.whole.q.value):
            gain = t_interval([run.gain() for run in runs])
            q = one.whole.q
            pairs.append(Pair(one.label, q.value, q.error, gain.mean, gain.low, gain.high, len(runs)))
    ranks = rank_correlation([pair.q for pair in pairs], [pair.gain for pair in pairs])
    return Panel(policy.name, policy.nfe, tuple(pairs), ranks)


def draw(data: Qualities, styles: Styles) -> Figure:
    """A panel a policy, one below the other."""
    labels = list(dict.fromkeys(pair.label for shown in data.panels for pair in shown.pairs))
    bottom = TITLE + len(data.panels) * (PANEL + GAP)
    drawn = page(bottom + 14 + LINE * legend_rows(labels))
    drawn.text(4, 7, data.title)
    for place, shown in enumerate(data.panels):
        top = TITLE + HEAD + place * (PANEL + GAP)
        axes = drawn.panel(LEFT, top, WIDTH - LEFT - RIGHT, PANEL)
        axes.axhline(0, color=QUIET, linewidth=0.6, zorder=1)
        for pair in shown.pairs:
            style = styles[pair.label]
            spread = [[pair.gain - pair.low], [pair.high - pair.gain]] if math.isfinite(pair.low) else None
            axes.errorbar(
                [pair.q], [pair.gain], xerr=[pair.error], yerr=spread, color=style.colour, linewidth=0.8, fmt="none"
            )
            sign(axes, [pair.q], [pair.gain], style, size=4.0)
        ends = [pair.q + side * pair.error for pair in shown.pairs for side in (-1, 1)]
        gains = [end for pair in shown.pairs for end in (pair.low, pair.high)]
        axes.set(
            xlim=limits([pair.q for pair in shown.pairs], ends),
            ylim=limits([0.0, *(pair.gain for pair in shown.pairs)], gains),
        )
        number_ticks(axes, "x", 6)
        number_ticks(axes, "y", 5)
        drawn.text(LEFT, top - 15, f"at {_said(shown)}", size=SMALL)
        drawn.text(LEFT, top - 6, _ranks(shown.ranks), size=SMALL, colour=QUIET)
        drawn.text(8, top + PANEL / 2, "gain in gold", turn=90, align="center")
        middle = LEFT + (WIDTH - LEFT) / 2
        words = f"q: cosine with the deployed gradient, for {amount(BUDGET)} evaluations"
        drawn.text(middle, top + PANEL + 16, words, align="center")
    legend(drawn, styles, labels, bottom)
    drawn.foot("bars: q one standard error, gain its 95% interval over seeds")
    return drawn.figure


def _said(panel: Panel) -> str:
    return f"{short_label(panel.policy, 40)} after {amount(panel.nfe)} nfe" if panel.nfe else f"the {panel.policy}"


def _ranks(ranks: RankCorrelation) -> str:
    if not math.isfinite(ranks.value):
        return f"{ranks.labels} labels, too few for a rank correlation"
    return f"rank correlation {ranks.value:.2f} ({ranks.low:.2f} to {ranks.high:.2f}), {ranks.labels} labels"
