"""The analytic workload: Gaussians whose flow, moments and exact gradient have a closed form."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from grpo_bench.config import RunConfig, Table
from grpo_bench.workloads.base import Splits, Workload

MODEL = Path(__file__).parent / "model"
TRAIN, HELD_OUT = 16, 8


class GaussianWorkload(Workload):
    """One 12-number Gaussian a prompt with an exact policy gradient: tests methods in seconds, without a network."""

    name = "gaussian"
    tier = "analytic"
    gold = "gaussian"
    defaults: ClassVar[Table] = {
        "model": {"policy": "gaussian", "max_sequence_length": 0, "height": 8, "width": 8},
        "reward": {"name": "gaussian"},
        # On flat, mix and tree alike 0.05 more than halves the distance to the best; at 0.2 tree loses it again.
        "training": {"learning_rate": 0.05, "prompts": 4, "rollout_batch": 1024, "train_batch": 1024},
        "evaluation": {"prompts": HELD_OUT, "images": 16},
        "budget": {"nfe": 100000.0},
    }

    def model(self, config: RunConfig) -> str:
        """The shipped folder, which says how many steps have a residual of their own; the rest is closed form."""
        return str(MODEL)

    def prompts(self, config: RunConfig) -> Splits:
        """Sixteen clouds to train on and eight held out."""
        names = tuple(f"cloud {number}" for number in range(TRAIN + HELD_OUT))
        return {"train": names[:TRAIN], "heldout": names[TRAIN:]}
