"""A view's figures as tables: one row a label."""

from __future__ import annotations

import math

from grpo_bench.analysis.axes import TITLES, Axis
from grpo_bench.analysis.contrasts import Contrast
from grpo_bench.analysis.report.verdict import UNITS, cut_sentence, seeds_ahead
from grpo_bench.analysis.report.words import (
    NOTHING,
    Cell,
    Head,
    Table,
    amount,
    change,
    correlation,
    estimate,
    finite,
    number,
    p_value,
    score,
    span,
)
from grpo_bench.analysis.summary import Chosen, MethodSummary, ViewSummary
from grpo_bench.analysis.targets import Reached


def methods(summary: ViewSummary) -> Table:
    """What each label reached at the full budget, what it gained, and how soon."""
    axis: Axis = summary.axes[0].axis if summary.axes else "nfe"
    goals = [name for name in summary.references.targets if name in ("50", "90")]
    against = summary.baseline or "the baseline"
    heads = (
        Head("method", "What the suite calls it", numeric=False),
        Head("seeds", "Finished runs"),
        Head("gold", "At the budget: mean over seeds, and 95% t interval"),
        Head("gain", "Gold at the budget less the untrained base's"),
        Head(
            "learned",
            "Five seeds, an interval clear of 0, and more than the noise floor",
            numeric=False,
        ),
        Head(f"less {against}", "Difference in final gold, seed by seed"),
        Head("verdict", "Of a primary contrast, by Holm's p; all else is exploratory", numeric=False),
        Head("area", f"Under one seed's curve of gold over {UNITS[axis]}: 0 at the base all along, 1 at the best gold"),
        *(
            Head(f"{UNITS[axis]} to {goal}%", f"Median cost of reaching {goal}% of the baseline's gain; seeds that did")
            for goal in goals
        ),
        Head("proxy gain", "Of the reward trained on"),
        Head("diversity", "Mean pairwise distance of the images of one prompt, at the last point"),
        Head("base distance", "Velocity error against the base policy, at the last point"),
    )
    rows = tuple(_method(summary, method, axis, goals) for method in summary.methods)
    return Table("One row a method, at the full budget", heads, rows)


def _method(summary: ViewSummary, method: MethodSummary, axis: Axis, goals: list[str]) -> tuple[Cell, ...]:
    contrast = next((one for one in summary.contrasts if one.label == method.label), None)
    own = method.label == summary.baseline
    nothing = Cell("baseline" if own else NOTHING)
    return (
        Cell(method.label),
        Cell(str(method.gold.n), order=method.gold.n),
        estimate(method.gold),
        estimate(method.gain, signed=True),
        Cell(method.learned),
        estimate(contrast.difference, signed=True) if contrast else nothing,
        Cell(contrast.verdict, _p(contrast)) if contrast else nothing,
        estimate(method.area[axis]) if axis in method.area else nothing,
        *(_reached(method.targets[goal].get(axis)) for goal in goals),
        estimate(method.proxy_gain, signed=True),
        _cost(method, "diversity"),
        _cost(method, "base_distance"),
    )


def _p(contrast: Contrast) -> str:
    name, decided = contrast.decided_by
    return f"{name} {p_value(decided)}" if math.isfinite(decided) else ""


def _reached(found: Reached | None) -> Cell:
    if found is None:
        return Cell(NOTHING)
    text = amount(found.median) if math.isfinite(found.median) else "not reached"
    return Cell(text, f"{found.reached} of {found.of} seeds", found.median)


def _cost(method: MethodSummary, column: str) -> Cell:
    value = method.costs.get(column, math.nan)
    return number(value, score(value))


def contrasts(summary: ViewSummary) -> Table:
    """Every difference from the baseline with all that decides it; the primary ones first."""
    two_way = bool(summary.two_way)
    equal = any(math.isfinite(one.equivalence_p) for one in summary.contrasts)
    heads = (
        Head("method", numeric=False),
        Head(
            "verdict",
            "Of a primary contrast, named before the runs, by Holm's p; all else is exploratory",
            numeric=False,
        ),
        Head("seeds", "Seeds that both have"),
        Head("difference", "Mean over seeds of final gold less the baseline's"),
        Head(
            "95% interval", "For other seeds and other prompts" if two_way else "Unadjusted, of the paired difference"
        ),
        Head("these prompts, this noise", "The t interval over seeds alone")
        if two_way
        else Head("Bonferroni", "The interval at 1 - 0.05 / number of primary contrasts: all of them hold together"),
        Head("Holm's p", "Of no difference, adjusted over the primary contrasts; below it, unadjusted"),
        *(
            (Head("p of equivalence", "Holm's, of two one-sided tests at the margin, which is below it"),)
            if equal
            else ()
        ),
        Head("permutation p", "Sign flips; below it, the least it can be with so many seeds"),
        Head("correlation", "Of the two over seeds: what the pairing bought"),
    )
    rows = []
    for one in summary.contrasts:
        pair, found = one.result, one.difference
        floor = pair.permutation_floor
        over_seeds = (pair.difference.low, pair.difference.high)
        wide = over_seeds if two_way else pair.bonferroni if one.primary else (math.nan, math.nan)
        rows.append(
            (
                Cell(one.label),
                Cell(one.verdict, "primary" if one.primary else ""),
                number(one.seeds, str(one.seeds)),
                number(found.mean, change(found.mean)),
                Cell(span(found.low, found.high, signed=True) or NOTHING, "", finite(found.low)),
                Cell(span(*wide, signed=True) or NOTHING, "", finite(wide[0])),
                Cell(p_value(one.holm_p), f"unadjusted {p_value(one.p)}", finite(one.holm_p)),
                *((_equivalence(one),) if equal else ()),
                Cell(p_value(pair.permutation_p), f"floor {p_value(floor)}", finite(pair.permutation_p)),
                number(pair.correlation, correlation(pair.correlation)),
            )
        )  # fmt: skip
    return Table(f"Differences from {summary.baseline} in gold at the full budget", heads, tuple(rows))


