"""PickScore (arXiv 2305.01569): exp(logit scale) x cosine of a CLIP ViT-H-14 that was fine-tuned on Pick-a-Pic.

As on the model's card, the published logit scale (about 100) is in the score, which lies around 20; the softmax over
several images of one prompt is not. Flow-GRPO trains on this divided by 26.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench import Reward, RewardConfig, WeightsFile

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from grpo_bench.rewarding import ClipJudge

FILES = (
    WeightsFile("yuvalkirstain/PickScore_v1", "config.json", size=4_510),
    WeightsFile("yuvalkirstain/PickScore_v1", "model.safetensors", size=3_944_517_836),
)


class PickScoreConfig(RewardConfig):
    """Settings of PickScore."""

    path: str = ""
    """Folder with config.json and model.safetensors; empty: the hub's, from its cache where it is there."""


class PickScore(Reward[PickScoreConfig]):
    """PickScore: how much people would prefer the image for its prompt (about 20; scaled cosine of a CLIP ViT-H-14)."""

    name = "pickscore"
    paper = "2305.01569"
    Config = PickScoreConfig
    range = (-100.0, 100.0)
    resolution = 224
    token_limit = 77
    weights = FILES
    licence = "not stated"

    _judge: ClipJudge | None = None

    def files(self) -> tuple[Path, ...]:
        from grpo_bench.rewarding import find_folder

        folder = find_folder(FILES, self.name, given=self.config.path)
        return tuple(folder / weights.file for weights in FILES)

    def load(self, device: torch.device) -> None:
        from grpo_bench.rewarding import ClipJudge

        if self._judge is None:
            self._judge = ClipJudge.folder(self.files()[0].parent, self.name)
        self._judge.to(device)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scaled cosine of image and prompt."""
        self.load(images_BCHW.device)
        assert self._judge is not None
        return self._judge.scale * self._judge.cosine(images_BCHW, prompts)
