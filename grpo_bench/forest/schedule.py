"""A sampling schedule as plain numbers: the sigma grid and one stochastic kernel's coefficients at every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpo_bench.errors import UserError

Floats = NDArray[np.float64]


def check_sigmas(sigmas: ArrayLike) -> Floats:
    """Return `sigmas` as a read-only float64 array of length T+1 >= 2.

    Raises:
        UserError: if the grid is not finite, does not start at 1, does not end at 0 or does not strictly decrease.
    """
    grid = np.array(sigmas, dtype=np.float64)
    if grid.ndim != 1 or grid.size < 2:
        raise UserError(f"a sigma grid is a list of at least 2 numbers, got shape {grid.shape}: give steps + 1 values")
    if not np.isfinite(grid).all():
        raise UserError(
            f"a sigma grid must be finite, got {grid[~np.isfinite(grid)][0]} at index "
            f"{int(np.flatnonzero(~np.isfinite(grid))[0])}: check the shift and the number of steps"
        )
    if abs(grid[0] - 1.0) > 1e-6 or grid[-1] != 0.0:
        raise UserError(f"a sigma grid goes from 1 (noise) to 0 (image), got {grid[0]:g} to {grid[-1]:g}: append the 0")
    rises = np.flatnonzero(np.diff(grid) >= 0)
    if rises.size:
        raise UserError(
            f"a sigma grid must strictly decrease, got {grid[rises[0]]:g} then {grid[rises[0] + 1]:g} at "
            f"index {int(rises[0])}: use fewer steps or a smaller shift"
        )
    grid[0] = 1.0  # float32 arithmetic may leave 1 - 6e-8, which 1 / (1 - s) would turn into a huge step
    grid.flags.writeable = False
    return grid


@dataclass(frozen=True, eq=False)
class Schedule:
    """The grid and, per step i, the stochastic kernel N(x_T[i] * x + v_T[i] * v, std_T[i]^2 I), all float64.

    `x` is the latent at sigma[i] and `v` the velocity predicted there. The deterministic step of the same grid is
    x + v * (sigma[i+1] - sigma[i]) whatever the kernel. Build one with `grpo_bench.sampling.kernels.make_schedule`.

    Raises:
        UserError: if the grid is invalid, an array is not of length T, or a coefficient is not finite.
    """

    sigmas: Floats
    x_T: Floats
    v_T: Floats
    std_T: Floats
    kernel: str
    noise: float
    train_last: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", check_sigmas(self.sigmas))
        for name in ("x_T", "v_T", "std_T"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != (self.steps,):
                raise UserError(f"{name} holds one number a step, got shape {values.shape} for {self.steps} steps")
            if not np.isfinite(values).all() or (name == "std_T" and (values < 0).any()):
                raise UserError(f"{name} of kernel {self.kernel} must be finite (std: and not negative), got {values}")
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    @property
    def steps(self) -> int:
        """The number of transitions, T."""
        return int(self.sigmas.size) - 1

    @property
    def h_T(self) -> Floats:
        """The step sizes sigma[i] - sigma[i+1], all positive."""
        return -np.diff(self.sigmas)
