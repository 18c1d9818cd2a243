"""One run's curve read at costs of one's choice, its hypervolume, and the references both are measured against."""

from __future__ import annotations

import math

import numpy as np

from grpo_bench.analysis.axes import AXES, Axis
from grpo_bench.analysis.hypervolume import grid, hypervolume, resample
from grpo_bench.analysis.study import Curve, Floats, View
from grpo_bench.analysis.targets import gain_targets
from grpo_bench.store.suite import References


def measured_references(view: View) -> References:
    """References from the runs themselves: the median baseline run's totals and its share of the way.

    Base and targets are those of the curves, all under the first noise: that is what they are held against. Without a
    baseline the first label stands in. `best` is 1, the top of a score's range, or the best gold seen where
    that is higher.
    """
    if not view.curves:
        return References(base=0.0, best=1.0, costs={}, targets={})
    runs = view.of(view.baseline) or view.of(view.labels[0])
    base = float(np.mean([curve.gold[0] for curve in runs]))
    best = max(1.0, *(float(curve.gold.max()) for curve in view.curves))
    costs: dict[Axis, float] = {}
    for axis in AXES:
        ends = [float(curve.cost(axis)[-1]) for curve in runs if axis != "seconds" or curve.record.timed]
        amount = view.curves[0].table("budget").get(axis)
        cost = amount if isinstance(amount, int | float) else float(np.median(ends or [0.0]))
        if ends and cost > 0:
            costs[axis] = float(cost)
    targets = gain_targets(base, [curve.drawn("gold") for curve in runs])
    return References(base=base, best=best, costs=costs, targets=targets if targets["90"] > base else {})


def at_cost(curve: Curve, axis: Axis, cost: float) -> float:
    """Gold at a cost, by linear interpolation between its points; a run's last value holds up to its budget."""
    return float(resample(curve.cost(axis), curve.gold, np.array([min(cost, float(curve.cost(axis)[-1]))]))[0])


def curve_at(curve: Curve, axis: Axis, cost_M: Floats) -> Floats:
    """(M,) gold at each of the costs, as `at_cost`."""
    return resample(curve.cost(axis), curve.gold, np.minimum(cost_M, float(curve.cost(axis)[-1])))


def area(curve: Curve, axis: Axis, references: References) -> float:
    """One run's normalised hypervolume over an axis, on the same 20 costs for all; NaN without a reference cost."""
    reference = references.costs.get(axis)
    if not reference:
        return math.nan
    cost_M = grid(reference)
    value_M = curve_at(curve, axis, cost_M)
    return hypervolume(cost_M, value_M, cost_ref=reference, base=references.base, best=references.best)
