"""What a run's prompts scored at its base and at its budget: what differences between methods are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from grpo_bench.analysis.at_budget import FloatArray, read_at
from grpo_bench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class ByPrompt:
    """Scores (P,) by prompt, means over its images and evaluation noises."""

    base_P: FloatArray
    """Of the untrained base."""
    end_P: FloatArray
    """At the budget, between the two points on either side of it."""

    @property
    def gain(self) -> float:
        """The mean over prompts of what was gained."""
        return float((self.end_P - self.base_P).mean())


def by_prompt(
    scores: pd.DataFrame,
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
    return ByPrompt(_base(value_MPK), read_at(cost_M, value_MPK, budget))


def base_by_prompt(scores: pd.DataFrame, weights: Mapping[str, float], iterations: Sequence[int]) -> FloatArray:
    """(P,) the same of the untrained base alone, for a run that ended before its budget; raises as `by_prompt`."""
    return _base(_weighted(scores, weights, iterations))


def _base(value_MPK: FloatArray) -> FloatArray:
    base_P = value_MPK[0].mean(axis=1)
    if not np.isfinite(base_P).all():
        raise UserError("the base has no score for every prompt and noise: evaluate it under all noises")
    return np.asarray(base_P, dtype=np.float64)


def _weighted(scores: pd.DataFrame, weights: Mapping[str, float], iterations: Sequence[int]) -> FloatArray:
    """(M, P, K) by point, prompt and noise; at a point with fewer noises than the first, NaN under the others."""
    absent = [name for name in weights if name not in scores]
    if absent:
        raise UserError(f"the run has no prompts' scores of {absent[0]!r}; run it anew with --again")
    place = {iteration: point for point, iteration in enumerate(iterations)}
    known = scores[scores["iteration"].isin(place)]
    prompts, noises = (known[key].nunique() for key in ("prompt", "noise"))
    if not len(known) or known["prompt"].max() >= prompts or known["noise"].max() >= noises:
        raise UserError("the run's prompts or noises are not counted from 0 without a gap; run it anew with --again")
    value_MPK = np.full((len(iterations), prompts, noises), np.nan)
    value = sum(weight * known[name].to_numpy(np.float64) for name, weight in weights.items())
    value_MPK[known["iteration"].map(place), known["prompt"], known["noise"]] = value
    return value_MPK
