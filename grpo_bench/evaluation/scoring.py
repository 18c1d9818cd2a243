"""Scores images with rewards, and refuses what a reward must never return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from grpo_bench.config import RewardSection, validated
from grpo_bench.errors import Diverged, UserError, nearest
from grpo_bench.forest.rollout import Floats
from grpo_bench.guard import calling
from grpo_bench.media import Media
from grpo_bench.opened import making, watching
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
        with calling(f"reward {name!r}"), watching(making(kind, settings)):
            made[name] = kind(settings)
    return made


def check_media(media: Media, whose: str, rewards: Rewards) -> None:
    """Rewards of pictures judge clips too, by some of their frames; a reward of clips judges nothing else.

    Raises:
        UserError: a reward takes clips, and `whose` images are pictures; or it counts frames, of which none are picked.
    """
    for name, reward in rewards.items():
        if reward.takes == "clips" and media == "pictures":
            raise UserError(f"reward {name!r} takes clips, and {whose} pictures; choose another reward or model")
        if reward.config.frames != RewardConfig().frames and (reward.takes, media) != ("pictures", "clips"):
            why = "it takes whole clips" if reward.takes == "clips" else f"{whose} pictures"
            raise UserError(
                f"reward.{name}.frames = {reward.config.frames} says how many frames of a clip are scored, and {why}; "
                "leave it out"
            )


class Scoring:
    """Scores of images that come in chunks, of which each reward is asked for `config.batch` at once.

    Args:
        rewards: by name.
        prompts: of all images that will come, in order.
    """

    def __init__(self, rewards: Rewards, prompts: Sequence[str]) -> None:
        self._rewards, self._prompts, self._images = rewards, prompts, 0
        self._waiting: dict[str, list[Tensor]] = {name: [] for name in rewards}
        self._scored: dict[str, list[Tensor]] = {name: [] for name in rewards}

    def add(self, media_B: Tensor) -> None:
        """Images or clips that follow those before; what fills a batch is scored.

        Raises:
            UserError: a reward returned another shape, or no real numbers.
            PluginFailed: it raised something.
        """
        self._images += len(media_B)
        for name, reward in self._rewards.items():
            self._waiting[name].append(media_B)
            batch = reward.batch_of(media_B)
            while sum(map(len, self._waiting[name])) >= batch:
                self._score(name, batch)

    def done(self) -> dict[str, Floats]:
        """Every image's scores by reward, float64.

        Raises:
            ValueError: there were not as many images as prompts.
            UserError: as `add`; or a score outside its reward's range.
            PluginFailed: a reward raised something.
            Diverged: a score is NaN or infinite.
        """
        if self._images != len(self._prompts):
            raise ValueError(f"{self._images} images need as many prompts, not {len(self._prompts)}")
        found = {}
        for name, reward in self._rewards.items():
            if self._waiting[name]:
                self._score(name, sum(map(len, self._waiting[name])))
            found[name] = checked(name, torch.cat(self._scored[name]), reward.range)
        return found

    def _score(self, name: str, count: int) -> None:
        media_B = torch.cat(self._waiting[name])
        first = sum(map(len, self._scored[name]))
        prompts = self._prompts[first : first + count]
        self._scored[name].append(self._rewards[name].judge(media_B[:count], prompts)[name])
        self._waiting[name] = [media_B[count:]] if len(media_B) > count else []


def score(reward: Reward[RewardConfig], media_B: Tensor, prompts: Sequence[str]) -> Floats:
    """One reward's scores (B,) of images or clips that are all there; raises as `Scoring`."""
    scoring = Scoring({reward.name: reward}, prompts)
    scoring.add(media_B)
    return scoring.done()[reward.name]


def score_parts(reward: Reward[RewardConfig], media_B: Tensor, prompts: Sequence[str]) -> dict[str, Floats]:
    """The reward's score and its components by name, each (B,), from one pass over the images; raises as `score`."""
    judged = reward.judge(media_B, prompts, components=True)
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
