"""What a run's prompts scored at its base and at its budget: what differences between methods are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpo_bench.analysis.at_budget import FloatArray, read_at
from grpo_bench.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class ByPrompt:
    """Scores (P,) by prompt, means over its images and evaluation noises."""

    base_P: FloatArray
    """Of the untrained base."""
    end_P: FloatArray
    """At the budget, between the two points on either side of it."""
    noises: int
    """Under how many the base was scored."""

    @property
    def gain(self) -> float:
        """The mean over prompts of what was gained."""
        return float((self.end_P - self.base_P).mean())


def by_prompt(
    scores: pa.Table,
    weights: Mapping[str, float],
    iterations: Sequence[int],
    cost_M: ArrayLike,
    budget: float,
) -> ByPrompt:
    """The weighted sum of columns of `prompt_scores.parquet`, read at the budget.

    `iterations` and `cost_M` say where the run's points lie, in the budget's own unit. Raises `UserError` where the run
    has no such scores, has too few of them, or ends before its budget.
    """
    value_MPK = _weighted(scores, weights, iterations)
    return ByPrompt(_base(value_MPK), read_at(cost_M, value_MPK, budget), value_MPK.shape[2])


def base_by_prompt(scores: pa.Table, weights: Mapping[str, float], iterations: Sequence[int]) -> FloatArray:
    """(P,) the same of the untrained base alone, for a run that ended before its budget; raises as `by_prompt`."""
    return _base(_weighted(scores, weights, iterations))


def _base(value_MPK: FloatArray) -> FloatArray:
    base_P = value_MPK[0].mean(axis=1)
    if not np.isfinite(base_P).all():
        raise UserError("the base has no score for every prompt and noise: evaluate it under all noises")
    return np.asarray(base_P, dtype=np.float64)


def _weighted(scores: pa.Table, weights: Mapping[str, float], iterations: Sequence[int]) -> FloatArray:
    """(M, P, K) by point, prompt and noise; at a point with fewer noises than the first, NaN under the others."""
    absent = [name for name in weights if name not in scores.column_names]
    if absent:
        raise UserError(f"the run has no prompts' scores of {absent[0]!r}; run it anew with --again")
    at_M = np.asarray(iterations, dtype=np.int64)
    when_R, prompt_R, noise_R = (scores[key].to_numpy() for key in ("iteration", "prompt", "noise"))
    point_R = np.minimum(np.searchsorted(at_M, when_R), len(at_M) - 1)
    known_R = at_M[point_R] == when_R
    point_R, prompt_R, noise_R = point_R[known_R], prompt_R[known_R], noise_R[known_R]
    prompts, noises = _counted(prompt_R), _counted(noise_R)
    # The base has every prompt under every noise; so a hostile file cannot ask for more numbers than it has rows.
    if not 0 < prompts * noises <= len(point_R):
        raise UserError("the run's prompts or noises are not counted from 0 without a gap; run it anew with --again")
    value_MPK = np.full((len(at_M), prompts, noises), np.nan)
    value_R = sum(weight * scores[name].to_numpy().astype(np.float64)[known_R] for name, weight in weights.items())
    value_MPK[point_R, prompt_R, noise_R] = value_R
    return value_MPK


def _counted(number_R: NDArray[np.int64]) -> int:
    """How many different numbers there are, if they are 0, 1, 2 and so on; else 0."""
    if not len(number_R) or number_R.min() < 0 or number_R.max() >= len(number_R):
        return 0
    there_N = np.bincount(number_R) > 0
    return len(there_N) if there_N.all() else 0
