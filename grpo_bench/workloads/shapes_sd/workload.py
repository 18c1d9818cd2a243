"""The built-in replication of `shapes`: a tiny Stable Diffusion 1 on the same captions, read by the same judge."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from grpo_bench.config import RunConfig, Table, merge
from grpo_bench.workloads.shapes.workload import ShapesWorkload

MODEL = Path(__file__).parent / "model"


class ShapesSDWorkload(ShapesWorkload):
    """A tiny Stable Diffusion 1 (epsilon, DDIM) on the captions and with the judge of `shapes`: a replication."""

    name = "shapes-sd"
    replicates = "shapes"
    defaults: ClassVar[Table] = merge(
        ShapesWorkload.defaults,
        {"model": {"policy": "sd"}, "sampling": {"kernel": "ddim"}},
    )

    def model(self, config: RunConfig) -> str:
        """The shipped checkpoint's folder."""
        return str(MODEL)
