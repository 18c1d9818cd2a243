"""ImageReward (arXiv 2304.05977): BLIP with cross-attention and a linear head, fine-tuned on human preferences.

As in the image-reward package: at most 35 tokens of the prompt, the short side resized to 224 and the centre cropped,
so that an oblong image loses its borders, and the head's output standardised with the published mean and deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grpo_bench import Environment, IsolatedScorer, Reward, UserError, WeightsFile, WorkerConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import BertTokenizer

    from grpo_bench.rewarding import BlipJudge, Cut

OFFICIAL = Path(__file__).parent / "official"
WEIGHTS = WeightsFile(
    "THUDM/ImageReward",
    "ImageReward.pt",
    sha256="d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",
    size=1_786_880_927,
    aliases=("zai-org/ImageReward",),
)
VOCABULARY = WeightsFile("google-bert/bert-base-uncased", "vocab.txt", size=231_508, aliases=("bert-base-uncased",))
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MEAN, STD = 0.16717362830052426, 1.0333394966054072


class ImageRewardConfig(WorkerConfig):
    """Settings of ImageReward; `python` and the time-outs are the official backend's."""

    backend: Literal["native", "official"] = "native"
    """Who scores: transformers' BLIP, or the authors' own code in the environment of `grpo-bench rewards install`."""

    path: str = ""
    """File with the weights; empty: the hub's, from its cache where it is there."""
    tokenizer: str = ""
    """Folder with the vocab.txt of bert-base-uncased; empty: the hub's."""


class ImageReward(Reward[ImageRewardConfig]):
    """ImageReward: how much people would prefer the image for its prompt (BLIP with a head; about -2 to 2)."""

    name = "image-reward"
    paper = "2304.05977"
    Config = ImageRewardConfig
    range = (float("-inf"), float("inf"))
    resolution = 224
    token_limit = 35
    weights = (WEIGHTS, VOCABULARY)
    licence = "Apache-2.0"
    commercial = True
    environment = Environment(
        hashed=(OFFICIAL / "build.txt", OFFICIAL / "image-reward.txt"),
        unhashed=("torch==2.13.0",),
        script=OFFICIAL / "image_reward.py",
    )

    _judge: BlipJudge | None = None
    _official: IsolatedScorer | None = None
    _tokenizer: BertTokenizer
    _cut: Cut

    def files(self) -> tuple[Path, ...]:
        from grpo_bench.rewarding import find, find_folder

        weights = find(WEIGHTS, self.name, given=self.config.path)
        folder = find_folder((VOCABULARY,), self.name, given=self.config.tokenizer, setting="tokenizer")
        return weights, folder / VOCABULARY.file

    def load(self, device: torch.device) -> None:
        from transformers import BertTokenizer

        from grpo_bench.rewarding import Cut, load_blip, read_tensors

        if self._judge is None and self._official is None:
            weights, vocabulary = self.files()
            self._tokenizer = BertTokenizer(vocab=_words(vocabulary))
            self._cut = Cut(self.name, self.token_limit)
            if self.config.backend == "official":
                self._official = self._worker(weights, vocabulary, device)
            else:
                self._judge = load_blip(read_tensors(weights), f"reward {self.name!r} ({weights.name})")
        if self._official is not None:
            self._official.start()
        elif self._judge is not None:
            self._judge.to(device)

    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """(head - MEAN) / STD."""
        from grpo_bench.rewarding import full_precision, short_side_cropped

        self.load(images_BCHW.device)
        ids_BT, mask_BT = self._tokens(prompts)
        if self._official is not None:
            return self._official.score(images_BCHW, prompts)  # the package makes its own tokens, and cuts in silence
        assert self._judge is not None
        prepared_BCHW = short_side_cropped(images_BCHW, self._judge.side, "half-even")
        device = prepared_BCHW.device
        with full_precision(device):
            value_B: Tensor = self._judge(ids_BT.to(device), mask_BT.to(device), prepared_BCHW)
        return (value_B - MEAN) / STD

    def _worker(self, weights: Path, vocabulary: Path, device: torch.device) -> IsolatedScorer:
        paths = {"weights": str(weights.resolve()), "vocabulary": str(vocabulary.resolve())}
        settings = {**paths, "device": str(device)}
        return IsolatedScorer(self.name, self.environment.script, settings, self.config, self.environment)

    def _tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, 35): always padded to the limit, so that a score does not depend on its company."""
        import torch

        limit = self.token_limit
        ids_BT = torch.full((len(prompts), limit), self._tokenizer.pad_token_id)
        mask_BT = torch.zeros_like(ids_BT)
        for row, prompt in enumerate(prompts):
            found: list[int] = self._tokenizer(prompt)["input_ids"]
            if len(found) > limit:
                self._cut.tell(prompt, len(found))
                found = [*found[: limit - 1], found[-1]]
            ids_BT[row, : len(found)] = torch.tensor(found)
            mask_BT[row, : len(found)] = 1
        return ids_BT, mask_BT


def _words(vocabulary: Path) -> dict[str, int]:
    """BERT's words by number, one a line.

    Raises:
        UserError: the file is something else.
    """
    words = vocabulary.read_bytes().decode("utf-8", errors="replace").splitlines()
    missing = [mark for mark in MARKS if mark not in words]
    if missing:
        raise UserError(f"{vocabulary} is not BERT's vocabulary: it has no line {missing[0]!r}; fetch it anew")
    return {word: i for i, word in enumerate(words)}
