"""The built-in workload: a tiny Stable Diffusion 3 that draws coloured shapes, and a judge that reads its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from grpo_bench.config import RunConfig, Table
from grpo_bench.workloads.base import Splits, Workload
from grpo_bench.workloads.shapes.scenes import SPLITS, prompts

MODEL = Path(__file__).parent / "model"


class ShapesWorkload(Workload):
    """A tiny SD3 (32 x 32 pixels, shipped in the package) on captions such as "a red circle left of a blue square"."""

    name = "shapes"
    tier = "tiny"
    gold = "shapes"
    defaults: ClassVar[Table] = {
        "model": {"max_sequence_length": 0, "height": 32, "width": 32},
        "training": {"learning_rate": 1e-4},
        "evaluation": {"every": 6000},
        "budget": {"nfe": 60000.0},
    }

    def model(self, config: RunConfig) -> str:
        """The shipped checkpoint's folder."""
        return str(MODEL)

    def prompts(self, config: RunConfig) -> Splits:
        """Captions by split: train, heldout, and combinations of colour and shape never seen in training."""
        return {split: prompts(split) for split in SPLITS}
