"""HPSv2 and HPSv2.1 (arXiv 2306.09341): the cosine of a CLIP ViT-H-14 that was fine-tuned on human preferences.

As in the hpsv2 package, the score is the bare cosine (about 0.2 to 0.35); the paper's tables multiply it by 100. Ours
is fp32 always, where the package gives fp16 on a GPU, and images are resized with antialiasing, as the package does
with torchvision 0.17 and later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grpo_bench import Environment, IsolatedScorer, Reward, WeightsFile, WorkerConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from grpo_bench.rewarding import ClipJudge, ClipTokens

OFFICIAL = Path(__file__).parent / "official"
FILES = {
    "2.1": WeightsFile(
        "xswu/HPSv2",
        "HPS_v2.1_compressed.pt",
        sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
        size=1_972_490_005,
    ),
    "2.0": WeightsFile(
        "xswu/HPSv2",
        "HPS_v2_compressed.pt",
        sha256="07cb0d20626232204ca3a6ec53ff5984e7e53212a8a7b0e0ec2bac1bdaf125a1",
        size=1_972_484_501,
    ),
}


class HpsConfig(WorkerConfig):
    """Settings of HPS; `python` and the time-outs are the official backend's."""

    backend: Literal["native", "official"] = "native"
    """Who scores: transformers' CLIP, or the authors' own code in the environment of `grpo-bench rewards install`."""

    version: Literal["2.0", "2.1"] = "2.1"
    """Which of the published weights."""
    path: str = ""
    """File with the weights; empty: the hub's, from its cache where it is there."""


class HpsReward(Reward[HpsConfig]):
    """HPSv2.1: how much people would prefer the image for its prompt (cosine of a fine-tuned CLIP ViT-H-14)."""

    name = "hps"
    paper = "2306.09341"
    Config = HpsConfig
    range = (-1.0, 1.0)
    resolution = 224
    token_limit = 77
    weights = tuple(FILES.values())
    licence = "Apache-2.0"
    commercial = True
    environment = Environment(
        hashed=(OFFICIAL / "build.txt", OFFICIAL / "hps.txt"),
        unhashed=("torch==2.13.0",),
        script=OFFICIAL / "hps.py",
    )

    _judge: ClipJudge | None = None
    _official: IsolatedScorer | None = None
    _tokens: ClipTokens

    def files(self) -> tuple[Path, ...]:
        from grpo_bench.rewarding import find

        return (find(FILES[self.config.version], self.name, given=self.config.path),)

    def load(self, device: torch.device) -> None:
        from grpo_bench.rewarding import ClipJudge, ClipTokens

        if self._judge is None and self._official is None:
            weights = self.files()[0]
            if self.config.backend == "official":
                self._official = self._worker(weights)
                self._tokens = ClipTokens(self.name, limit=self.token_limit, repair=True)
            else:
                self._judge = ClipJudge.open_clip(weights, self.name)
        if self._official is not None:
            self._official.start()
        elif self._judge is not None:
            self._judge.to(device)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine of image and prompt."""
        self.load(images_BCHW.device)
        if self._official is not None:
            for prompt in prompts:
                self._tokens.ids(prompt)  # tells of one that the package cuts in silence
            return self._official.score(images_BCHW, prompts)
        assert self._judge is not None
        return self._judge.cosine(images_BCHW, prompts)

    def _worker(self, weights: Path) -> IsolatedScorer:
        settings = {"weights": str(weights.resolve())}
        return IsolatedScorer(self.name, self.environment.script, settings, self.config, self.environment)
