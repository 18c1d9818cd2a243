"""How far a method's figure lies from its baseline's, seed by seed, with an interval: ratio, difference or gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from grpo_bench.analysis.reading import area, measured_references
from grpo_bench.analysis.statistics import LEVEL, Estimate, t_interval
from grpo_bench.analysis.study import Curve, Floats, View
from grpo_bench.analysis.targets import time_to_target
from grpo_bench.errors import UserError
from grpo_bench.store.suite import References

Metric = Literal["seconds_per_iteration", "hypervolume", "gold", "updates_to_target"]
Scale = Literal["ratio", "difference", "relative gain"]
Pair = tuple[Curve, Curve]
"""A method's run and its baseline's, of one seed."""
Interval = Estimate

TARGET = "90"
"""`updates_to_target` is to 90% of the gain that the baseline's median seed makes at the full budget."""

METRICS: dict[Metric, str] = {
    "seconds_per_iteration": "seconds of training per iteration",
    "hypervolume": "hypervolume over network evaluations",
    "gold": "gold at the budget",
    "updates_to_target": f"optimiser updates to {TARGET}% of the baseline's gain",
}
"""What each metric is, for people."""

DIFFERENCE = "95% t interval of the paired difference"
LOG_RATIO = "95% t interval of the paired log ratio"
MEDIAN = "at least 95% interval of the median ratio by order statistics, as some runs ended before the target"
FEWEST_FOR_MEDIAN = 6
"""The extremes of five values enclose their median with 93.75% only (1 - 2/2^5), those of six with 96.9%."""


@dataclass(frozen=True)
class Effect:
    """A method against its baseline over paired seeds."""

    scale: Scale
    interval: Interval
    """`mean` is the mean difference, the geometric mean of the ratios (less 1 for a gain), or their median."""
    how: str
    """What kind of interval it is."""


def effect(metric: Metric, scale: Scale, view: View, pairs: Sequence[Pair]) -> Effect:
    """The effect of the method over its baseline, one figure a seed on either side.

    Raises:
        UserError: the metric is not defined for these runs, or a ratio is asked of figures that are not above zero.
    """
    if metric == "updates_to_target" and scale != "difference":
        return _to_target(scale, view, pairs)
    own_S, other_S = (np.array([_figure(metric, view, pair[side]) for pair in pairs]) for side in (0, 1))
    if scale == "difference":
        return Effect(scale, t_interval(own_S - other_S), DIFFERENCE)
    return _ratio(metric, scale, own_S, other_S)


def usable(metric: Metric, curve: Curve) -> bool:
    """Whether a finished run has the metric at all: seconds are those of runs that had their device to themselves."""
    if metric == "updates_to_target":
        return curve.rises("updates")
    return metric != "seconds_per_iteration" or (curve.record.timed and curve.column("iteration")[-1] > 0)


def median_interval(low_S: Floats, high_S: Floats, level: float = LEVEL) -> tuple[float, float]:
    """An interval of the median of values known only to lie in [low, high] each: exact, distribution-free.

    The k-th smallest and k-th largest of n values enclose the median with probability 1 - 2 P(Bin(n, 1/2) < k); the
    largest k with at least `level` is used (H. A. David and H. N. Nagaraja, Order statistics, 2003, section 7.1). The
    smallest are taken of the lows and the largest of the highs, so that what is not known widens it. nan below six.
    """
    n = len(low_S)
    inside = [k for k in range(1, n // 2 + 1) if 1 - 2 * stats.binom.cdf(k - 1, n, 0.5) >= level]
    if not inside:
        return math.nan, math.nan
    k = max(inside)
    return float(np.sort(low_S)[k - 1]), float(np.sort(high_S)[n - k])


def _figure(metric: Metric, view: View, curve: Curve) -> float:
    if metric == "seconds_per_iteration":
        return float(curve.cost("seconds")[-1] / curve.column("iteration")[-1])
    if metric == "gold":
        return curve.final("gold")
    if metric == "hypervolume":
        return area(curve, "nfe", _references(view))
    return time_to_target(curve.cost("updates"), curve.gold, _target(view))


def _ratio(metric: Metric, scale: Scale, own_S: Floats, other_S: Floats) -> Effect:
    if not (own_S > 0).all() or not (other_S > 0).all():
        raise UserError(f"a {scale} needs figures above zero, and {METRICS[metric]} is not for all of these runs")
    logs = t_interval(np.log(own_S) - np.log(other_S))
    ratio = Estimate(_exp(logs.mean), _exp(logs.low), _exp(logs.high), logs.n)
    return Effect(scale, _as(scale, ratio), LOG_RATIO)


def _to_target(scale: Scale, view: View, pairs: Sequence[Pair]) -> Effect:
    """Of ratios of times; where a run ended before the target, its time is only known to be longer than that."""
    target = _target(view)
    times = [(_time(own, target), _time(other, target)) for own, other in pairs]
    if any(most == 0 for _, (_, most) in times):
        raise UserError(f"a {scale} needs a baseline that takes some updates, and one of its runs begins at the target")
    if all(low == high for pair in times for low, high in pair):
        own_S, other_S = (np.array([pair[side][0] for pair in times]) for side in (0, 1))
        return _ratio("updates_to_target", scale, own_S, other_S)
    low_S = np.array([own[0] / other[1] for own, other in times])
    high_S = np.array([own[1] / other[0] if other[0] else math.inf for own, other in times])
    low, high = median_interval(low_S, high_S)
    middle = float(np.median(low_S)), float(np.median(high_S))
    median = middle[0] if middle[0] == middle[1] else math.nan
    return Effect(scale, _as(scale, Estimate(median, low, high, len(times))), MEDIAN)


def _time(curve: Curve, target: float) -> tuple[float, float]:
    """The least and the most that the time to a target can be; a passage at the last point is not confirmed yet."""
    cost_K = curve.cost("updates")
    time = time_to_target(cost_K, curve.gold, target)
    if math.isfinite(time):
        return time, time
    return float(cost_K[-2 if curve.gold[-1] >= target else -1]), math.inf


def _as(scale: Scale, ratio: Estimate) -> Estimate:
    """A ratio as a relative gain: how much more than the baseline."""
    less = 1 if scale == "relative gain" else 0
    return Estimate(ratio.mean - less, ratio.low - less, ratio.high - less, ratio.n)


def _exp(number: float) -> float:
    return float(np.exp(number))


def _references(view: View) -> References:
    return view.references or measured_references(view)


def _target(view: View) -> float:
    target = _references(view).targets.get(TARGET)
    if target is None:
        raise UserError(f"there is no target to reach: {view.baseline or 'the baseline'} gained nothing here")
    return target
