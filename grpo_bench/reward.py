"""The contract of a reward: images and their prompts in, one score an image out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor


class RewardConfig(BaseModel):
    """A reward's own settings, set with `--set reward.NAME.KEY=VALUE`. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


C = TypeVar("C", bound=RewardConfig, covariant=True)


class Reward(ABC, Generic[C]):
    """Base class of a reward plugin. Its docstring's first line is its summary in `grpo-bench list`."""

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    Config: ClassVar[type[RewardConfig]] = RewardConfig
    range: ClassVar[tuple[float, float]]
    """Smallest and largest score it can give; higher is better, always."""

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def score(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) fp32 of RGB images in [0, 1] for their prompts; deterministic, no gradient.

        Raises ValueError when there are not as many prompts as images.
        """

    def components(self, images_BCHW: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Named parts of the score, each (B,), stored beside it in the points. Empty where there are none."""
        return {}
