"""BranchGRPO-Mix (arXiv 2509.06040, section 3, "hybrid ODE-SDE"): BranchGRPO whose steps are ODE outside a window.

The splits stay stochastic and a MixGRPO window adds stochastic steps; both are trained, all else is ODE. In the
released code the window moves with the sampling step instead of the iteration, so it never slides over the training;
here it slides as MixGRPO's does, and `schedule = "fixed"` keeps it where that code has it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from grpo_bench import Schedule
from grpo_bench_methods.branch import BranchConfig, BranchGRPO
from grpo_bench_methods.mix import SlidingWindow, WindowConfig


class BranchMixConfig(BranchConfig, WindowConfig):
    """Settings of BranchGRPO-Mix: BranchGRPO's and those of the window."""

    window: int = Field(4, ge=1)
    """Stochastic, trained steps that are added to the splits."""


class BranchMix(SlidingWindow, BranchGRPO):
    """BranchGRPO-Mix: stochastic and trained at the splits and inside a sliding window, ODE elsewhere."""

    name = "branch-mix"
    Config = BranchMixConfig
    config: BranchMixConfig

    def stochastic_steps(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> npt.NDArray[np.bool_]:
        """(T,) whether the step samples noise: the splits and this iteration's window."""
        stochastic_T = self.window(self.config, iteration, rng, schedule.steps)
        stochastic_T[list(self.splits(schedule.steps))] = True
        return stochastic_T
