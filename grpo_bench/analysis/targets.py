"""How much it cost to reach a target, and how many seeds did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from grpo_bench.analysis.hypervolume import one_curve

SHARES = (25, 50, 90)
"""Per cent of the baseline's gain that are targets."""


@dataclass(frozen=True)
class Reached:
    """Times to a target over seeds."""

    median: float
    """Over all seeds, an unreached one counting as infinite: infinite if half of them or more did not reach it."""
    reached: int
    of: int


def time_to_target(cost_K: ArrayLike, value_K: ArrayLike, target: float) -> float:
    """The cost at which one seed's curve passes `target` and stays there for the next point; inf if it never does.

    Point k is the passage if it and point k + 1 are both at or above `target`; its cost is interpolated linearly
    between points k - 1 and k (it is the first point's own if k = 0). One noisy evaluation is thus no passage, and
    neither is one at the last point, which nothing confirms. Costs (K,) rise, values (K,) are in gold.
    """
    cost_K, value_K = one_curve(cost_K, value_K)
    above_K = value_K >= target
    confirmed = np.flatnonzero(above_K[:-1] & above_K[1:])
    if not len(confirmed):
        return math.inf
    k = int(confirmed[0])
    if k == 0:
        return float(cost_K[0])
    # Point k - 1 is below the target, or it would itself have been confirmed by point k.
    share = (target - value_K[k - 1]) / (value_K[k] - value_K[k - 1])
    return float(cost_K[k - 1] + share * (cost_K[k] - cost_K[k - 1]))


def reached(times: Sequence[float]) -> Reached:
    """The median of `times` to a target, one a seed, and how many are finite; the median of none is nan."""
    times_S = np.asarray(times, dtype=np.float64)
    median = float(np.median(times_S)) if len(times_S) else math.nan
    return Reached(median, int(np.isfinite(times_S).sum()), len(times_S))


def gain_targets(base: float, finals: ArrayLike, shares: Sequence[int] = SHARES) -> dict[str, float]:
    """Gold to reach for each of `shares` (per cent) of the gain of the baseline's median seed, to freeze in a suite.

    `finals` (n,) is the baseline's gold at the full budget, one a seed. A baseline that gained nothing makes every
    target the base's gold or less: its suite has no meaningful targets.
    """
    gain = float(np.median(np.asarray(finals, dtype=np.float64))) - base
    return {str(share): base + share / 100 * gain for share in shares}
