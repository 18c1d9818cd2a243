"""PickScore (arXiv 2305.01569): exp(logit scale) x cosine of a CLIP ViT-H-14 that was fine-tuned on Pick-a-Pic.

As on the model's card, the published logit scale (about 100) is in the score, which lies around 20; the softmax over
several images of one prompt is not. Flow-GRPO trains on this divided by 26.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_bench import WeightsFile
from grpo_bench_rewards.clip import ClipScore

if TYPE_CHECKING:
    from torch import Tensor

FILES = (
    WeightsFile("yuvalkirstain/PickScore_v1", "config.json", size=4_510),
    WeightsFile("yuvalkirstain/PickScore_v1", "model.safetensors", size=3_944_517_836),
)


class PickScore(ClipScore):
    """PickScore: how much people would prefer the image for its prompt (about 20; scaled cosine of a CLIP ViT-H-14)."""

    name = "pickscore"
    paper = "2305.01569"
    range = (-100.0, 100.0)
    resolution = 224
    token_limit = 77
    weights = FILES
    licence = "not stated"
    commercial = None

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scaled cosine of image and prompt."""
        cosine_B = super().score(images_BCHW, prompts)
        assert self._judge is not None
        return self._judge.scale * cosine_B
