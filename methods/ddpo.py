"""DDPO (arXiv 2305.13301, section 4.3, DDPO-IS): flat chains, advantages from a running buffer per prompt.

The released code (ddpo_pytorch/stat_tracking.py) is followed: a prompt's newest rewards join its buffer first; while
the buffer holds fewer than `min_count`, the whole batch's mean and std stand in. The last transition is an ODE step
here (DDPO trains all 50 of its steps). No group of its advantages sums to zero, so none is declared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from grpo_bench import Credit, Rollout, UserError, back_up
from grpo_bench_methods.flat import FlatConfig, FlatGRPO

Floats = npt.NDArray[np.float64]


class DDPOConfig(FlatConfig):
    """Settings of DDPO."""

    group: int = Field(24, ge=1, le=65536)
    """Chains (images) a prompt; one is enough, because the buffer is the baseline."""
    buffer: int = Field(16, ge=2)
    """Newest rewards kept of each prompt."""
    min_count: int = Field(16, ge=2)
    """Rewards that a prompt's own statistics need; below that the batch's are used."""
    std_eps: float = Field(1e-6, ge=0)
    """Constant added to the std."""

    @model_validator(mode="after")
    def _can_fill(self) -> DDPOConfig:
        if self.min_count > self.buffer:
            raise ValueError("min_count is more than buffer holds, so no prompt's own statistics would ever be used")
        return self


class DDPO(FlatGRPO):
    """DDPO: flat chains; a reward is judged by its prompt's recent rewards, not by a group of siblings."""

    name = "ddpo"
    paper = "2305.13301"
    Config = DDPOConfig
    config: DDPOConfig

    def __init__(self, config: DDPOConfig) -> None:
        super().__init__(config)
        self._buffers: dict[str, dict[str, list[float]]] = {}

    @property
    def local(self) -> bool:
        """No: a prompt that has been seen too rarely is judged by the whole batch."""
        return False

    def credit(self, rollout: Rollout) -> Credit:
        """(r - mean) / (std + eps) of the prompt's buffer, on every edge of the leaf's chain."""
        parts = [
            weight * back_up(rollout.forest, self._advantage(name, reward_LP, rollout.prompts))
            for name, weight, reward_LP in rollout.terms()
        ]
        advantage_NP = np.sum(parts, axis=0)
        return Credit(advantage_NP, np.full(advantage_NP.shape, -1))

    def state_dict(self) -> Mapping[str, object]:
        return {"buffers": self._buffers}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        stored = state["buffers"]
        if not isinstance(stored, dict):
            raise UserError(f"the stored state of ddpo holds no buffers but {stored!r}; start the run anew")
        self._buffers = {name: {prompt: list(kept) for prompt, kept in table.items()} for name, table in stored.items()}

    def _advantage(self, reward: str, reward_LP: Floats, prompts: tuple[str, ...]) -> Floats:
        buffers, kept = self._buffers.setdefault(reward, {}), self.config.buffer
        for prompt, reward_L in zip(prompts, reward_LP.T, strict=True):
            buffers[prompt] = [*buffers.get(prompt, []), *reward_L.tolist()][-kept:]
        advantage_LP = np.zeros(reward_LP.shape)
        for column, prompt in enumerate(prompts):
            own = len(buffers[prompt]) >= self.config.min_count
            past = np.array(buffers[prompt]) if own else reward_LP
            scale = past.std(ddof=min(self.config.ddof, past.size - 1)) + self.config.std_eps
            advantage_LP[:, column] = (reward_LP[:, column] - past.mean()) / scale
        return advantage_LP
