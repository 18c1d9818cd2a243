"""A run read at exactly the budget, prompt by prompt, between the two points on either side of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpo_bench.analysis.hypervolume import one_curve
from grpo_bench.errors import UserError

FloatArray = NDArray[np.float64]


def bracket(cost_M: ArrayLike, cost: float) -> tuple[int, int, float]:
    """The points on either side of `cost`, and how far from the first to the second it lies (0 to 1).

    A point exactly there is both. Costs (M,) rise from point to point. Raises `UserError` for a cost outside them.
    """
    cost_M, _ = one_curve(cost_M, np.zeros(np.shape(cost_M)))
    if not cost_M[0] <= cost <= cost_M[-1]:
        raise UserError(
            f"a run is read between two of its points, and they lie at {cost_M[0]:g} to {cost_M[-1]:g}, not on either "
            f"side of {cost:g}: let it run to the first iteration past the budget"
        )
    after = int(np.searchsorted(cost_M, cost))
    if cost_M[after] == cost:
        return after, after, 0.0
    return after - 1, after, float((cost - cost_M[after - 1]) / (cost_M[after] - cost_M[after - 1]))


def read_at(cost_M: ArrayLike, score_MP: ArrayLike, cost: float) -> FloatArray:
    """(P,) scores at `cost`: linear between the two points that bracket it, for each prompt by itself.

    `score_MP` has a row a point, in any unit; (M, P, K) scores under K evaluation noises are averaged over those first.
    Only the two points are read, so that the others may lack values. Raises `UserError` for a cost outside the points,
    shapes that do not fit, or a score that is not finite at one of the two.
    """
    score_MPK = np.asarray(score_MP, dtype=np.float64)
    points = np.shape(cost_M)
    if score_MPK.ndim not in (2, 3) or score_MPK.shape[:1] != points or not score_MPK[:1].size:
        raise UserError(
            f"every point has scores of prompts, (M, P) or under several noises (M, P, K), and {score_MPK.shape} does "
            f"not fit costs of shape {points}"
        )
    before, after, share = bracket(cost_M, cost)
    first_P, second_P = (score_MPK[point].reshape(score_MPK.shape[1], -1).mean(axis=1) for point in (before, after))
    if not (np.isfinite(first_P).all() and np.isfinite(second_P).all()):
        raise UserError(
            f"the two points beside cost {cost:g} have a finite score for every prompt and noise, and one is missing: "
            "evaluate them under all noises"
        )
    return np.asarray(first_P + share * (second_P - first_P), dtype=np.float64)
