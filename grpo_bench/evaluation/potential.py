"""The exploration potential by grid point: the share of a reward's variance that is decided from there on.

TempFlow-GRPO (arXiv 2508.04324, section 4) weighs a step by the noise that it draws, since early noise decides more.
This measures what it assumes. Trunks are drawn for each prompt, each throws children at one grid point, and all is
stochastic but the last step. With MS_within and MS_between of the rewards in a one-way table (trunks, children), the
variance between trunks is (MS_between - MS_within) / children, and the share is MS_within over the sum of both. Sums
are over prompts, so that prompts whose images all score alike say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from grpo_bench.evaluation.scoring import Rewards, score_parts
from grpo_bench.forest.forest import branching
from grpo_bench.forest.rollout import Floats
from grpo_bench.forest.schedule import Schedule
from grpo_bench.policies.base import Policy
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.noise import EVALUATION, Noise

STREAM = EVALUATION + 2
"""Iteration number of the first grid point's noise; no rollout or evaluation reaches it."""


def decided_share(reward_PTC: Floats) -> float:
    """Share of the within-prompt variance that lies within trunks; NaN where there is none at all.

    reward_PTC: rewards of P prompts, T >= 2 trunks and C >= 2 children each.
    """
    children = reward_PTC.shape[2]
    within = reward_PTC.var(axis=2, ddof=1).mean()
    between = (children * reward_PTC.mean(axis=2).var(axis=1, ddof=1)).mean()
    total = within + max(0.0, (between - within) / children)
    return float(within / total) if total > 0 else float("nan")


def potential(
    policy: Policy,
    handle: Metered,
    schedule: Schedule,
    rewards: Rewards,
    prompts: Sequence[str],
    *,
    trunks: int = 4,
    children: int = 6,
    seed: int = 0,
) -> Mapping[str, dict[float, float]]:
    """By reward (and part of it): the decided share at each sigma of the grid but pure noise and the last.

    Costs about trunks * children * T / 2 evaluations a prompt and grid point. Images are rounded to 8 bits, as in
    evaluation.
    """
    conditioning = policy.encode(prompts).to(policy.device)
    names = list(np.repeat(np.asarray(prompts), trunks * children))
    shares: dict[str, dict[float, float]] = {}
    stochastic_T = np.arange(schedule.steps) < schedule.steps - 1
    for step in range(1, schedule.steps - 1):
        forest = branching(schedule.sigmas, {step: children}, stochastic_T, roots=trunks)
        noise = Noise(seed, STREAM + step, prompts, policy.latent_shape)
        leaf_LPCHW = grow(forest, schedule, handle, conditioning, noise, role="eval").leaf_LPCHW
        latent_BCHW = leaf_LPCHW.transpose(0, 1).flatten(0, 1)
        images_BCHW = torch.cat([policy.decode(part).mul(255).round().div(255) for part in latent_BCHW.split(64)])
        for reward in rewards.values():
            for name, score_B in score_parts(reward, images_BCHW, names).items():
                share = decided_share(np.asarray(score_B).reshape(len(prompts), trunks, children))
                shares.setdefault(name, {})[float(schedule.sigmas[step])] = share
    return shares
