"""The deployment sampler on held-out prompts: always the same noises, no more on the way; scored as 8-bit images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grpo_bench.config import EvaluationSection
from grpo_bench.errors import Diverged
from grpo_bench.evaluation.diversity import Images, across_prompts, per_prompt, tripwires
from grpo_bench.evaluation.scoring import Rewards, score_parts
from grpo_bench.forest.builders import chains
from grpo_bench.forest.rollout import Floats, Ints
from grpo_bench.metering.ledger import Role
from grpo_bench.policies.base import Policy
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Conditioning, Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import EVALUATION, Noise, Purpose, generator

if TYPE_CHECKING:
    from grpo_bench.training.ranks import Ranks

PROBE_SIGMAS = (0.95, 0.75, 0.5, 0.25)
PROBE_PROMPTS = 8
PROBE = 1
"""Place of the probe's noise among the evaluation's."""

ByPrompt = Mapping[str, Floats]
"""Scores (P,) by reward and component, each the mean of a prompt's images."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: the point's columns, the images (P, I, H, W, 3), uint8, and the scores of each prompt.

    Of clips, (P, I, F, H, W, 3).
    """

    columns: dict[str, float]
    images: Images
    by_prompt: ByPrompt
    fps: float = 0.0


def to_bytes(media_B: Tensor) -> Images:
    """Images or clips in [0, 1] rounded to 8 bits, (B, H, W, 3) or (B, F, H, W, 3)."""
    rounded = (media_B.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return rounded.movedim(-3, -1).cpu().numpy()


def to_images(pixels: Images, device: torch.device) -> Tensor:
    """8-bit images or clips back as (B, 3, H, W) or (B, F, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels).to(device).movedim(-1, -3).float() / 255


def sample(
    policy: Policy,
    handle: Metered,
    conditioning: Conditioning,
    prompts: Sequence[str],
    settings: EvaluationSection,
    *,
    decode_batch: int,
    role: Role = "eval",
    noise: int = 0,
    place_P: Ints | None = None,
) -> Images:
    """Images (P, I, H, W, 3) of the policy as it is, by deterministic steps from an evaluation noise, by its number.

    Of a policy of clips, (P, I, F, H, W, 3).
    With `place_P` of those prompts only, whose features `conditioning` then has.

    Raises:
        Diverged: an image is not finite.
    """
    schedule = make_schedule(policy.steps_of(settings.steps), "ode")
    forest = chains(schedule.sigmas, settings.images, np.zeros(schedule.steps, dtype=bool))
    drawn = Noise(settings.seed, _stream(noise), prompts, policy.latent_shape, place_P)
    leaf_LPZ = grow(forest, schedule, handle, conditioning, drawn, role=role).leaf_LPZ
    if not bool(torch.isfinite(leaf_LPZ).all()):
        raise Diverged("the policy gave a NaN or Inf while sampling evaluation images")
    latent_BZ = leaf_LPZ.transpose(0, 1).flatten(0, 1)
    pixels = [to_bytes(policy.media_of(chunk)) for chunk in latent_BZ.split(decode_batch)]
    return np.concatenate(pixels).reshape(-1, settings.images, *pixels[0].shape[1:])


def _stream(noise: int) -> int:
    """Where an evaluation noise is drawn: the first is older than the others, and the probe's lies between."""
    return EVALUATION + PROBE + noise if noise else EVALUATION


def _by_prompt(score_PI: Mapping[str, Floats]) -> ByPrompt:
    return {name: values.mean(axis=1) for name, values in score_PI.items()}


