"""A sampling schedule as plain numbers: the grid, and one kernel's coefficients between any two of its points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

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


class Points(NamedTuple):
    """Some points of a grid as kernels see them, float64: sigma, and for an epsilon model alpha-bar."""

    sigma: Floats
    alpha: Floats | None


class Transition(NamedTuple):
    """Coefficients of transitions, float64 arrays of one shape: x' = x * latent + v * prediction + std * eps.

    `h` is the length of each in sigma, sigma[i] - sigma[j].
    """

    x: Floats
    v: Floats
    std: Floats
    h: Floats


Coefficients = tuple[Floats, Floats, Floats]
Rule = Callable[[Points, Points, Floats], Coefficients]
"""A kernel: (x, v, std) of the transitions from some points to later ones, under noise levels of their shape."""


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

    def at(self, index: ArrayLike) -> Points:
        """The points at these places, 0..T."""
        place = np.asarray(index, dtype=np.int64)
        return Points(self.sigmas[place], None if self.alpha is None else self.alpha[place])


def still(now: Points, after: Points) -> tuple[Floats, Floats]:
    """Coefficients (x, v) of the deterministic transitions between points.

    Velocity: Euler, x + v (s' - s). Epsilon: DDIM (Song et al., arXiv 2010.02502, eq. 12 with no noise),
    sqrt(a') x0hat + sqrt(1-a') eps where x0hat = (x - sqrt(1-a) eps) / sqrt(a).
    """
    if now.alpha is None or after.alpha is None:
        return np.ones_like(now.sigma), after.sigma - now.sigma
    scale = np.sqrt(after.alpha / now.alpha)
    return scale, np.sqrt(1 - after.alpha) - scale * np.sqrt(1 - now.alpha)


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
    """A grid and a stochastic kernel N(x * latent + v * prediction, std^2 I) between any two of its points.

    The latent is at the earlier point, and so is what the model predicts: velocity or, where the grid has `alpha`,
    epsilon. Build one with `grpo_bench.sampling.kernels.make_schedule`.

    Attributes:
        grid: the points.
        rule: the kernel.
        kernel: its name.
        noise: its noise level.
        most: the highest level that it allows.
        train_last: whether a forest may have noise on the last step.

    Raises:
        UserError: if a coefficient of a step is not finite, or a std is negative.
    """

    grid: Grid
    rule: Rule
    kernel: str
    noise: float
    most: float = math.inf
    train_last: bool = False

    def __post_init__(self) -> None:
        for name in ("x_T", "v_T", "std_T"):
            values = getattr(self, name)
            if not np.isfinite(values).all() or (name == "std_T" and (values < 0).any()):
                raise UserError(f"{name} of kernel {self.kernel} must be finite (std: and not negative), got {values}")

    def edge(self, start: ArrayLike, end: ArrayLike, factor: ArrayLike = 1.0) -> Transition:
        """The kernel's transitions from grid points to later ones; the arguments broadcast.

        Args:
            start: places 0..T-1.
            end: places 1..T, each after its start.
            factor: what the noise level is multiplied by.

        Raises:
            UserError: an end that is not after its start or past T, or a noise level that the kernel does not allow.
        """
        start_M, end_M, factor_M = np.broadcast_arrays(start, end, np.asarray(factor, dtype=np.float64))
        self._check_places(start_M, end_M)
        level_M = self.noise * factor_M
        if (level_M > self.most).any():
            raise UserError(
                f"noise of kernel {self.kernel} is at most {self.most:g}, and noise_T makes it {level_M.max():g} "
                "somewhere; lower noise_T or sampling.noise"
            )
        now, after = self.grid.at(start_M), self.grid.at(end_M)
        return Transition(*self.rule(now, after, level_M), now.sigma - after.sigma)

    def still(self, start: ArrayLike, end: ArrayLike) -> Transition:
        """The deterministic transitions of the same grid, whatever the kernel; arguments and errors as for `edge`."""
        start_M, end_M = np.broadcast_arrays(start, end)
        self._check_places(start_M, end_M)
        now, after = self.grid.at(start_M), self.grid.at(end_M)
        return Transition(*still(now, after), np.zeros_like(now.sigma), now.sigma - after.sigma)

    def _check_places(self, start_M: NDArray[np.int64], end_M: NDArray[np.int64]) -> None:
        wrong_M = (start_M < 0) | (end_M <= start_M) | (end_M > self.steps)
        if wrong_M.any():
            place = int(np.argmax(wrong_M))
            raise UserError(
                f"a transition goes from a grid point to a later one of 0..{self.steps}, got "
                f"{int(start_M.flat[place])} to {int(end_M.flat[place])}"
            )

    @property
    def sigmas(self) -> Floats:
        """(T+1,) the grid's noise levels."""
        return self.grid.sigmas

    @property
    def steps(self) -> int:
        """The number of transitions from each point to the next, T."""
        return int(self.grid.sigmas.size) - 1

    @property
    def prediction(self) -> Prediction:
        """What the model predicts."""
        return self.grid.prediction

    @cached_property
    def step(self) -> Transition:
        """The kernel's transitions from each point to the next, arrays (T,), read-only."""
        points = np.arange(self.steps)
        return _locked(self.edge(points, points + 1))

    @cached_property
    def still_step(self) -> Transition:
        """The deterministic transitions from each point to the next, arrays (T,), read-only."""
        points = np.arange(self.steps)
        return _locked(self.still(points, points + 1))

    @property
    def x_T(self) -> Floats:
        """(T,) the latent's coefficient at each step."""
        return self.step.x

    @property
    def v_T(self) -> Floats:
        """(T,) the prediction's coefficient at each step."""
        return self.step.v

    @property
    def std_T(self) -> Floats:
        """(T,) the noise's standard deviation at each step."""
        return self.step.std

    @property
    def h_T(self) -> Floats:
        """(T,) the step sizes sigma[i] - sigma[i+1], all positive."""
        return self.step.h


def _locked(transition: Transition) -> Transition:
    for values in transition:
        values.flags.writeable = False
    return transition