def _equivalence(one: Contrast) -> Cell:
    margin = f"margin {score(one.margin)}" if math.isfinite(one.margin) else ""
    return Cell(p_value(one.equivalence_p), margin, finite(one.equivalence_p))


def frontier(summary: ViewSummary) -> Table:
    """Who leads over each cost axis, where its view is cut, and by how much at the cut."""
    heads = (
        Head("cost", numeric=False),
        Head("highest mean gold", "From the cheapest cost to the cut", numeric=False),
        Head("lead at the cut", "Over the next label, seed by seed, with 95% interval: exploratory"),
        Head("highest in", "Seeds in which it is the highest at the cut"),
        Head("cut at", "The least that any of its runs spent"),
        Head("runs"),
    )
    rows = []
    for axis in summary.axes:
        last = axis.frontier[-1]
        route = ", then ".join(
            one.label if one is last else f"{one.label} to {amount(one.last)}" for one in axis.frontier
        )
        lead = f"{change(last.margin.mean)} over {last.runner_up}" if last.runner_up else NOTHING
        rows.append(
            (
                Cell(UNITS[axis.axis]),
                Cell(route),
                Cell(lead, span(last.margin.low, last.margin.high, signed=True), finite(last.margin.mean)),
                Cell(seeds_ahead(last), order=last.ahead / max(1, last.seeds)),
                number(axis.cut, amount(axis.cut)),
                Cell(str(axis.runs), f"{axis.untimed} shared their machine" if axis.untimed else "", axis.runs),
            )
        )
    return Table("The frontier by cost axis", heads, tuple(rows), labels=False)


def equal_cost(summary: ViewSummary) -> Table:
    """Gold where each axis's view is cut, and the difference from the baseline there."""
    axes = [one.axis for one in summary.axes]
    heads = (
        Head("method", numeric=False),
        *(Head(f"{UNITS[one.axis]}", f"{TITLES[one.axis]}. {cut_sentence(one)}") for one in summary.axes),
    )
    rows = []
    for method in summary.methods:
        cells = []
        for axis in axes:
            if axis not in method.gold_at:
                cells.append(Cell(NOTHING))
                continue
            there, apart = method.gold_at[axis], method.difference_at[axis]
            note = span(apart.low, apart.high, signed=True)
            told = f"{change(apart.mean)}" + (f" ({note})" if note else "") if math.isfinite(apart.mean) else ""
            cells.append(Cell(score(there.mean), told, finite(there.mean)))
        rows.append((Cell(method.label), *cells))
    caption = "Gold at equal cost, where each view is cut"
    if summary.baseline:
        caption += f"; below it the difference from {summary.baseline} with its 95% interval (exploratory)"
    return Table(caption, heads, tuple(rows))


def tuning(summary: ViewSummary) -> tuple[Table, Table] | None:
    """Gain by learning rate on the tuning seeds, and the ranking at the shared rate beside that at each one's own best.

    None where no such run has finished.
    """
    if not summary.tuning:
        return None
    factors = sorted({one.factor for one in summary.tuning})
    gains = {(one.label, one.factor): one.gain for one in summary.tuning}
    labels = list(dict.fromkeys(one.label for one in summary.tuning))
    heads = (Head("method", numeric=False), *(Head(f"rate × {factor:.3g}") for factor in factors))
    rows = tuple(
        (
            Cell(label),
            *(
                Cell(change(gains[label, factor].mean), f"{gains[label, factor].n} seeds",
                     finite(gains[label, factor].mean))
                if (label, factor) in gains
                else Cell(NOTHING)
                for factor in factors
            ),
        )
        for label in labels
    )  # fmt: skip
    by_rate = Table("Gain in gold by learning rate, in units of the shared one", heads, rows)
    return by_rate, _rankings(labels, factors, {key: gain.mean for key, gain in gains.items()})


