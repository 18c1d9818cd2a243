"""The judge of the analytic workload: a quadratic around each prompt's target, whose mean has a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_bench import Reward, RewardConfig
from grpo_bench.workloads.gaussian import differentiable_score, latents_of, score_latents

if TYPE_CHECKING:
    from torch import Tensor


class GaussianReward(Reward[RewardConfig]):
    """-(x - c)^T Q (x - c) / 12 for the prompt's target c, read back from the picture; 0 is the best."""

    name = "gaussian"
    range = (float("-inf"), 0.0)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Minus the squared distance to the target; through which autograd passes when the images require it."""
        import torch

        if images_BCHW.requires_grad:
            return differentiable_score(images_BCHW, prompts)
        latent_BCHW = latents_of(images_BCHW.detach().float().cpu().numpy())
        return torch.from_numpy(score_latents(latent_BCHW, prompts)).float()
