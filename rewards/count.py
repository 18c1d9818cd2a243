"""The judge of the built-in workload `count`: is everything right, or not?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_bench import Reward, RewardConfig
from grpo_bench.workloads.count.judge import right

if TYPE_CHECKING:
    from torch import Tensor


class CountReward(Reward[RewardConfig]):
    """1 where numbers, colours and shapes are exactly as the caption says, else 0, as in GenEval."""

    name = "count"
    range = (0.0, 1.0)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        import torch

        return torch.from_numpy(right(images_BCHW.detach().float().cpu().numpy(), prompts))
