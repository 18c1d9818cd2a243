"""Sigma grids in closed form, so that a plan can be drawn without torch or diffusers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grpo_bench.errors import UserError


def shifted_grid(steps: int, shift: float = 3.0, train_steps: int = 1000) -> NDArray[np.float64]:
    """The grid of diffusers' `FlowMatchEulerDiscreteScheduler(shift=shift).set_timesteps(steps)`, with its final 0.

    The scheduler shifts s -> shift s / (1 + (shift - 1) s) twice at the small end: once when it stores sigma_min,
    once more when it builds the grid from it. We keep that, because it is what SD3.5 is sampled with: at 10 steps
    the last non-zero sigma is .0089.

    Returns:
        float64 array of length steps + 1, from 1 to 0.

    Raises:
        UserError: if steps or train_steps is below 1, steps exceeds train_steps, or shift is not positive.
    """
    if not 1 <= steps <= train_steps:
        raise UserError(f"steps must be between 1 and {train_steps}, got {steps}: choose, for example, steps = 10")
    if not (np.isfinite(shift) and shift > 0):
        raise UserError(f"shift must be a positive number, got {shift}: SD3.5 uses 3")
    smallest = _shift(np.asarray(1.0 / train_steps), shift)
    return np.append(_shift(np.linspace(1.0, float(smallest), steps), shift), 0.0)


def _shift(sigma: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    return np.asarray(shift * sigma / (1.0 + (shift - 1.0) * sigma), dtype=np.float64)
