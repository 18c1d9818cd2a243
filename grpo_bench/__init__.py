"""grpo-bench: which online-RL method buys the most reward for a diffusion or flow model, per unit of cost.

The names below are the public API: all that a method or reward plugin, and its test, may import. They load on first
use, so that `grpo-bench --help` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_bench.errors import UserError
    from grpo_bench.forest.builders import assemble, branching, chains, trunk
    from grpo_bench.forest.forest import Forest
    from grpo_bench.forest.rollout import Credit, Rollout, back_up, leaf_credit, zscore
    from grpo_bench.forest.schedule import Schedule
    from grpo_bench.isolated.environment import Environment
    from grpo_bench.isolated.reward import IsolatedReward, IsolatedScorer, WorkerConfig
    from grpo_bench.method import Draws, EdgeBatch, ForwardBatch, ForwardMethod, Method, MethodConfig
    from grpo_bench.reward import Reward, RewardConfig, WeightsFile
    from grpo_bench.sampling.kernels import make_schedule

__version__ = "0.1.0"

_HOMES = {
    "UserError": "errors",
    "assemble": "forest.builders",
    "Forest": "forest.forest",
    "branching": "forest.builders",
    "chains": "forest.builders",
    "trunk": "forest.builders",
    "Credit": "forest.rollout",
    "Rollout": "forest.rollout",
    "back_up": "forest.rollout",
    "leaf_credit": "forest.rollout",
    "zscore": "forest.rollout",
    "Schedule": "forest.schedule",
    "Environment": "isolated.environment",
    "IsolatedReward": "isolated.reward",
    "IsolatedScorer": "isolated.reward",
    "WorkerConfig": "isolated.reward",
    "Draws": "method",
    "EdgeBatch": "method",
    "ForwardBatch": "method",
    "ForwardMethod": "method",
    "Method": "method",
    "MethodConfig": "method",
    "Reward": "reward",
    "RewardConfig": "reward",
    "WeightsFile": "reward",
    "make_schedule": "sampling.kernels",
}

__all__ = [
    "Credit",
    "Draws",
    "EdgeBatch",
    "Environment",
    "Forest",
    "ForwardBatch",
    "ForwardMethod",
    "IsolatedReward",
    "IsolatedScorer",
    "Method",
    "MethodConfig",
    "Reward",
    "RewardConfig",
    "Rollout",
    "Schedule",
    "UserError",
    "WeightsFile",
    "WorkerConfig",
    "__version__",
    "assemble",
    "back_up",
    "branching",
    "chains",
    "leaf_credit",
    "make_schedule",
    "trunk",
    "zscore",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'grpo_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"grpo_bench.{_HOMES[name]}"), name)
