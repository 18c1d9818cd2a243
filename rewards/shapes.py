"""The judge of the built-in workload: does the picture show what the caption says, and is it good to look at?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from grpo_bench import Reward, RewardConfig
from grpo_bench.workloads.shapes.judge import judge

if TYPE_CHECKING:
    from torch import Tensor


def _judged(images_BCHW: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(correctness, appeal), each (B,) fp32; the judge reads the pixels with numpy."""
    import torch

    correct_B, appeal_B = judge(images_BCHW.detach().float().cpu().numpy(), prompts)
    return torch.from_numpy(correct_B), torch.from_numpy(appeal_B)


class ShapesReward(Reward[RewardConfig]):
    """Mean of correctness (colours, shapes and relation are as the caption says) and appeal, read from the pixels."""

    name = "shapes"
    range = (0.0, 1.0)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Mean of the two components."""
        return self.score_and_components(images_BCHW, prompts)[0]

    def components(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Both components, stored beside the mean."""
        return self.score_and_components(images_BCHW, prompts)[1]

    def score_and_components(self, images_BCHW: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean and components of one look at the pixels."""
        correct_B, appeal_B = _judged(images_BCHW, prompts)
        return (correct_B + appeal_B) / 2, {"shapes-correctness": correct_B, "shapes-appeal": appeal_B}


class ShapesCorrectness(Reward[RewardConfig]):
    """Whether colours, shapes and the relation are as the caption says; 1 is fully right."""

    name = "shapes-correctness"
    range = (0.0, 1.0)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Correctness of each image."""
        return _judged(images_BCHW, prompts)[0]


class ShapesAppeal(Reward[RewardConfig]):
    """What a viewer of such pictures prefers: good size, pure colour, clean background, contrast."""

    name = "shapes-appeal"
    range = (0.0, 1.0)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Appeal of each image."""
        return _judged(images_BCHW, prompts)[1]
