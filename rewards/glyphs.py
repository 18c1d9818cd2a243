"""The judge of the built-in workload `glyphs`: can the two letters be read, and are they the asked ones?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from grpo_bench import Reward, RewardConfig
from grpo_bench.workloads.glyphs.judge import legibility

if TYPE_CHECKING:
    from torch import Tensor


class GlyphsReward(Reward[RewardConfig]):
    """How clearly the two asked letters can be read, by template: differentiable, 1 is fully clear."""

    name = "glyphs"
    range = (0.0, 1.0)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Mean of the two letters."""
        return self.score_and_components(images_BCHW, prompts)[0]

    def components(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Each letter's own, stored beside the mean."""
        return self.score_and_components(images_BCHW, prompts)[1]

    def score_and_components(self, images_BCHW: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean and components of one look at the pixels."""
        clear_B2 = legibility(images_BCHW, prompts)
        return clear_B2.mean(1), {"glyphs-left": clear_B2[:, 0], "glyphs-right": clear_B2[:, 1]}