def rates(summary: ViewSummary) -> Table | None:
    """What each label's trials chose, and how sensitive it is to its rate; None where nothing was tuned."""
    if not summary.choices:
        return None
    heads = (
        Head("method", numeric=False),
        Head("learning rate", "Of the reported runs"),
        Head(
            "factor", "On the workload's own rate: the vertex of the parabola through the best trial and its neighbours"
        ),
        Head("bracketed", "Whether the best trial has a neighbour on either side; else no verdict rests on it"),
        Head("by the proxy", "The factor that the proxy alone would have chosen"),
        Head("best gain", "In gold, of the factors that were tried: mean over tuning seeds, on tuning prompts"),
        Head("at × 1", "The same at the workload's own rate"),
        Head("spread", "Best less least: how sensitive the method is to its rate"),
        Head("trials", "Runs that were made to choose; below, what they spent"),
    )
    return Table(
        "Every label at the learning rate that its own trials chose", heads, tuple(map(_rate, summary.choices))
    )


def _rate(one: Chosen) -> tuple[Cell, ...]:
    choice = one.choice
    gains = {float(factor): gain for factor, gain in choice.gains.items() if gain is not None}
    best, shared = max(gains.values(), default=math.nan), gains.get(1.0, math.nan)
    factor, proxy = ((f"{value:.3g}" if value else NOTHING) for value in (choice.factor, choice.proxy_factor))
    return (
        Cell(choice.label),
        number(one.rate, f"{one.rate:.3g}"),
        Cell(factor, f"best tried {choice.best:.3g}" if choice.best else "", choice.factor),
        Cell("yes" if choice.bracketed else "no"),
        Cell(proxy, "", choice.proxy_factor),
        number(best, change(best)),
        number(shared, change(shared)),
        number(one.spread, score(one.spread)),
        Cell(str(one.trials), f"{amount(one.nfe)} nfe", one.trials),
    )


def _rankings(labels: list[str], factors: list[float], gain: dict[tuple[str, float], float]) -> Table:
    """Place by place: who it is at the shared rate, and who where each has the rate that suits it."""
    shared = {label: gain[label, 1.0] for label in labels if (label, 1.0) in gain}
    best = {label: max((factor for factor in factors if (label, factor) in gain), key=lambda f: gain[label, f])
            for label in labels}  # fmt: skip
    at_shared = sorted(shared, key=lambda label: -shared[label])
    at_best = sorted(labels, key=lambda label: -gain[label, best[label]])
    rows = []
    for place, label in enumerate(at_best):
        other = at_shared[place] if place < len(at_shared) else ""
        rows.append(
            (
                Cell(str(place + 1), order=place + 1),
                Cell(other or NOTHING, change(shared[other]) if other else ""),
                Cell(label, f"{change(gain[label, best[label]])} at × {best[label]:.3g}"),
            )
        )
    heads = (
        Head("place", numeric=False),
        Head("all at the shared rate", numeric=False),
        Head("each at the best of its rates", numeric=False),
    )
    return Table("Both rankings (exploratory)", heads, tuple(rows), labels=False)


def ended(summary: ViewSummary) -> Table:
    """Runs that did not finish, with their reasons."""
    heads = (
        Head("method", numeric=False),
        Head("seed"),
        Head("how it ended", numeric=False),
        Head("reason", numeric=False),
        Head("run", numeric=False),
    )
    rows = tuple(
        (
            Cell(one.label),
            number(one.seed, str(one.seed)),
            Cell(one.status),
            Cell(one.reason or NOTHING),
            Cell(one.run),
        )
        for one in summary.ended
    )
    return Table("Runs that did not finish: counted here, in no mean", heads, rows)


DEFINITIONS = (
    ("nfe", "Network evaluations per sample that a budget counts: rollout + reference + 3 × train (a forward and a "
            "backward count three). A guided step counts two. Evaluation is never in it."),
    ("gold", "The workload's own judge, on held-out prompts, from stored 8-bit images of the deployment sampler."),
    ("proxy", "The reward that was trained on, on the same images."),
    ("gain", "Gold at the budget, between the two points around it, less gold of the untrained base, seed by seed."),
    ("95% interval", "A t interval over seeds; what it was measured to cover is stated with the verdict."),
    ("area", "The mean height of one seed's curve of gold over a cost, read at 20 costs: 0 at the base's gold all "
             "along, 1 at the best gold all along, without a running maximum; mean over seeds."),
    ("tuned", "Each label runs at the learning rate that its own trials chose, on seeds and prompts that no figure "
              "but the table of rates shows. Differences hold for other seeds and other prompts (two-way interval)."),
    ("attained by at least k of n seeds", "The highest gold that at least k seeds had reached at no more than that "
                                          "cost: an attainment surface, not a confidence band."),
    ("cost to 50% or 90%", "Where a seed's curve first passes that share of the baseline's gain and the next point "
                           "confirms it; median over seeds, an unreached one counting as infinite."),
    ("noise floor", "The largest difference between evaluations of the untrained base with other noise."),
    ("diversity, base distance", "Mean pairwise feature distance of one prompt's images; mean squared difference of "
                                 "velocities from the base policy on fixed states."),
    ("controlled, paper", "Controlled: all methods share every setting but forest, credit and weights. Paper: each "
                          "method has its own paper's settings. The two never stand in one figure."),
)  # fmt: skip
"""What the columns mean, for the end of the page."""
