"""`grpo-bench diagnose`: gradient quality a label, and where the reward is decided, in 80 columns."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from grpo_bench.analysis.breakeven import break_even
from grpo_bench.analysis.diagnosis import LabelFigures, RankCorrelation, by_step, label_figures, potential_shares
from grpo_bench.analysis.gradients import BUDGET, Measured, Quality
from grpo_bench.analysis.plots.write import plain as plain_values
from grpo_bench.terminal.text import NOTHING, count, plain

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_bench.analysis.study import View
    from grpo_bench.store.diagnosis import PolicyRecord

SHARES = {"clipped": "share of edges outside the clip", "zero_spread": "share of groups without spread"}
"""Columns of points that are shown by step."""


def diagnosis_json(policy: PolicyRecord, view: View | None, ranks: RankCorrelation | None) -> object:
    """Every figure of one policy, and what its labels' runs say; a number that does not exist is null."""
    return plain_values(
        {
            "ranks": asdict(ranks) if ranks else None,
            "by_step": {column: {label: by_step(view.of(label), column) for label in view.labels} for column in SHARES}
            if view
            else None,
            "break_even": [asdict(lead) for lead in break_even(view)] if view else None,
            "policy": policy.name,
            "nfe": policy.nfe,
            "labels": {one.label: asdict(one) for one in label_figures(policy)},
            "potential": [asdict(one) for one in potential_shares(policy.potential)] if policy.potential else None,
        }
    )


def print_diagnosis(policy: PolicyRecord, view: View | None, ranks: RankCorrelation | None, console: Console) -> None:
    """A row a label, best first, then a row a grid point; each figure with its standard error."""
    found = sorted(label_figures(policy), key=lambda one: -_sortable(one.whole.q.value))
    console.print()
    console.print(Text.assemble("  gradient quality at ", plain(policy.name, "bold", 60)))
    console.print(_qualities(found))
    console.print(Text(f"  q: cosine with the deployed gradient for {BUDGET:,} NFE; b: that of the means", "dim"))
    console.print(Text("  snr: signal to noise for 1,000 NFE; ±: one standard error (jackknife)", "dim"))
    if policy.potential is not None:
        console.print()
        console.print(Text("  share of the variance within a prompt that is decided from a grid point on, %"))
        console.print(_potential(policy))
    if ranks is not None:
        console.print(Text(f"  q against gain in gold: {_ranks(ranks)}"))
    if view is not None:
        _print_runs(view, console)


def _ranks(ranks: RankCorrelation) -> str:
    if not math.isfinite(ranks.value):
        return f"{ranks.labels} labels have both, too few for a rank correlation"
    return f"rank correlation {ranks.value:.2f} ({ranks.low:.2f} to {ranks.high:.2f}) over {ranks.labels} labels"


def _print_runs(view: View, console: Console) -> None:
    """Who leads at which prices; a row a price of a reward call, a column a cost of a backward pass."""
    leads = break_even(view)
    if leads:
        console.print()
        console.print(Text("  highest mean gold, and in how many seeds it is the highest"))
        table = _table()
        table.add_column("reward call", justify="right", no_wrap=True)
        for backward in dict.fromkeys(lead.backward for lead in leads):
            table.add_column(f"backward {backward:g}", overflow="fold")
        for price in dict.fromkeys(lead.price for lead in leads):
            cells = [plain(f"{one.label} {one.led}/{one.seeds}", limit=40) for one in leads if one.price == price]
            table.add_row(f"{price:g}", *cells)
        console.print(table)
        console.print(Text("  prices in forward evaluations; the nfe axis has reward call 0, backward 2", "dim"))
    for column, heading in SHARES.items():
        found = {label: by_step(view.of(label), column) for label in view.labels}
        console.print(Text(f"  {heading}, by step of the schedule" + ("" if any(found.values()) else ": not stored")))
        for label, shares in found.items():
            if shares:
                steps = " ".join(f"{step}:{_share(value)}" for step, value in shares.items())
                console.print(Text.assemble("    ", plain(label, "cyan", 40), f" {steps}"))


def _share(value: float) -> str:
    """`.05`; a share of 1 is `1`."""
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"


def _qualities(found: list[LabelFigures]) -> Table:
    table = _table()
    table.add_column("label", overflow="fold", max_width=18)
    for heading in ("q", "b", "snr", "NFE", "its"):
        table.add_column(heading, justify="right", no_wrap=True)
    own = any(math.isfinite(one.own_snr.value) for one in found)
    if own:
        table.add_column("own snr", justify="right", no_wrap=True)
    for one in found:
        last = [_number(one.own_snr, 3)] if own else []
        table.add_row(plain(one.label, "bold cyan", 40), *_cells(one.whole), *last)
        for window, quality in one.windows.items():
            table.add_row(Text(f"  steps {window}", "dim"), *_cells(quality), *[""] * own, style="dim")
    return table


def _cells(quality: Quality) -> tuple[str, ...]:
    return (
        _number(quality.q, 2),
        _number(quality.b, 2),
        _number(quality.snr, 3),
        count(quality.nfe),
        str(quality.iterations),
    )


def _potential(policy: PolicyRecord) -> Table:
    assert policy.potential is not None
    shares = potential_shares(policy.potential)
    table = _table()
    table.add_column("sigma", justify="right", no_wrap=True)
    names = list(policy.potential.within)
    for name in names:
        table.add_column(plain(name, limit=20), justify="right", overflow="fold")
    for point in shares:
        cells = [_percent(point.by_reward[name]) for name in names]
        table.add_row(f"{point.sigma:.2f}", *cells)
    return table


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))


def _number(measured: Measured, digits: int) -> str:
    """`0.48±.02`; a dash where there is none."""
    if not math.isfinite(measured.value):
        return NOTHING
    error = f"{measured.error:.{digits}f}".removeprefix("0")
    return f"{measured.value:.{digits}f}±{error}"


def _percent(measured: Measured) -> str:
    if not math.isfinite(measured.value):
        return NOTHING
    return f"{100 * measured.value:.0f}±{100 * measured.error:.0f}"


def _sortable(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
