"""The built-in workload of sparse reward: a tiny Stable Diffusion 3 that counts, and a judge that says yes or no."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from grpo_bench.config import RunConfig, Table
from grpo_bench.workloads.base import Splits, Workload
from grpo_bench.workloads.count.scenes import SPLITS, prompts

MODEL = Path(__file__).parent / "model"


class CountWorkload(Workload):
    """A tiny SD3 on captions such as "two red circles and one blue square": all right or nothing."""

    name = "count"
    tier = "tiny"
    gold = "count"
    defaults: ClassVar[Table] = {
        "model": {"max_sequence_length": 0, "height": 32, "width": 32},
        "reward": {"name": "count"},
        # Not tuned, and learning not yet shown: one seed of mix went from 0.307 to 0.292 at 1e-4 in 12,000 evaluations,
        # and to 0.344 at 3e-4 in 16,000, on 24 prompts with 8 images, whose noise is about as large.
        "training": {"learning_rate": 3e-4, "prompts": 8},
        # Yes or no says little an image; an evaluation of so many costs a quarter of the budget, which it is not in.
        "evaluation": {"every": 40000, "images": 32},
        "budget": {"nfe": 80000.0},
    }

    def model(self, config: RunConfig) -> str:
        """The shipped checkpoint's folder."""
        return str(MODEL)

    def prompts(self, config: RunConfig) -> Splits:
        """Captions by split: train, heldout and tuning."""
        return {split: prompts(split) for split in SPLITS}