class Evaluator:
    """Evaluates one policy on fixed prompts with fixed noise, again and again.

    Build it while the policy still is the base: it records the base's predictions on fixed states, from which
    `base_distance` is measured.
    """

    def __init__(
        self,
        policy: Policy,
        handle: Metered,
        conditioning: Conditioning,
        prompts: Sequence[str],
        settings: EvaluationSection,
        rewards: Rewards,
        *,
        weights: dict[str, float],
        gold: str,
        decode_batch: int,
        ranks: Ranks,
    ) -> None:
        self._policy, self._handle, self.conditioning, self._ranks = policy, handle, conditioning, ranks
        self.prompts, self._settings, self._rewards = tuple(prompts), settings, rewards
        self._weights, self._gold, self._decode_batch = weights, gold, decode_batch
        self._place_P = ranks.share(np.arange(len(prompts)))
        own_P = torch.as_tensor(self._place_P, device=policy.device)
        self._own = conditioning if ranks.world == 1 else conditioning.select(own_P)
        self._probe = self._probe_states()
        self._base = self._probe_predictions()

    def evaluate(self) -> Evaluation:
        """Sample, round to 8 bits, score, measure.

        Raises:
            Diverged: an image or a score is not finite.
        """
        images = self._sample(0)
        score_PI = self._score(images)
        columns = {f"reward/{name}": float(values.mean()) for name, values in score_PI.items()}
        if len(self._weights) > 1:
            columns |= {f"spread/{name}": float(score_PI[name].std()) for name in self._weights}
        columns["proxy"] = sum(weight * columns[f"reward/{name}"] for name, weight in self._weights.items())
        columns["gold"] = columns[f"reward/{self._gold}"] if self._gold else columns["proxy"]
        if self._ranks.first:  # the others store no point, and each evaluation is charged once
            columns["base_distance"] = self._base_distance()
        flat = images.reshape(-1, *images.shape[2:])
        prompt_B = np.repeat(np.arange(len(self.prompts)), images.shape[1])
        columns |= per_prompt(flat, prompt_B) | across_prompts(flat, prompt_B) | tripwires(flat)
        return Evaluation(columns, images, _by_prompt(score_PI), self._policy.fps)

    def by_prompt(self, noise: int) -> ByPrompt:
        """The scores of each prompt under another evaluation noise: `noise` 0 is that of `evaluate`.

        Raises:
            Diverged: an image or a score is not finite.
        """
        return _by_prompt(self._score(self._sample(noise)))

    def _sample(self, noise: int) -> Images:
        """Of all prompts, each drawn by the rank that it belongs to."""
        ranks, place_P, count = self._ranks, self._place_P, len(self.prompts)
        with ranks.together():
            images = sample(
                self._policy,
                self._handle,
                self._own,
                self.prompts,
                self._settings,
                decode_batch=self._decode_batch,
                noise=noise,
                place_P=place_P,
            )
        return ranks.rows(images, place_P, count)

    def _score(self, images: Images) -> Mapping[str, Floats]:
        """Scores (P, I) by reward and component, each prompt's by the rank that it belongs to."""
        ranks, place_P, count = self._ranks, self._place_P, len(self.prompts)
        own = images[place_P]
        flat = own.reshape(-1, *own.shape[2:])
        names = [self.prompts[place] for place in place_P for _ in range(own.shape[1])]
        found: dict[str, Floats] = {}
        with ranks.together():
            for reward in self._rewards.values():
                found |= score_parts(reward, to_images(flat, self._policy.device), names)
        return {name: ranks.rows(score_B.reshape(own.shape[:2]), place_P, count) for name, score_B in found.items()}

    def _probe_states(self) -> list[tuple[float, Tensor, Tensor]]:
        """Fixed (sigma, states, prompt rows): the base's own samples, noised to a few levels (RULES.md, Evaluation)."""
        count = min(PROBE_PROMPTS, len(self.prompts))
        schedule = make_schedule(self._policy.steps_of(self._settings.steps), "ode")
        forest = chains(schedule.sigmas, 1, np.zeros(schedule.steps, dtype=bool))
        noise = Noise(self._settings.seed, EVALUATION + PROBE, self.prompts[:count], self._policy.latent_shape)
        prompt_B = torch.arange(count, device=self._policy.device)
        few = self.conditioning.select(prompt_B)
        clean_BZ = grow(forest, schedule, self._handle, few, noise, role="setup").leaf_LPZ[0]
        stream = generator(self._settings.seed, Purpose.PROBE, 0)
        states = []
        for sigma in PROBE_SIGMAS:
            eps = torch.from_numpy(stream.standard_normal(clean_BZ.shape, dtype=np.float32)).to(clean_BZ)
            signal, spread = self._policy.signal_and_noise(sigma)
            states.append((sigma, signal * clean_BZ + spread * eps, prompt_B))
        return states

    def _probe_predictions(self, role: Role = "setup") -> list[Tensor]:
        return [
            self._handle.predict_all(x_BZ, sigma, self.conditioning, prompt_B, role)
            for sigma, x_BZ, prompt_B in self._probe
        ]

    def _base_distance(self) -> float:
        """Mean squared difference between the policy's and the base's predictions on the fixed states."""
        now = self._probe_predictions("eval")
        return float(torch.stack([(a - b).square().mean() for a, b in zip(now, self._base, strict=True)]).mean())
