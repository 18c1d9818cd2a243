"""TempFlow-GRPO (arXiv 2508.04324, section 4): an ODE trunk; every step throws K SDE children, each finished by ODE.

A child differs from its siblings by the noise of one step, so the z-score among siblings credits exactly that step; the
loss of step i is weighted by its noise level std_i over the mean of all trained steps. That is what the released code's
constants are (2.25 at SD3.5's 10 steps, 1.73 FLUX, 1.53 Qwen-Image). Its group, too, is the K siblings of one root and
step, although its configuration speaks of 24. The code evaluates a parent once for each of its children in training;
here the siblings share one evaluation, which gives the same gradient. The trunk is not decoded.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from grpo_bench import Credit, Forest, Method, MethodConfig, Rollout, Schedule, back_up, chains, trunk, zscore


class TempFlowConfig(MethodConfig):
    """Settings of TempFlow-GRPO."""

    branching: int | Literal["none"] = 6
    """Children at every branching step of a trunk; "none": flat chains, of which only the weights are TempFlow's."""
    roots: int = Field(4, ge=1)
    """Trunks a prompt, each with its own initial noise (the paper's seeds); without branching: chains."""
    steps: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(None, min_length=1)
    """Steps at which the trunk branches; default: all but the last."""
    weighting: Literal["noise", "none"] = "noise"
    """Weigh a step's loss by its noise level, 1 on average over the trained steps, or every step by 1."""

    @field_validator("branching")
    @classmethod
    def _siblings(cls, value: int | Literal["none"]) -> int | Literal["none"]:
        if value != "none" and value < 2:
            raise ValueError("a child alone has nothing to be compared with, so use 2 or more, or 'none'")
        return value

    @model_validator(mode="after")
    def _chains_make_one_group(self) -> TempFlowConfig:
        if self.branching == "none" and self.steps is not None:
            raise ValueError("steps says where a trunk branches, so leave it out or give branching a number")
        if self.branching == "none" and self.roots < 2:
            raise ValueError("without branching the roots are the group, so roots must be 2 or more")
        return self


class TempFlowGRPO(Method[TempFlowConfig]):
    """TempFlow-GRPO: one-step branches off an ODE trunk, compared among siblings and weighted by noise level."""

    name = "tempflow"
    paper = "2508.04324"
    Config = TempFlowConfig

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        """A trunk a root, the same in every iteration."""
        cfg = self.config
        if cfg.branching == "none":
            every_T = np.append(np.ones(schedule.steps - 1, dtype=bool), schedule.train_last)
            return chains(schedule.sigmas, cfg.roots, every_T, train_last=schedule.train_last)
        steps = range(schedule.steps - 1) if cfg.steps is None else cfg.steps
        return trunk(schedule.sigmas, dict.fromkeys(steps, cfg.branching), roots=cfg.roots)

    def credit(self, rollout: Rollout) -> Credit:
        """A leaf's z-score among the siblings of its one stochastic edge, for that edge."""
        cfg, forest = self.config, rollout.forest
        if cfg.branching == "none":
            return super().credit(rollout)
        # A path has one stochastic edge, so this is one parent a leaf.
        parent_L = forest.parent_N[forest.path_LD[forest.stochastic_N[forest.path_LD]]]
        advantage_NP = rollout.combined(
            lambda reward_LP: back_up(forest, zscore(reward_LP, parent_L, std=cfg.std, ddof=cfg.ddof, eps=cfg.std_eps))
        )
        group_N = np.where(forest.stochastic_N, forest.parent_N, -1)
        return Credit(advantage_NP, np.repeat(group_N[:, None], advantage_NP.shape[1], axis=1))

    def weights(self, forest: Forest, schedule: Schedule) -> npt.NDArray[np.float64] | None:
        """std_i over the mean std of the trained steps, for the trained edges; 1 elsewhere."""
        if self.config.weighting == "none":
            return None
        step_E = forest.depth_N[forest.trained_edges_E] - 1
        weight_N = np.ones(forest.nodes)
        weight_N[forest.trained_edges_E] = schedule.std_T[step_E] / schedule.std_T[np.unique(step_E)].mean()
        return weight_N
