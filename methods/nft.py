"""DiffusionNFT (arXiv 2509.16117, eq. 5-7 and algorithm 1): no log-probs; trains on the forward process of its samples.

Images are drawn by ODE under the behaviour policy. Each clean latent x_0 is noised anew, x_t = (1 - t) x_0 + t eps, and
the policy's velocity is mirrored at the behaviour policy's: v+ = b v + (1 - b) v_b should predict what was rewarded,
v- = (1 + b) v_b - b v what was not. As in the released code the two losses are on the predicted x_0, each divided by
its own mean absolute error, and times are the sampler's own. It samples with a second-order solver; here with Euler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from grpo_bench import Draws, Forest, ForwardBatch, ForwardMethod, MethodConfig, Schedule, chains

if TYPE_CHECKING:
    from torch import Tensor


class NFTConfig(MethodConfig):
    """Settings of DiffusionNFT."""

    group: int = Field(24, ge=2)
    """Images a prompt; a group of one would have no baseline to compare with."""
    draws: int | None = Field(None, ge=1)
    """Times of the sampler's grid at which each image is noised and trained; default: all but one of them."""
    beta: float = Field(1.0, gt=0)
    """How far v+ and v- lie from the behaviour policy's velocity (OCR and several rewards: 0.1)."""
    reference_weight: float = Field(1e-4, ge=0)
    """Weight of the squared distance to the reference policy's velocity; 0 spares its evaluations."""
    behaviour_rate: float = Field(0.001, ge=0)
    """The behaviour policy's decay grows by this much an iteration; 0: it is always the current policy."""
    behaviour_cap: float = Field(0.5, ge=0, lt=1)
    """Largest decay of the behaviour policy."""
    behaviour_delay: float = Field(0, ge=0)
    """Iterations before the decay begins to grow (OCR: 37.5, as 75 gradient steps are half an iteration over 37)."""


class DiffusionNFT(ForwardMethod[NFTConfig]):
    """DiffusionNFT: ODE samples; the forward process pulls towards what was rewarded and away from what was not."""

    name = "nft"
    paper = "2509.16117"
    Config: ClassVar[type[MethodConfig]] = NFTConfig
    samples_with = "old"

    def __init__(self, config: NFTConfig) -> None:
        super().__init__(config)
        self.needs = frozenset({"behaviour", "reference"} if config.reference_weight else {"behaviour"})
        self.averages = {"old": self.behaviour_decay}

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        """Deterministic chains from independent noise."""
        return chains(schedule.sigmas, self.config.group, np.zeros(schedule.steps, dtype=bool))

    def draws(self, schedule: Schedule) -> Draws:
        """Each leaf at different times of the sampler's grid."""
        return Draws(max(schedule.steps - 1, 1) if self.config.draws is None else self.config.draws)

    def behaviour_decay(self, iteration: int) -> float:
        """d of the policy that draws the images, after an iteration."""
        cfg, done = self.config, iteration + 1  # the released code counts the iteration's gradient steps first
        return min(cfg.behaviour_rate * max(done - cfg.behaviour_delay, 0), cfg.behaviour_cap)

    def forward_loss(self, batch: ForwardBatch) -> Tensor:
        """A / b (r |x+ - x_0|^2 / m+ + (1 - r) |x- - x_0|^2 / m-) + w |v - v_ref|^2, means over dimensions.

        r in [0, 1] is the advantage's place between plus and minus its clip A; x+- = x_t - t v+-; m+- is the mean
        absolute error of x+-, without gradient.
        """
        assert batch.v_behaviour is not None, "the engine hands it over, because `needs` asks for it"
        beta, v, old, most = self.config.beta, batch.v, batch.v_behaviour, batch.advantage_clip
        optimality_D = (batch.advantage / most / 2 + 0.5).clamp(0, 1)
        liked_D = self._error(batch, beta * v + (1 - beta) * old)
        disliked_D = self._error(batch, (1 + beta) * old - beta * v)
        loss_D = most / beta * (optimality_D * liked_D + (1 - optimality_D) * disliked_D)
        if batch.v_reference is None:
            return loss_D
        return loss_D + self.config.reference_weight * (v - batch.v_reference).flatten(1).square().mean(1)

    def _error(self, batch: ForwardBatch, v: Tensor) -> Tensor:
        """Squared error of the x_0 that velocity `v` predicts, over its own mean absolute error (floor 1e-5)."""
        error_DN = (batch.x_t - batch.t.view(-1, *(1,) * (v.dim() - 1)) * v - batch.x_0).flatten(1)
        scale_D1 = error_DN.detach().abs().double().mean(1, keepdim=True).clamp(min=1e-5).float()
        return (error_DN.square() / scale_D1).mean(1)
