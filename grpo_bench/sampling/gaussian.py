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


def each(values_B: Tensor, like_BZ: Tensor) -> Tensor:
    """Numbers (B,) shaped so that they multiply latents of any rank row by row."""
    return values_B.view(-1, *(1,) * (like_BZ.dim() - 1))


def transition_mean(x_BZ: Tensor, v_BZ: Tensor, x_B: Tensor, v_B: Tensor) -> Tensor:
    """Every kernel is affine in latent and velocity: mean = x_B x + v_B v, coefficients (B,) of each row's edge."""
    return each(x_B, x_BZ) * x_BZ + each(v_B, v_BZ) * v_BZ


def log_prob(next_BZ: Tensor, mean_BZ: Tensor, std_B: Tensor, likelihood: Likelihood) -> Tensor:
    """Log-density (B,) of N(mean, std^2 I) at `next`, constants kept, reduced over the latent's dimensions.

    `scale = "raw"` is the released CPS code's -(x' - mean)^2, without the density's 1/(2 std^2) and constants.
    """
    error_BD = (next_BZ - mean_BZ).flatten(1).square()
    if likelihood.scale == "raw":
        density_BD = -error_BD
    else:
        std_B1 = std_B.view(-1, 1)
        density_BD = -error_BD / (2 * std_B1.square()) - std_B1.log() - 0.5 * math.log(2 * math.pi)
    return density_BD.mean(1) if likelihood.reduction == "mean" else density_BD.sum(1)


def gaussian_kl(mean_BZ: Tensor, other_BZ: Tensor, std_B: Tensor) -> Tensor:
    """KL (B,) between two Gaussians of one std, mean over dimensions: |mean - other|^2 / (2 std^2).

    `std` includes the step's sqrt(dt), which Flow-GRPO's released code leaves out (paper: eq. 10).
    """
    return (mean_BZ - other_BZ).flatten(1).square().mean(1) / (2 * std_B.square())
