"""Grids in closed form, so that a plan can be drawn without torch or diffusers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grpo_bench.errors import UserError
from grpo_bench.forest.schedule import Grid


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
    _check_steps(steps, train_steps)
    smallest = _shift(np.asarray(1.0 / train_steps), shift)
    return np.append(_shift(np.linspace(1.0, float(smallest), steps), shift), 0.0)


def linear_grid(steps: int, shift: float = 1.0) -> NDArray[np.float64]:
    """Evenly from 1 to 0, then shifted once: what DanceGRPO, MixGRPO and BranchGRPO sample FLUX on, with a shift of 3.

    `sd3_time_shift` of `torch.linspace(1, 0, steps + 1)` in their train_grpo_flux.py. The last sigma that is not 0 is
    shift / (shift + steps - 1): at 20 steps .136, where `shifted_grid` has .0089.

    Raises:
        UserError: if steps is below 1 or above 1,000, or shift is not positive.
    """
    _check_steps(steps, 1000)
    return _shift(np.linspace(1.0, 0.0, steps + 1), shift)


def diffusion_grid(steps: int, train_steps: int = 1000) -> Grid:
    """Stable Diffusion's DDIM grid: betas scaled-linear from .00085 to .012, "leading" spacing, offset 1.

    The points of diffusers' `DDIMScheduler.set_timesteps(steps)` with SD 1.x's config, as shares of `train_steps`: at
    10 steps .901, .801, ..., .001, 0. Alpha-bar at t is the product of 1 - beta up to and with t; the last point's is
    that of t = 0, as in DDPO's code, so that the last step keeps some noise.

    Raises:
        UserError: if steps is below 1 or exceeds train_steps.
    """
    _check_steps(steps, train_steps)
    beta = np.linspace(0.00085**0.5, 0.012**0.5, train_steps) ** 2
    return timestep_grid(np.arange(steps)[::-1] * (train_steps // steps) + 1, np.cumprod(1 - beta))


def timestep_grid(timestep_T: NDArray[np.int64], alpha: NDArray[np.float64]) -> Grid:
    """The grid of descending timesteps (T,) under a noise schedule: `alpha` is alpha-bar at every training timestep.

    DDPO (`ddim_with_logprob.py`) takes alpha-bar of timestep 0, not 1, after the last step; so do SD 1.x and 2.x
    (`set_alpha_to_one` false).

    Raises:
        UserError: if a timestep is past the training's last, or they do not descend to one above 0.
    """
    train_steps = alpha.size
    if not (timestep_T[0] < train_steps and timestep_T[-1] > 0):
        raise UserError(
            f"a diffusion model's timesteps lie between 1 and {train_steps - 1}, got {timestep_T[0]} to "
            f"{timestep_T[-1]}: use fewer steps, or set timestep_spacing = leading and steps_offset = 1 in the "
            "model's scheduler_config.json"
        )
    index = np.append(timestep_T, 0)
    return Grid(index / train_steps, alpha[index])


def _check_steps(steps: int, train_steps: int) -> None:
    if not 1 <= steps <= train_steps:
        raise UserError(f"steps must be between 1 and {train_steps}, got {steps}: choose, for example, steps = 10")


def _shift(sigma: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    if not (np.isfinite(shift) and shift > 0):
        raise UserError(f"shift must be a positive number, got {shift}: SD3.5 uses 3")
    return np.asarray(shift * sigma / (1.0 + (shift - 1.0) * sigma), dtype=np.float64)
