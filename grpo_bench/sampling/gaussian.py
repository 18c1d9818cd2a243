"""One transition in tensors: the mean and the log-prob of an edge, in fp32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Likelihood:
    """How an edge's log-prob is reduced over the latent's numbers and scaled; rollout and training must agree on it."""

    reduction: Literal["mean", "sum"] = "mean"
    scale: Literal["gaussian", "raw"] = "gaussian"


GAUSSIAN_MEAN = Likelihood()
"""What every released code base uses."""


def transition_mean(x_BCHW: Tensor, v_BCHW: Tensor, x_B: Tensor, v_B: Tensor) -> Tensor:
    """Every kernel is affine in latent and velocity: mean = x_B x + v_B v, coefficients (B,) of each row's step."""
    shape = (-1, *(1,) * (x_BCHW.dim() - 1))
    return x_B.view(shape) * x_BCHW + v_B.view(shape) * v_BCHW


def log_prob(next_BCHW: Tensor, mean_BCHW: Tensor, std_B: Tensor, likelihood: Likelihood) -> Tensor:
    """Log-density (B,) of N(mean, std^2 I) at `next`, constants kept, reduced over the latent's dimensions.

    `scale = "raw"` is the released CPS code's -(x' - mean)^2, without the density's 1/(2 std^2) and constants.
    """
    error_BD = (next_BCHW - mean_BCHW).flatten(1).square()
    if likelihood.scale == "raw":
        density_BD = -error_BD
    else:
        std_B1 = std_B.view(-1, 1)
        density_BD = -error_BD / (2 * std_B1.square()) - std_B1.log() - 0.5 * math.log(2 * math.pi)
    return density_BD.mean(1) if likelihood.reduction == "mean" else density_BD.sum(1)


def gaussian_kl(mean_BCHW: Tensor, other_BCHW: Tensor, std_B: Tensor) -> Tensor:
    """KL (B,) between two Gaussians of one std, mean over dimensions: |mean - other|^2 / (2 std^2).

    `std` includes the step's sqrt(dt), which Flow-GRPO's released code leaves out (paper: eq. 10).
    """
    return (mean_BCHW - other_BCHW).flatten(1).square().mean(1) / (2 * std_B.square())
