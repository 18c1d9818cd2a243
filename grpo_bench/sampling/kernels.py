"""Transition kernels: mean = x_T * x + v_T * v with a standard deviation, for x_s = (1-s) x0 + s eps and v = eps - x0.

Flow-SDE (Flow-GRPO, arXiv 2505.05470, eq. 9) and Dance-SDE (DanceGRPO, arXiv 2505.07818) are one update,
x + [v + g^2/(2s) (x + (1-s) v)] dt + g sqrt(h) eps, that differ only in g; CPS is FlowCPS (arXiv 2509.05952).
We differ from released code in one thing: coefficients are float64, cast once where they meet the latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpo_bench.errors import UserError, nearest
from grpo_bench.forest.schedule import Schedule, check_sigmas

Floats = NDArray[np.float64]
Coefficients = tuple[Floats, Floats, Floats]


@dataclass(frozen=True)
class Kernel:
    """A transition rule: `coefficients(sigmas, noise)` gives (x_T, v_T, std_T) for a noise level in 0..`most`."""

    noise: float
    most: float
    coefficients: Callable[[Floats, float], Coefficients]


def flow_sde(sigmas: Floats, noise: float) -> Coefficients:
    """Flow-GRPO's SDE: g = noise * sqrt(s / (1 - s)); where s = 1 the denominator takes sigma[1] for s."""
    s = sigmas[:-1]
    denominator = np.where(s == 1.0, 1.0 - sigmas[1], 1.0 - s)
    return _langevin(sigmas, noise * np.sqrt(s / denominator))


def dance_sde(sigmas: Floats, noise: float) -> Coefficients:
    """DanceGRPO's SDE: g = noise at every step."""
    return _langevin(sigmas, np.full(sigmas.size - 1, noise))


def cps(sigmas: Floats, noise: float) -> Coefficients:
    """Coefficients-preserving sampling: std = s' sin(noise pi/2), mean = (1-s') x0hat + s' cos(noise pi/2) x1hat.

    s' is the next sigma, x0hat = x - s v, x1hat = x + (1-s) v; s' cos(.) is the formula's sqrt(s'^2 - std^2).
    """
    s, s_next = sigmas[:-1], sigmas[1:]
    kept = s_next * math.cos(noise * math.pi / 2)
    return (1 - s_next) + kept, kept * (1 - s) - (1 - s_next) * s, s_next * math.sin(noise * math.pi / 2)


def ode(sigmas: Floats, noise: float) -> Coefficients:
    """The Euler step x + v dt, without noise."""
    dt = np.diff(sigmas)
    return np.ones_like(dt), dt, np.full_like(dt, noise)


KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        "flow-sde": Kernel(0.7, math.inf, flow_sde),
        "dance-sde": Kernel(0.3, math.inf, dance_sde),
        "cps": Kernel(0.8, 1.0, cps),
        "ode": Kernel(0.0, 0.0, ode),
    }
)
"""Every kernel by name, with its paper's noise level."""


def make_schedule(sigmas: ArrayLike, kernel: str, noise: float | None = None, train_last: bool = False) -> Schedule:
    """The schedule of `kernel` on a grid; `noise` defaults to the paper's level.

    The last step's coefficients follow the formula too, but a forest uses them only with `train_last`.

    Raises:
        UserError: for an unknown kernel, a noise level outside the kernel's range, an invalid grid, or `train_last`
            with a kernel whose last step has no noise (a ratio of densities would not exist).
    """
    if kernel not in KERNELS:
        raise UserError(f"no kernel is named {kernel!r}: {nearest(kernel, KERNELS)}")
    rule = KERNELS[kernel]
    level = rule.noise if noise is None else float(noise)
    if not (math.isfinite(level) and 0.0 <= level <= rule.most):
        bounded = f"between 0 and {rule.most:g}" if rule.most else "0"
        allowed = bounded if math.isfinite(rule.most) else "finite and at least 0"
        raise UserError(f"noise of kernel {kernel} must be {allowed}, got {level}: its paper uses {rule.noise:g}")
    grid = check_sigmas(sigmas)
    x_T, v_T, std_T = rule.coefficients(grid, level)
    if train_last and std_T[-1] == 0.0:
        raise UserError(
            f"train_last needs noise on the last step, kernel {kernel} with noise {level:g} has none: "
            "use flow-sde or dance-sde, or leave train_last off"
        )
    return Schedule(grid, x_T, v_T, std_T, kernel, level, train_last)


def _langevin(sigmas: Floats, g_T: Floats) -> Coefficients:
    """x + [v + g^2/(2s) (x + (1-s) v)] dt with standard deviation g sqrt(h)."""
    s, dt = sigmas[:-1], np.diff(sigmas)
    pull = g_T**2 / (2 * s) * dt
    return 1 + pull, dt + pull * (1 - s), g_T * np.sqrt(-dt)
