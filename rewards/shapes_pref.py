"""The laptop's HPS: a tiny CLIP trained on rendered preference pairs, in HPS's own file layout and read by its code.

`grpo-bench pretrain shapes-pref` makes the shipped file again. It is a learned proxy for the pictures of `shapes`:
dense, good, and open to be exploited, which the workload's gold then shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench import Reward, RewardConfig, UserError
from grpo_bench.workloads.shapes.preference import MODEL, TOKENIZER, WEIGHTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from grpo_bench.rewarding import ClipJudge


class ShapesPrefConfig(RewardConfig):
    """Settings of shapes-pref."""

    path: str = ""
    """Folder that `grpo-bench pretrain shapes-pref` made; empty: the shipped one."""


class ShapesPrefReward(Reward[ShapesPrefConfig]):
    """A tiny HPS for the pictures of `shapes`, learned from rendered preference pairs (cosine of a CLIP)."""

    name = "shapes-pref"
    Config = ShapesPrefConfig
    range = (-1.0, 1.0)
    resolution = 32
    token_limit = 16
    licence = "Apache-2.0"
    commercial = True

    _judge: ClipJudge | None = None

    def files(self) -> tuple[Path, ...]:
        folder = Path(self.config.path).expanduser() if self.config.path else MODEL
        files = folder / WEIGHTS, folder / TOKENIZER / "tokenizer.json"
        for file in files:
            if not file.is_file():
                raise UserError(
                    f"reward.shapes-pref.path = {self.config.path!r} has no {file.relative_to(folder)}; give a folder "
                    "that `grpo-bench pretrain shapes-pref` made"
                )
        return files

    def load(self, device: torch.device) -> None:
        from grpo_bench.rewarding import ClipJudge

        if self._judge is None:
            weights, tokenizer = self.files()
            self._judge = ClipJudge.open_clip(weights, self.name, tokenizer=tokenizer.parent)
        self._judge.to(device)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine of image and prompt."""
        self.load(images_BCHW.device)
        assert self._judge is not None
        return self._judge.cosine(images_BCHW, prompts)
