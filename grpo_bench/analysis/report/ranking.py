"""What goes with a ranking: who leads at which prices, and how well each label's gradient points for what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grpo_bench.analysis.breakeven import break_even
from grpo_bench.analysis.diagnosis import LabelFigures, label_figures
from grpo_bench.analysis.gradients import BUDGET, Measured
from grpo_bench.analysis.plots import gradients
from grpo_bench.analysis.plots.style import encode, house_style
from grpo_bench.analysis.report.images import Picture, inlined
from grpo_bench.analysis.report.words import NOTHING, Cell, Head, Table, change, clean, finite, score
from grpo_bench.analysis.study import View
from grpo_bench.palette import label_styles
from grpo_bench.store.diagnosis import Diagnosis, PolicyRecord


@dataclass(frozen=True)
class Ranking:
    """A view's part of the page."""

    prices: Table | None
    """None with fewer than two labels that share a seed."""
    qualities: tuple[Table, ...]
    """One a policy that was diagnosed."""
    picture: Picture | None
    """Quality against gain."""


def ranking(view: View, diagnoses: Sequence[Diagnosis]) -> Ranking:
    """The tables and the picture; of the diagnoses, the one on the view's workload and reward."""
    found = next((one for one in diagnoses if (one.workload, one.reward) == (view.workload, view.reward)), None)
    if found is None:
        return Ranking(_prices(view), (), None)
    return Ranking(_prices(view), tuple(_quality(policy, view) for policy in found.policies), _picture(found, view))


def _prices(view: View) -> Table | None:
    leads = break_even(view)
    if not leads:
        return None
    backwards = list(dict.fromkeys(lead.backward for lead in leads))
    heads = (
        Head("reward call", "Its price in network evaluations"),
        *(
            Head(f"backward {backward:g}", "Cost of a backward pass, in forward passes", numeric=False)
            for backward in backwards
        ),
    )
    rows = tuple(
        (
            Cell(f"{price:g}", order=price),
            *(
                Cell(lead.label, f"{change(lead.margin)} over {lead.runner_up}, in {lead.led} of {lead.seeds} seeds")
                for lead in leads
                if lead.price == price
            ),
        )
        for price in dict.fromkeys(lead.price for lead in leads)
    )
    caption = "Which method, at what prices: the highest mean gold where the run that spent least ends (exploratory)"
    return Table(caption, heads, rows, labels=False)


def _quality(policy: PolicyRecord, view: View) -> Table:
    heads = (
        Head("method", numeric=False),
        Head("q", f"Cosine with the deployed objective's gradient of what {BUDGET:,} evaluations buy, and its error"),
        Head("b", "Cosine of the two means: below 1 is bias towards another objective"),
        Head("snr", "Signal to noise for 1,000 evaluations"),
        Head("gain", "In gold at the full budget, mean over seeds"),
    )
    shown = sorted(label_figures(policy), key=lambda one: -one.whole.q.value if math.isfinite(one.whole.q.value) else 1)
    rows = tuple(_row(one, view) for one in shown)
    ranks = gradients.panel(policy, view).ranks
    told = f"{ranks.labels} labels, too few for a rank correlation"
    if math.isfinite(ranks.value):
        between = f"({ranks.low:.2f} to {ranks.high:.2f})"
        told = f"rank correlation of q and gain {ranks.value:.2f} {between}, {ranks.labels} labels"
    return Table(f"Gradient quality at {clean(policy.name, 60)}: {told}", heads, rows)


def _row(one: LabelFigures, view: View) -> tuple[Cell, ...]:
    gains = [curve.gain() for curve in view.of(one.label)]
    gain = sum(gains) / len(gains) if gains else math.nan
    q, b, snr = one.whole.q, one.whole.b, one.whole.snr
    return Cell(one.label), _measured(q), _measured(b), _measured(snr), Cell(change(gain) if gains else NOTHING)


def _measured(found: Measured) -> Cell:
    if not math.isfinite(found.value):
        return Cell(NOTHING)
    return Cell(score(found.value), f"± {found.error:.3f}" if math.isfinite(found.error) else "", finite(found.value))


def _picture(diagnosis: Diagnosis, view: View) -> Picture | None:
    data = gradients.collect(diagnosis, view)
    if data is None:
        return None
    methods = {one.label: one.method for policy in diagnosis.policies for one in policy.labels}
    styles = label_styles({**methods, **{label: view.method(label) for label in view.all_labels}})
    with house_style():
        png = encode(gradients.draw(data, styles), "png")
    alt = "Gradient quality of each method against its gain in gold; the numbers are in the table"
    return Picture(inlined(png, "png"), alt)
