"""MixGRPO (arXiv 2507.21802, section 3): SDE inside a sliding window of steps, ODE outside, only the window is trained.

Also Flow-GRPO-Fast: a short window at a random early step. Where the released code lets the window shrink at the end
and crash (window end past the last step), the window is clamped: it keeps its length and never holds the last step.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from grpo_bench import Forest, Method, MethodConfig, Schedule, UserError, chains


class WindowConfig(MethodConfig):
    """Settings of a window of stochastic steps that slides over the training."""

    window: int = Field(3, ge=1)
    """Stochastic, trained steps."""
    schedule: Literal["progressive", "random", "fixed"] = "progressive"
    """How the window's start moves: `stride` steps every `tau` iterations, uniformly at random, or not at all."""
    window_start: int = Field(0, ge=0)
    """First step of the window (`fixed`), or where `progressive` and `random` begin."""
    stride: int = Field(1, ge=1)
    """Steps that a progressive window moves at a time."""
    tau: int = Field(25, ge=1)
    """Iterations that a progressive window stays in one place."""


class MixConfig(WindowConfig):
    """Settings of MixGRPO."""

    group: int = Field(24, ge=2)
    """Chains (images) a prompt; a group of one would have no baseline to compare with."""
    window_stop: int | None = Field(None, ge=1)
    """Windows end at or before this step (Flow-GRPO-Fast: 5); default: wherever they fit."""
    shared_noise: bool = True
    """One initial noise a prompt, so that the ODE prefix before the window is computed once."""


class SlidingWindow:
    """Where a window lies: a base class for its methods, so that a run's id hashes this source for all of them."""

    @staticmethod
    def window(
        cfg: WindowConfig, iteration: int, rng: np.random.Generator, steps: int, stop: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """(steps,) whether a step lies in this iteration's window, which ends at or before `stop` and the last step.

        Raises:
            UserError: if the window is longer than that leaves room for.
        """
        # The last step is never stochastic, so a window must end before it.
        latest = (steps - 1 if stop is None else min(stop, steps - 1)) - cfg.window
        if latest < cfg.window_start:
            raise UserError(
                f"method.window = {cfg.window} from step {cfg.window_start} does not fit before the last of {steps} "
                f"steps; make the window shorter or raise sampling.steps"
            )
        if cfg.schedule == "fixed":
            start = cfg.window_start
        elif cfg.schedule == "random":
            start = int(rng.integers(cfg.window_start, latest + 1))
        else:
            start = min(cfg.window_start + cfg.stride * (iteration // cfg.tau), latest)
        step_T = np.arange(steps)
        return (step_T >= start) & (step_T < start + cfg.window)


class MixGRPO(SlidingWindow, Method[MixConfig]):
    """MixGRPO: SDE and training inside a sliding window of steps, ODE outside (Flow-GRPO-Fast too)."""

    name = "mix"
    paper = "2507.21802"
    Config = MixConfig

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        """G chains, stochastic on the window of this iteration."""
        cfg = self.config
        stochastic_T = self.window(cfg, iteration, rng, schedule.steps, cfg.window_stop)
        return chains(schedule.sigmas, cfg.group, stochastic_T, shared_noise=cfg.shared_noise)
