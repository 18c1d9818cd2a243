"""Transition kernels between two grid points: mean = a x + b v with a standard deviation, v what the model predicts.

For flow models x_s = (1-s) x0 + s eps and v = eps - x0; for diffusion models x = sqrt(a) x0 + sqrt(1-a) eps, v = eps.

Flow-SDE (Flow-GRPO, arXiv 2505.05470, eq. 9) and Dance-SDE (DanceGRPO, arXiv 2505.07818) are one update,
x + [v + g^2/(2s) (x + (1-s) v)] dt + g sqrt(h) eps, that differ only in g; CPS is FlowCPS (arXiv 2509.05952); DDIM
(arXiv 2010.02502) at eta = 1 is what DDPO (arXiv 2305.13301) trains.
We differ from released code in one thing: coefficients are float64, cast once where they meet the latent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpo_bench.errors import UserError, nearest
from grpo_bench.forest.schedule import Coefficients, Grid, Points, Prediction, Rule, Schedule, still

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """A transition rule: `rule(now, after, noise)` gives (x, v, std) for noise levels in 0..`most`.

    `noise` is its paper's level. `prediction` is what the model must predict for it; None: either.
    """

    noise: float
    most: float
    rule: Rule
    prediction: Prediction | None = "velocity"


def flow_sde(now: Points, after: Points, noise: Floats) -> Coefficients:
    """Flow-GRPO's SDE: g = noise * sqrt(s / (1 - s)); where s = 1 the denominator takes the next sigma for s."""
    s = now.sigma
    denominator = np.where(s == 1.0, 1.0 - after.sigma, 1.0 - s)
    return _langevin(now, after, noise * np.sqrt(s / denominator))


def dance_sde(now: Points, after: Points, noise: Floats) -> Coefficients:
    """DanceGRPO's SDE: g = noise at every step."""
    return _langevin(now, after, noise)


def cps(now: Points, after: Points, noise: Floats) -> Coefficients:
    """Coefficients-preserving sampling: std = s' sin(noise pi/2), mean = (1-s') x0hat + s' cos(noise pi/2) x1hat.

    s' is the next sigma, x0hat = x - s v, x1hat = x + (1-s) v; s' cos(.) is the formula's sqrt(s'^2 - std^2).
    """
    s, s_next = now.sigma, after.sigma
    kept = s_next * np.cos(noise * math.pi / 2)
    return (1 - s_next) + kept, kept * (1 - s) - (1 - s_next) * s, s_next * np.sin(noise * math.pi / 2)


def ode(now: Points, after: Points, noise: Floats) -> Coefficients:
    """The grid's deterministic transition, without noise."""
    return *still(now, after), np.array(noise)


def ddim(now: Points, after: Points, noise: Floats) -> Coefficients:
    """DDIM's posterior, eta = noise (Song et al., arXiv 2010.02502, eq. 12 and 16); eta = 1 has DDPM's variance.

    mean = sqrt(a') x0hat + sqrt(1 - a' - std^2) eps, x0hat = (x - sqrt(1-a) eps) / sqrt(a),
    std = eta sqrt((1-a') / (1-a) (1 - a/a')). As 1 - a/a' <= 1 - a, 1 - a' - std^2 = (1-a') (1 - eta^2 share) >= 0.
    """
    a, a_next = now.alpha, after.alpha
    assert a is not None and a_next is not None
    share = noise**2 * (1 - a / a_next) / (1 - a)
    x = np.sqrt(a_next / a)
    return x, np.sqrt((1 - a_next) * (1 - share)) - x * np.sqrt(1 - a), np.sqrt((1 - a_next) * share)


KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        "flow-sde": Kernel(0.7, math.inf, flow_sde),
        "dance-sde": Kernel(0.3, math.inf, dance_sde),
        "cps": Kernel(0.8, 1.0, cps),
        "ddim": Kernel(1.0, 1.0, ddim, "epsilon"),
        "ode": Kernel(0.0, 0.0, ode, None),
    }
)
"""Every kernel by name, with its paper's noise level."""


def check_kernel(kernel: str, prediction: Prediction) -> Kernel:
    """The kernel of that name, for a model that predicts `prediction`.

    Raises:
        UserError: for an unknown kernel, or one for another kind of model.
    """
    if kernel not in KERNELS:
        raise UserError(f"no kernel is named {kernel!r}: {nearest(kernel, KERNELS)}")
    rule = KERNELS[kernel]
    if rule.prediction not in (None, prediction):
        fitting = [name for name, other in KERNELS.items() if other.prediction == prediction]
        raise UserError(
            f"kernel {kernel} is for models that predict {rule.prediction}, this one predicts {prediction}: "
            f"use sampling.kernel={' or '.join(fitting)}"
        )
    return rule


def make_schedule(
    grid: Grid | ArrayLike, kernel: str, noise: float | None = None, train_last: bool = False
) -> Schedule:
    """The schedule of `kernel` on a grid (an array is a velocity model's sigmas); `noise` defaults to the paper's.

    The last step's coefficients follow the formula too, but a forest uses them only with `train_last`.

    Raises:
        UserError: for an unknown kernel or one for another kind of model, a noise level outside the kernel's range, an
            invalid grid, or `train_last` with a kernel whose last step has no noise (a ratio of densities would not
            exist).
    """
    points = grid if isinstance(grid, Grid) else Grid(np.asarray(grid, dtype=np.float64))
    rule = check_kernel(kernel, points.prediction)
    level = rule.noise if noise is None else float(noise)
    if not (math.isfinite(level) and 0.0 <= level <= rule.most):
        bounded = f"between 0 and {rule.most:g}" if rule.most else "0"
        allowed = bounded if math.isfinite(rule.most) else "finite and at least 0"
        raise UserError(f"noise of kernel {kernel} must be {allowed}, got {level}: its paper uses {rule.noise:g}")
    schedule = Schedule(points, rule.rule, kernel, level, rule.most, train_last)
    if train_last and schedule.std_T[-1] == 0.0:
        raise UserError(
            f"train_last needs noise on the last step, kernel {kernel} with noise {level:g} has none: "
            "use flow-sde or dance-sde (ddim for a diffusion model), or leave train_last off"
        )
    return schedule


def _langevin(now: Points, after: Points, g: Floats) -> Coefficients:
    """x + [v + g^2/(2s) (x + (1-s) v)] dt with standard deviation g sqrt(h)."""
    s, dt = now.sigma, after.sigma - now.sigma
    pull = g**2 / (2 * s) * dt
    return 1 + pull, dt + pull * (1 - s), g * np.sqrt(-dt)
