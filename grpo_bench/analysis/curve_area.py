"""The area under one seed's curve of reward against cost, as a share of what could be had."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from grpo_bench.analysis.hypervolume import grid, resample
from grpo_bench.errors import UserError


def curve_area(cost_K: ArrayLike, value_K: ArrayLike, *, budget: float, base: float, ceiling: float) -> float:
    """The mean height of one seed's curve from cost 0 to the budget: 0 at `base` all along, 1 at `ceiling` all along.

    The curve (K,), from cost 0 on, is read at cost 0 and the 20 costs of `hypervolume.grid` by linear interpolation;
    the area under those readings is that of the trapezoids between them. Values above `ceiling` count as `ceiling`;
    values below `base` count below 0. There is no running maximum: a lucky point lifts the area by its own share alone.
    Raises `UserError` for a curve that does not reach from 0 to the budget, or is not one seed's.
    """
    if not ceiling > base:
        raise UserError(f"the ceiling {ceiling:g} must be above the base's {base:g}: correct the workload's references")
    cost_M = np.concatenate([[0.0], grid(budget)])
    height_M = (np.minimum(resample(cost_K, value_K, cost_M), ceiling) - base) / (ceiling - base)
    return float(np.trapezoid(height_M, cost_M)) / budget
