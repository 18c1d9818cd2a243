"""The built-in workload of late detail: a tiny Stable Diffusion 3 that writes, and a judge that reads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from grpo_bench.config import RunConfig, Table
from grpo_bench.workloads.base import Splits, Workload
from grpo_bench.workloads.glyphs.captions import SPLITS, prompts

MODEL = Path(__file__).parent / "model"


class GlyphsWorkload(Workload):
    """A tiny SD3 on captions such as "the letters E F", faint on a loud background: what is judged is late detail."""

    name = "glyphs"
    tier = "tiny"
    gold = "glyphs"
    defaults: ClassVar[Table] = {
        "model": {"max_sequence_length": 0, "height": 32, "width": 32},
        "reward": {"name": "glyphs"},
        "training": {"learning_rate": 1e-4, "prompts": 8},
        "evaluation": {"every": 16000},
        "budget": {"nfe": 80000.0},
    }

    def model(self, config: RunConfig) -> str:
        """The shipped checkpoint's folder."""
        return str(MODEL)

    def prompts(self, config: RunConfig) -> Splits:
        """Captions by split: train, heldout and tuning."""
        return {split: prompts(split) for split in SPLITS}
