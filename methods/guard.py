"""GRPO-Guard (arXiv 2510.22319, RatioNorm and gradient reweighting): flat GRPO whose ratio means the same each step.

With x' = mean_old + std eps, the mean log-ratio is <dmean, eps> / std - |dmean|^2 / (2 std^2): below zero on average,
on another scale at every step. Adding the second term back and multiplying by std leaves <dmean, eps>, which the clip
then treats alike at all steps; dividing the loss by the step's length makes their gradients alike. The released code
reduces the bias over the whole micro-batch by accident (`mean(dim=())`); here it is each sample's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from grpo_bench import EdgeBatch
from grpo_bench_methods.flat import FlatConfig, FlatGRPO

if TYPE_CHECKING:
    from torch import Tensor


class GuardConfig(FlatConfig):
    """Settings of GRPO-Guard."""

    clip_scale: float = Field(0.02, gt=0)
    """Half-width of its clip as a share of `objective.clip`: the released 2e-6 is 0.02 of Flow-GRPO's 1e-4."""


class GRPOGuard(FlatGRPO):
    """GRPO-Guard: flat GRPO whose ratio is normalised per step, so that the clip binds alike at all of them."""

    name = "guard"
    paper = "2510.22319"
    Config = GuardConfig
    needs = frozenset({"old_mean", "mean_log_prob"})
    config: GuardConfig

    def __init__(self, config: GuardConfig) -> None:
        super().__init__(config)
        self.clip_scale = config.clip_scale

    def log_ratio(self, batch: EdgeBatch) -> Tensor:
        """(dlogp + |dmean|^2 / (2 std^2)) std, whose expectation under fresh noise is zero; means over dimensions.

        The gradient flows through the bias as well, as in the released code: it cancels that of the log-ratio's own
        quadratic term, so that what is left is linear in the mean.
        """
        assert batch.old_mean is not None, "the engine hands over old_mean, because `needs` asks for it"
        shift_E = (batch.mean - batch.old_mean).flatten(1).square().mean(1)
        return (super().log_ratio(batch) + shift_E / (2 * batch.std.square())) * batch.std

    def edge_loss(self, batch: EdgeBatch) -> Tensor:
        """The clipped surrogate of that ratio, divided by the step's length."""
        return super().edge_loss(batch) / batch.h
