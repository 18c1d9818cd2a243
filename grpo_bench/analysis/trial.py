"""What a run gained within its budget, read from its stored points and its prompts' scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.analysis.at_budget import FloatArray, read_at
from grpo_bench.analysis.axes import COLUMNS
from grpo_bench.errors import UserError
from grpo_bench.metering.ledger import BudgetKind
from grpo_bench.store.points import Row

if TYPE_CHECKING:
    import pandas as pd


def gain(
    points: Sequence[Row], scores: pd.DataFrame, weights: Mapping[str, float], kind: BudgetKind, budget: float
) -> float:
    """The weighted sum of columns of prompt scores at the budget, less that of the base; means over prompts and noises.

    Raises `UserError` where the run has no such scores, or ends before its budget.
    """
    value_MPK = _weighted(scores, weights, [int(row["iteration"] or 0) for row in points])
    column = "iteration" if kind == "iterations" else COLUMNS[kind]
    cost_M = np.array([float(row[column] or 0) for row in points])
    end_P = read_at(cost_M, value_MPK, budget)
    return float((end_P - value_MPK[0].mean(axis=1)).mean())


def _weighted(scores: pd.DataFrame, weights: Mapping[str, float], iterations: Sequence[int]) -> FloatArray:
    """(M, P, K) by point, prompt and noise; at a point with fewer noises than the first, NaN under the others."""
    absent = [name for name in weights if name not in scores]
    if absent:
        raise UserError(f"the run has no prompts' scores of {absent[0]!r}; run it anew with --again")
    prompts, noises = scores["prompt"].nunique(), scores["noise"].nunique()
    place = {iteration: point for point, iteration in enumerate(iterations)}
    value_MPK = np.full((len(iterations), prompts, noises), np.nan)
    known = scores[scores["iteration"].isin(place)]
    value = sum(weight * known[name].to_numpy(np.float64) for name, weight in weights.items())
    value_MPK[known["iteration"].map(place), known["prompt"], known["noise"]] = value
    return value_MPK
