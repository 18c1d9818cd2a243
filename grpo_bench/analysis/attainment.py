"""Attainment surfaces: what at least k of n seeds reached, for the bands of a Pareto plot.

Each surface is a front of the empirical attainment function: V. Grunert da Fonseca, C. M. Fonseca and A. O. Hall,
Inferential performance assessment of stochastic optimisers and the attainment function, EMO 2001. moocore computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

from grpo_bench.analysis.hypervolume import Points, one_curve
from grpo_bench.errors import UserError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """The cheapest costs and highest values that at least `level` of `of` seeds attained: a staircase, cost rising.

    Between two points the earlier value holds (draw it with steps after each point).
    """

    level: int
    of: int
    cost_P: FloatArray
    value_P: FloatArray

    @property
    def label(self) -> str:
        """What the surface is, in words."""
        return f"attained by at least {self.level} of {self.of} seeds"


def band_levels(seeds: int) -> tuple[int, ...]:
    """40, 60 and 80% of the seeds, rounded up, each once: (2, 3, 4) of 5, (4, 6, 8) of 10, (1,) of 1."""
    return tuple(sorted({-(-seeds * fifths // 5) for fifths in (2, 3, 4)})) if seeds else ()


def attainment(curves: Sequence[Points], levels: Sequence[int] | None = None) -> tuple[Surface, ...]:
    """The surfaces of `levels` (by default `band_levels`), one curve a seed, cost to be low and value high.

    A seed attains (c, v) if a point of its curve costs at most c and is worth at least v. Raises `UserError` if a level
    is not from 1 to the number of seeds, or a curve cannot be one seed's.
    """
    seeds = len(curves)
    chosen = band_levels(seeds) if levels is None else tuple(levels)
    for level in chosen:
        if not 1 <= level <= seeds:
            raise UserError(f"an attainment level is from 1 to the number of seeds, {seeds}, not {level}")
    if not chosen:
        return ()
    checked = [one_curve(*one) for one in curves]
    points_NX = np.concatenate([np.column_stack([cost_K, -value_K]) for cost_K, value_K in checked])
    seed_N = np.repeat(np.arange(seeds), [len(cost_K) for cost_K, _ in checked])
    front_PX: FloatArray = moocore.eaf(points_NX, seed_N)  # all levels: rows of cost, -value, 100 k / n
    level_P = np.rint(front_PX[:, 2] * seeds / 100).astype(int)
    return tuple(_surface(front_PX[level_P == level, :2], level, seeds) for level in chosen)


def _surface(front_PX: FloatArray, level: int, seeds: int) -> Surface:
    front_PX = front_PX[np.argsort(front_PX[:, 0])]
    return Surface(level, seeds, front_PX[:, 0].copy(), -front_PX[:, 1])
