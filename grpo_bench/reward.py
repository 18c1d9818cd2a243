"""The contract of a reward: images or clips and their prompts in, one score for each out."""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from pydantic import ConfigDict, Field

from grpo_bench.errors import UserError
from grpo_bench.guard import calling
from grpo_bench.media import Media, evenly, kind_of
from grpo_bench.settings import Settings
from grpo_bench.store.names import clean_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class WeightsFile:
    """A published file that a reward reads: `file` of the hub's repository `repo`.

    `size` is in bytes, 0 where unknown; `sha256` is empty where nobody has checked it. `aliases` are other names of the
    repository, under which the hub's cache may hold the file.
    """

    repo: str
    file: str
    sha256: str = ""
    size: int = 0
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file} of {self.repo}" + (f" ({human_size(self.size)})" if self.size else "")


def human_size(size: int) -> str:
    """`1.97 GB`, or `3.7 MB`."""
    return (
        f"{size / 1e9:.2f} GB" if size >= 100e6 else f"{size / 1e6:.1f} MB" if size >= 100e3 else f"{size / 1e3:.1f} kB"
    )


class RewardConfig(Settings):
    """A reward's own settings, set with `--set reward.NAME.KEY=VALUE`. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    batch: int = Field(64, ge=1)
    """Images (or clips, where the reward takes those) scored at once; more need more memory."""
    frames: int = Field(4, ge=1)
    """Of a clip, where the reward takes pictures: how many of its frames are scored, evenly spread; their mean counts.
    """


C = TypeVar("C", bound=RewardConfig, covariant=True)


class Reward(ABC, Generic[C]):
    """Base class of a reward plugin. Its docstring's first line is its summary in `grpo-bench list`.

    A plugin implements `score`; the engine calls `judge`, which cuts any number of images into batches. A reward sees
    images and prompts and nothing of the method. Of a clip, a reward of pictures is shown `config.frames` frames.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    Config: ClassVar[type[RewardConfig]] = RewardConfig
    takes: ClassVar[Media] = "pictures"
    """What `score` is handed: pictures (B, 3, H, W), or whole clips (B, F, 3, H, W)."""
    fps: float = 0.0
    """Frames a second of the clips that are judged; the engine says it before any is. 0 of pictures."""
    range: ClassVar[tuple[float, float]]
    """Smallest and largest score it can give; higher is better, always."""
    resolution: ClassVar[int | None] = None
    """Pixels a side that it sees of an image; None: the image as it is."""
    token_limit: ClassVar[int | None] = None
    """Tokens of a prompt that it reads, marks of beginning and end included; None: all, or no prompt at all."""
    weights: ClassVar[tuple[WeightsFile, ...]] = ()
    """The published files that it may read; empty where it needs none, and so works without a network."""
    licence: ClassVar[str] = ""
    """Licence of the weights; empty where there are none."""
    commercial: ClassVar[bool | None] = None
    """Whether that licence allows commercial use; None: it does not say, or there are no weights."""

    def __init__(self, config: C) -> None:
        self.config = config

    @classmethod
    def facts(cls) -> tuple[str, ...]:
        """What it declares, for `grpo-bench list rewards -v`."""
        low, high = cls.range
        sees = ["whole clips"] * (cls.takes == "clips") + [f"{cls.resolution} pixels a side"] * bool(cls.resolution)
        sees += [f"{cls.token_limit} tokens of the prompt"] * bool(cls.token_limit)
        use = {True: ", commercial use allowed", False: ", no commercial use", None: ""}[cls.commercial]
        return (
            f"range {low:g} to {high:g}, higher is better" + (f"; sees {', '.join(sees)}" if sees else ""),
            *(f"weights {weights}" for weights in cls.weights),
            *[f"licence of the weights: {cls.licence}{use}"] * bool(cls.licence),
        )

    @abstractmethod
    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) fp32 of RGB images in [0, 1] for their prompts; deterministic. Of clips, where it `takes` those.

        Training asks without gradient. `grpo-bench diagnose` can use a reward through which autograd passes, without
        rounding the images, when they require gradients.

        Raises ValueError when there are not as many prompts as images.
        """

    def components(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Named parts of the score, each (B,), stored beside it in the points. Empty where there are none."""
        return {}

    def score_and_components(self, images_BCHW: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Both of the above; override it where they share work."""
        return self.score(images_BCHW, prompts), self.components(images_BCHW, prompts)

    def files(self) -> tuple[Path, ...]:
        """The weight files that this reward reads, fetched if they must be; asked before a run's folder is made.

        Raises:
            UserError: one cannot be had; the sentence names it, its size, and where to put it.
        """
        return ()

    def load(self, device: torch.device) -> None:
        """Read the weights, if there are any, on to `device`. Asked during setup; `score` loads what is not loaded.

        Raises:
            UserError: a file is not what it should be.
        """

    def judge(self, media_B: Tensor, prompts: Sequence[str], *, components: bool = False) -> dict[str, Tensor]:
        """The scores (B,) under the reward's name, and its components if asked for; `config.batch` images at a time.

        They are on the CPU, without gradients, in single or double precision. The reward is handed copies of the
        images (or clips), so that writing into them changes nothing that another reward sees.

        Raises:
            ValueError: there are not as many prompts as images.
            UserError: the reward returned another shape, or no real numbers.
            PluginFailed: it raised something.
        """
        import torch

        if len(media_B) != len(prompts):
            raise ValueError(f"{len(media_B)} images need as many prompts, not {len(prompts)}")
        pieces: dict[str, list[Tensor]] = {}
        batch = self.batch_of(media_B)
        with torch.no_grad():
            for start in range(0, len(prompts), batch):
                part = slice(start, start + batch)
                scored = self._scored(media_B[part].clone(), list(prompts[part]), components=components)
                for name, score_B in scored.items():
                    pieces.setdefault(name, []).append(score_B)
        return {name: torch.cat(found) for name, found in pieces.items()}

    def batch_of(self, media_B: Tensor) -> int:
        """How many such images or clips are scored at once: a clip's frames count as images, one clip is the least."""
        return max(1, self.config.batch // self._frames(media_B))

    def score_media(self, media_B: Tensor, prompts: Sequence[str]) -> Tensor:
        """`score` (B,) of images or clips, with the gradient that it has; what `judge` checks is not checked."""
        shown, texts = self._shown(media_B, prompts)
        return self.score(shown, texts).reshape(len(media_B), -1).mean(1)

    def _scored(self, media_B: Tensor, prompts: list[str], *, components: bool) -> dict[str, Tensor]:
        shown, texts = self._shown(media_B, prompts)
        count = len(texts)
        with calling(f"reward {self.name!r}"):
            if components:
                score_B, parts = self.score_and_components(shown, texts)
            else:
                score_B, parts = self.score(shown, texts), {}
            scored = {self.name: score_B, **parts}
        found = {name: as_scores(name, given, count) for name, given in scored.items()}
        if count == len(prompts):
            return found
        return {name: score_B.reshape(len(prompts), -1).mean(1) for name, score_B in found.items()}

    def _frames(self, media_B: Tensor) -> int:
        """Images that the reward is shown of each."""
        if kind_of(media_B) == self.takes:
            return 1
        if self.takes == "clips":
            raise UserError(f"reward {self.name!r} takes clips, and these are pictures; choose another reward")
        return min(self.config.frames, media_B.shape[1])

    def _shown(self, media_B: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
        """What `score` is handed, and a prompt for each of it."""
        frames = self._frames(media_B)
        if kind_of(media_B) == self.takes:
            return media_B, list(prompts)
        shown_BCHW = media_B[:, evenly(media_B.shape[1], frames)].flatten(0, 1)
        return shown_BCHW, [prompt for prompt in prompts for _ in range(frames)]


def as_scores(name: str, given: object, count: int) -> Tensor:
    """What a reward returned, as `count` real numbers on the CPU; numpy arrays and lists of numbers are taken too.

    Raises:
        UserError: it is of another shape, or holds anything else, such as complex numbers or texts.
    """
    import torch

    wanted = f"return ({count},) real numbers"
    try:
        score_B = given.detach().cpu() if isinstance(given, torch.Tensor) else _from_numbers(given)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:  # a tensor without data, a ragged list
        said = f"{clean_text(reprlib.repr(given), 60)} ({type(given).__name__})"
        raise UserError(f"reward {name!r} returned {said} for {count} images; {wanted}") from error
    if score_B.is_complex():
        raise UserError(f"reward {name!r} returned complex numbers ({score_B.dtype}); {wanted}")
    if tuple(score_B.shape) != (count,):
        raise UserError(
            f"reward {name!r} returned scores of shape {tuple(score_B.shape)} for {count} images; return ({count},)"
        )
    return score_B if score_B.dtype == torch.float32 else score_B.double()


def _from_numbers(given: object) -> Tensor:
    """A numpy array, or a list of numbers, of numpy's or of tensors with one number each.

    Raises:
        TypeError: it holds no numbers.
        ValueError: it is ragged.
    """
    import numpy as np
    import torch

    if isinstance(given, list | tuple) and any(isinstance(one, torch.Tensor) for one in given):
        return torch.stack([torch.as_tensor(one).detach().cpu().double() for one in given])
    numbers = np.asarray(given)
    if numbers.dtype.kind not in "fiubc":
        raise TypeError(f"{numbers.dtype} is no number")
    return torch.from_numpy(numbers.astype(np.complex128 if numbers.dtype.kind == "c" else np.float64))
