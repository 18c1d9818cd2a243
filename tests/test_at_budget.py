"""A run read at its budget: each prompt by itself, between the two points on either side."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grpo_bench.analysis.at_budget import bracket, read_at
from grpo_bench.errors import UserError

COSTS = [0.0, 100.0, 300.0]
SCORES = [[0.0, 0.5], [0.2, 0.4], [0.6, 0.0]]


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (0, [0, 0.5]),
        (50, [0.1, 0.45]),
        (100, [0.2, 0.4]),
        (150, [0.3, 0.3]),
        (300, [0.6, 0]),
    ],
)
def test_each_prompt_is_interpolated_by_itself(cost: float, expected: list[float]) -> None:
    assert read_at(COSTS, SCORES, cost) == pytest.approx(expected)


def test_noises_are_averaged_first() -> None:
    noise_K = np.array([-0.3, 0.1, 0.2, 0.4])
    scores_MPK = np.array(SCORES)[:, :, None] + noise_K

    assert read_at(COSTS, scores_MPK, 150) == pytest.approx([0.4, 0.4])


def test_points_that_do_not_bracket_the_cost_are_not_read() -> None:
    scores = [[math.nan, math.nan], *SCORES[1:]]

    assert read_at(COSTS, scores, 150) == pytest.approx([0.3, 0.3])
    assert read_at(COSTS, scores, 100) == pytest.approx([0.2, 0.4])
    with pytest.raises(UserError, match="finite"):
        read_at(COSTS, scores, 50)


def test_the_bracket_says_how_far_the_cost_lies() -> None:
    assert bracket(COSTS, 150) == (1, 2, 0.25)
    assert bracket(COSTS, 100) == (1, 1, 0)
    assert bracket(COSTS, 300) == (2, 2, 0)


@pytest.mark.parametrize("cost", [-1, 300.1, math.nan])
def test_a_budget_outside_the_points_is_refused(cost: float) -> None:
    with pytest.raises(UserError, match="0 to 300"):
        read_at(COSTS, SCORES, cost)


@pytest.mark.parametrize(
    ("costs", "scores"),
    [
        (COSTS, SCORES[:2]),
        (COSTS, [0.1, 0.2, 0.3]),
        (COSTS, [[], [], []]),
        ([], []),
        ([0, 100, 100], SCORES),
        ([0, 100, math.nan], SCORES),
    ],
)
def test_scores_that_do_not_fit_the_costs_are_refused(costs: list[float], scores: list[object]) -> None:
    with pytest.raises(UserError):
        read_at(costs, scores, 50)  # type: ignore[arg-type]
