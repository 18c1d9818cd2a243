"""A sampling schedule as plain numbers: the grid and one stochastic kernel's coefficients at every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpo_bench.errors import UserError

Floats = NDArray[np.float64]
Prediction = Literal["velocity", "epsilon"]
"""What a model predicts: v = eps - x0 at x = (1-s) x0 + s eps, or eps at x = sqrt(alpha) x0 + sqrt(1-alpha) eps."""
SNAP = 1e-6
"""A grid that starts this near 1 starts at 1."""


def check_sigmas(sigmas: ArrayLike) -> Floats:
    """Return `sigmas` as a read-only float64 array of length T+1 >= 2.

    Raises:
        UserError: if the grid is not finite, does not start in (0, 1], does not end at 0 or does not strictly decrease.
    """
    grid = np.array(sigmas, dtype=np.float64)
    if grid.ndim != 1 or grid.size < 2:
        raise UserError(f"a sigma grid is a list of at least 2 numbers, got shape {grid.shape}: give steps + 1 values")
    if not np.isfinite(grid).all():
        raise UserError(
            f"a sigma grid must be finite, got {grid[~np.isfinite(grid)][0]} at index "
            f"{int(np.flatnonzero(~np.isfinite(grid))[0])}: check the shift and the number of steps"
        )
    if not 0 < grid[0] <= 1 + SNAP or grid[-1] != 0.0:
        raise UserError(
            f"a sigma grid goes from at most 1 (noise) to 0 (image), got {grid[0]:g} to {grid[-1]:g}: append the 0"
        )
    rises = np.flatnonzero(np.diff(grid) >= 0)
    if rises.size:
        raise UserError(
            f"a sigma grid must strictly decrease, got {grid[rises[0]]:g} then {grid[rises[0] + 1]:g} at "
            f"index {int(rises[0])}: use fewer steps or a smaller shift"
        )
    if abs(grid[0] - 1.0) <= SNAP:
        grid[0] = 1.0  # float32 arithmetic may leave 1 - 6e-8, which 1 / (1 - s) would turn into a huge step
    grid.flags.writeable = False
    return grid


@dataclass(frozen=True, eq=False)
class Grid:
    """The points at which a trajectory is sampled, all float64.

    sigmas: (T+1,), strictly decreasing to 0. A velocity model's noise level s, from 1; an epsilon model's time as a
    share of its training steps.
    alpha: (T+1,), an epsilon model's cumulative alpha-bar at each point, strictly increasing in (0, 1]: the state is
    sqrt(alpha) x0 + sqrt(1-alpha) eps. None for a velocity model, whose state is (1-s) x0 + s eps.

    Raises:
        UserError: if either breaks these rules.
    """

    sigmas: Floats
    alpha: Floats | None = None

    def __post_init__(self) -> None:
        sigmas = check_sigmas(self.sigmas)
        object.__setattr__(self, "sigmas", sigmas)
        if self.alpha is not None:
            object.__setattr__(self, "alpha", _check_alpha(self.alpha, sigmas.size))
        elif sigmas[0] != 1.0:
            raise UserError(f"a velocity model's sigma grid goes from 1 (noise) to 0, got {sigmas[0]:g}: start it at 1")

    @property
    def prediction(self) -> Prediction:
        """What the grid's model predicts."""
        return "velocity" if self.alpha is None else "epsilon"

    def still(self) -> tuple[Floats, Floats]:
        """Coefficients (x_T, v_T) of the deterministic step from each point: x' = x_T[i] x + v_T[i] v.

        Velocity: Euler, x + v (sigma[i+1] - sigma[i]). Epsilon: DDIM (Song et al., arXiv 2010.02502, eq. 12 with no
        noise), sqrt(a') x0hat + sqrt(1-a') eps where x0hat = (x - sqrt(1-a) eps) / sqrt(a).
        """
        if self.alpha is None:
            return np.ones(self.sigmas.size - 1), np.diff(self.sigmas)
        now, after = self.alpha[:-1], self.alpha[1:]
        scale = np.sqrt(after / now)
        return scale, np.sqrt(1 - after) - scale * np.sqrt(1 - now)


def _check_alpha(alpha: ArrayLike, size: int) -> Floats:
    values = np.array(alpha, dtype=np.float64)
    if values.shape != (size,):
        raise UserError(f"a grid's alpha holds one number a point, got shape {values.shape}: give {size} values")
    if not (np.isfinite(values).all() and values[0] > 0 and values[-1] <= 1 and (np.diff(values) > 0).all()):
        raise UserError(
            f"a grid's alpha must rise strictly within (0, 1], got {values[0]:g} to {values[-1]:g}: use fewer steps, "
            "or a noise schedule that never reaches zero signal"
        )
    values.flags.writeable = False
    return values


@dataclass(frozen=True, eq=False)
class Schedule:
    """The grid and, per step i, the stochastic kernel N(x_T[i] * x + v_T[i] * v, std_T[i]^2 I), all float64.

    `x` is the latent at sigma[i] and `v` what the model predicts there, velocity or (where `alpha` is given) epsilon.
    The deterministic step of the same grid is still_x_T[i] * x + still_v_T[i] * v whatever the kernel: `Grid.still`.
    Build one with `grpo_bench.sampling.kernels.make_schedule`.

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
    alpha: Floats | None = None
    still_x_T: Floats = field(init=False)
    still_v_T: Floats = field(init=False)

    def __post_init__(self) -> None:
        grid = Grid(self.sigmas, self.alpha)
        object.__setattr__(self, "sigmas", grid.sigmas)
        object.__setattr__(self, "alpha", grid.alpha)
        for name, values in zip(("still_x_T", "still_v_T"), grid.still(), strict=True):
            values.flags.writeable = False
            object.__setattr__(self, name, values)
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

    @property
    def prediction(self) -> Prediction:
        """What the model predicts."""
        return "velocity" if self.alpha is None else "epsilon"
