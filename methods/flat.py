"""Flat GRPO: Flow-GRPO (arXiv 2505.05470, eq. 4-9) and DanceGRPO (arXiv 2505.07818, alg. 1).

G independent chains, stochastic at every step but the last; a chain's leaf z-score is the advantage of all its edges.
Flow-GRPO draws the initial noise per chain; DanceGRPO shares it and trains a random 60% of the steps of each chain. The
last transition is an ODE step here (DanceGRPO decodes the predicted clean image, which is the same thing).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from grpo_bench import Forest, Method, MethodConfig, Schedule, chains


class FlatConfig(MethodConfig):
    """Settings of flat GRPO."""

    group: int = Field(24, ge=2, le=65536)
    """Chains (images) a prompt; a group of one would have no baseline to compare with."""
    shared_noise: bool = False
    """Start all chains of a prompt from the same initial noise (DanceGRPO)."""
    train_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the stochastic steps trained, drawn anew for each chain and iteration (DanceGRPO: 0.6)."""


class FlatGRPO(Method[FlatConfig]):
    """Flat GRPO: independent chains, every step stochastic and trained (Flow-GRPO, DanceGRPO)."""

    name = "flat"
    paper = "2505.05470"
    Config = FlatConfig

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        """G chains, stochastic at every step the schedule allows."""
        cfg = self.config
        stochastic_T = np.ones(schedule.steps, dtype=bool)
        stochastic_T[-1] = schedule.train_last
        return chains(
            schedule.sigmas,
            cfg.group,
            stochastic_T,
            shared_noise=cfg.shared_noise,
            trained=self._trained(rng, stochastic_T),
            train_last=schedule.train_last,
        )

    def _trained(self, rng: np.random.Generator, stochastic_T: np.ndarray) -> np.ndarray:
        """Which steps of which chain are trained (G, T): int(fraction * stochastic steps), at least one, per chain."""
        steps = np.flatnonzero(stochastic_T)
        count = max(int(self.config.train_fraction * len(steps)), min(1, len(steps)))
        trained_GT = np.zeros((self.config.group, len(stochastic_T)), dtype=bool)
        for chain in trained_GT:
            chain[rng.permutation(steps)[:count]] = True
        return trained_GT
