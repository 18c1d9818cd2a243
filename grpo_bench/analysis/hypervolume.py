"""The hypervolume of ONE seed's curve of reward against cost, and how much of it noise alone would make.

The union of several seeds' points dominates each of them, so its hypervolume grows with their number: nothing here
takes more than one seed's points at a time, and what looks like a pool is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpo_bench.errors import UserError

FloatArray = NDArray[np.float64]
Points = tuple[ArrayLike, ArrayLike]
"""One seed's curve: its costs and its values."""

COSTS = 20
"""How many costs every curve is read at, so that no method has more points than another."""


def grid(budget: float) -> FloatArray:
    """(20,) costs at which curves are compared: 1/20, 2/20, ... of `budget`, in its unit; the last is `budget` itself.

    Cost 0 is not among them: every method has the same untrained model there.
    """
    if not budget > 0 or not math.isfinite(budget):
        raise UserError(f"a cost grid needs a budget above zero, not {budget:g}")
    return np.linspace(budget / COSTS, budget, COSTS)


def resample(cost_K: ArrayLike, value_K: ArrayLike, grid_M: ArrayLike) -> FloatArray:
    """(M,) values of one seed's curve, linearly interpolated to the costs `grid_M`; never beyond its own costs.

    Raises `UserError` if a cost of the grid is outside the curve's, or the curve is not one seed's.
    """
    cost_K, value_K = one_curve(cost_K, value_K)
    grid_M = np.asarray(grid_M, dtype=np.float64)
    if grid_M.size and (grid_M.min() < cost_K[0] or grid_M.max() > cost_K[-1]):
        raise UserError(
            f"a curve is never extrapolated: it was evaluated from cost {cost_K[0]:g} to {cost_K[-1]:g} and is asked "
            f"for {grid_M.min():g} to {grid_M.max():g}; cut the view at the smallest maximum of its runs"
        )
    return np.asarray(np.interp(grid_M, cost_K, value_K), dtype=np.float64)


def hypervolume(cost_M: ArrayLike, value_M: ArrayLike, *, cost_ref: float, base: float, best: float) -> float:
    """The share of the box [0, cost_ref] x [base, best] that one seed's points dominate, from 0 to 1.

    A point dominates every higher cost with every lower value. Values above `best` count as `best`; points dearer than
    `cost_ref` or below `base` count nothing. Zitzler and Thiele (1998), Multiobjective optimization using evolutionary
    algorithms, PPSN V; computed by moocore. Raises `UserError` for a pooled curve or an empty box.
    """
    cost_M, value_M = one_curve(cost_M, value_M)
    _check_box(base, best)
    if not cost_ref > 0:
        raise UserError(f"the hypervolume's reference cost must be above zero, not {cost_ref:g}")
    if cost_M[0] < 0:
        raise UserError(f"a cost cannot be below zero, and {cost_M[0]:g} is")
    points_MX = np.column_stack([cost_M, np.minimum(value_M, best)])
    area = float(moocore.hypervolume(points_MX, ref=[cost_ref, base], maximise=[False, True]))
    return area / (cost_ref * (best - base))


def hypervolumes(curves: Iterable[Points], *, cost_ref: float, base: float, best: float) -> FloatArray:
    """(S,) one hypervolume a seed: the only way to give several seeds' curves, and never their union."""
    return np.array([hypervolume(*one, cost_ref=cost_ref, base=base, best=best) for one in curves])


def noise_floor(base_values: ArrayLike, base: float, best: float) -> tuple[float, float]:
    """How far evaluations of the untrained base differ from one another by evaluation noise alone, at most.

    Returns the largest difference in gold, and as a share of (best - base): what a curve of pure noise can have as
    hypervolume. `base_values` (n,) in gold, one an evaluation; nan below two. A gain no larger than this is none.
    """
    _check_box(base, best)
    values_N = np.asarray(base_values, dtype=np.float64)
    if values_N.size < 2:
        return math.nan, math.nan
    largest = float(np.ptp(values_N))
    return largest, largest / (best - base)


def one_curve(cost_K: ArrayLike, value_K: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The curve as two (K,) arrays, if it can be one seed's: finite, and each cost above the one before."""
    cost_K, value_K = np.asarray(cost_K, dtype=np.float64), np.asarray(value_K, dtype=np.float64)
    if cost_K.ndim != 1 or value_K.ndim != 1:
        raise UserError(
            f"seeds are never pooled into one front, and an array of shape {value_K.shape} holds several: "
            "compute one number a seed"
        )
    if len(cost_K) != len(value_K) or not len(cost_K):
        raise UserError(
            f"a curve has a value for each cost and at least one, not {len(value_K)} for {len(cost_K)} costs"
        )
    if not (np.isfinite(cost_K).all() and np.isfinite(value_K).all()):
        raise UserError("a curve's costs and values are finite numbers: a diverged run is counted, not drawn")
    grows_K = np.diff(cost_K) > 0
    if not grows_K.all():
        stuck = int(grows_K.argmin())
        raise UserError(
            f"one seed's costs grow from point to point, and {cost_K[stuck + 1]:g} follows {cost_K[stuck]:g}: "
            "seeds are never pooled into one front, compute one number a seed"
        )
    return cost_K, value_K


def _check_box(base: float, best: float) -> None:
    if not best > base:
        raise UserError(
            f"the reference value {best:g} must be above the base's {base:g}: correct the suite's references"
        )
