"""The five cost axes; every point carries all of them, so five views come from the same runs."""

from __future__ import annotations

from typing import get_args

from grpo_bench.metering.ledger import BudgetKind
from grpo_bench.store.suite import Axis

__all__ = ["AXES", "BUDGETS", "COLUMNS", "TITLES", "Axis"]

AXES: tuple[Axis, ...] = get_args(Axis)

BUDGETS: dict[BudgetKind, str] = {
    "nfe": "nfe",
    "rollout-nfe": "rollout_nfe",
    "reward-calls": "reward_calls",
    "updates": "updates",
    "seconds": "seconds",
    "iterations": "iteration",
}
"""The points' column of what a budget may count."""

COLUMNS: dict[Axis, str] = {axis: BUDGETS[axis] for axis in AXES}
"""The points' column of each axis."""

TITLES: dict[Axis, str] = {
    "nfe": "network evaluations (rollout + reference + 3 x train)",
    "rollout-nfe": "rollout network evaluations",
    "reward-calls": "reward calls",
    "updates": "optimiser updates",
    "seconds": "seconds of training",
}
"""What each axis counts, for people."""
