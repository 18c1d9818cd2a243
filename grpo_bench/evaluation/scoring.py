"""Scores images with rewards, and refuses what a reward must never return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from grpo_bench.config import RewardSection, validated
from grpo_bench.errors import Diverged, UserError, nearest
from grpo_bench.forest.rollout import Floats
from grpo_bench.guard import calling
from grpo_bench.registry import REWARDS
from grpo_bench.reward import Reward, RewardConfig
from grpo_bench.store.points import in_range

Rewards = Mapping[str, Reward[RewardConfig]]


def make_rewards(names: Sequence[str], section: RewardSection) -> Rewards:
    """The rewards of these names with their own settings.

    Raises:
        UserError: unknown name or setting.
    """
    for key in section.model_extra or {}:
        if key not in names:
            raise UserError(
                f"no setting is named 'reward.{key}'; {nearest(key, ['name', 'combine', *names])} "
                "(a table belongs to a reward in use)"
            )
    made = {}
    for name in dict.fromkeys(names):
        kind = REWARDS.get(name)
        settings = validated(kind.Config, section.settings(name), f"reward.{name}")
        with calling(f"reward {name!r}"):
            made[name] = kind(settings)
    return made


def score(reward: Reward[RewardConfig], images_BCHW: Tensor, prompts: Sequence[str]) -> Floats:
    """The reward's scores (B,), float64.

    Raises:
        UserError: the reward returned another shape, no real numbers, or a score outside its range.
        PluginFailed: it raised something.
        Diverged: a score is NaN or infinite.
    """
    return checked(reward.name, reward.judge(images_BCHW, prompts)[reward.name], reward.range)


def score_parts(reward: Reward[RewardConfig], images_BCHW: Tensor, prompts: Sequence[str]) -> dict[str, Floats]:
    """The reward's score and its components by name, each (B,), from one pass over the images; raises as `score`."""
    judged = reward.judge(images_BCHW, prompts, components=True)
    ranges = {reward.name: reward.range}
    return {name: checked(name, score_B, ranges.get(name, (-np.inf, np.inf))) for name, score_B in judged.items()}


def checked(name: str, score_B: Tensor, within: tuple[float, float]) -> Floats:
    """Scores as float64.

    Raises:
        Diverged: one of them is NaN or infinite.
        UserError: one of them lies outside the reward's range, by more than rounding.
    """
    values = np.asarray(score_B, dtype=np.float64)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise Diverged(f"reward {name!r} gave {values[bad]} for image {bad} of {len(values)}")
    outside = np.flatnonzero(~in_range(values, within))
    if len(outside):
        bad, (low, high) = int(outside[0]), within
        raise UserError(
            f"reward {name!r} gave {values[bad]:g} for image {bad} of {len(values)}, outside its range {low:g} to "
            f"{high:g}; correct its `range`, or the score"
        )
    return values
