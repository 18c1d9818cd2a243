"""CLIPScore (arXiv 2104.08718) with OpenAI's CLIP ViT-L/14 (arXiv 2103.00020): the bare cosine of image and prompt.

The paper's score is 2.5 times the cosine where that is positive, and 0 elsewhere; it starts prompts with "A photo
depicts". Neither is done here, as in the papers on reinforcement learning that report a CLIP score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from grpo_bench import Reward, RewardConfig, WeightsFile

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from grpo_bench.rewarding import ClipJudge

FILES = (
    WeightsFile("openai/clip-vit-large-patch14", "config.json", size=4_519),
    WeightsFile(
        "openai/clip-vit-large-patch14",
        "model.safetensors",
        sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        size=1_710_540_580,
    ),
)


class ClipConfig(RewardConfig):
    """Settings of a CLIP from a folder in transformers' format."""

    path: str = ""
    """Folder with config.json and model.safetensors; empty: the hub's, from its cache where it is there."""


class ClipScore(Reward[ClipConfig]):
    """CLIPScore: how well the image fits its prompt (cosine of OpenAI's CLIP ViT-L/14, about 0.2 to 0.35)."""

    name = "clip"
    paper = "2104.08718"
    Config = ClipConfig
    range = (-1.0, 1.0)
    resolution = 224
    token_limit = 77
    weights = FILES
    licence = "MIT"
    commercial: ClassVar[bool | None] = True

    _judge: ClipJudge | None = None

    def files(self) -> tuple[Path, ...]:
        from grpo_bench.rewarding import find_folder

        folder = find_folder(self.weights, self.name, given=self.config.path)
        return tuple(folder / weights.file for weights in self.weights)

    def load(self, device: torch.device) -> None:
        from grpo_bench.rewarding import ClipJudge

        if self._judge is None:
            self._judge = ClipJudge.folder(self.files()[0].parent, self.name)
        self._judge.to(device)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine of image and prompt."""
        self.load(images_BCHW.device)
        assert self._judge is not None
        return self._judge.cosine(images_BCHW, prompts)
