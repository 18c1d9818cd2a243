"""LAION's aesthetic predictor (sac+logos+ava1-l14-linearMSE): a linear head on OpenAI's CLIP ViT-L/14. No prompt.

As in the improved-aesthetic-predictor repository, the head reads the image's CLIP features at unit length; ours are
fp32, where OpenAI's package gives fp16 on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench import Reward, RewardConfig, UserError, WeightsFile

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from grpo_bench.rewarding import ClipJudge

HEAD = WeightsFile(
    "camenduru/improved-aesthetic-predictor",
    "sac+logos+ava1-l14-linearMSE.pth",
    sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    size=3_714_759,
)
CLIP = (
    WeightsFile("openai/clip-vit-large-patch14", "config.json", size=4_519),
    WeightsFile(
        "openai/clip-vit-large-patch14",
        "model.safetensors",
        sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        size=1_710_540_580,
    ),
)


class AestheticConfig(RewardConfig):
    """Settings of the aesthetic predictor."""

    path: str = ""
    """File with the head; empty: the hub's, from its cache where it is there."""
    clip: str = ""
    """Folder of OpenAI's CLIP ViT-L/14 (config.json and model.safetensors); empty: the hub's."""


class Aesthetic(Reward[AestheticConfig]):
    """LAION's aesthetic predictor: how good the image looks, whatever its prompt (about 1 to 10)."""

    name = "aesthetic"
    Config = AestheticConfig
    range = (float("-inf"), float("inf"))
    resolution = 224
    weights = (HEAD, *CLIP)
    licence = "Apache-2.0 (CLIP: MIT)"
    commercial = True

    _head: nn.Module
    _judge: ClipJudge | None = None

    def files(self) -> tuple[Path, ...]:
        from grpo_bench.rewarding import find, find_folder

        head = find(HEAD, self.name, given=self.config.path)
        folder = find_folder(CLIP, self.name, given=self.config.clip, setting="clip")
        return head, *(folder / weights.file for weights in CLIP)

    def load(self, device: torch.device) -> None:
        from grpo_bench.rewarding import ClipJudge, fill, linear_head, read_tensors

        if self._judge is None:
            path, config, _ = self.files()
            tensors = {name.removeprefix("layers."): value for name, value in read_tensors(path).items()}
            what = f"reward {self.name!r} ({path.name})"
            self._head = fill(lambda: linear_head(tensors, what), tensors, what)
            self._judge = ClipJudge.folder(config.parent, self.name, rounding="half-even")
            reads, given = tensors["0.weight"].shape[1], self._judge.width
            if reads != given:
                raise UserError(
                    f"the head of reward {self.name!r} reads {reads} numbers, but the features of its CLIP are "
                    f"{given}; give the CLIP that the head was trained on"
                )
        self._judge.to(device)
        self._head.to(device)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """The head's output."""
        from grpo_bench.rewarding import full_precision

        if len(images_BCHW) != len(prompts):
            raise ValueError(f"{len(images_BCHW)} images need as many prompts, not {len(prompts)}")
        self.load(images_BCHW.device)
        assert self._judge is not None
        features_BD = self._judge.images(images_BCHW)
        with full_precision(features_BD.device):
            value_B1: Tensor = self._head(features_BD)
        return value_B1[:, 0]
