"""The contract of a method: describe the forest, hand out credit. It owns no loop, no clock and no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Credit, Floats, Rollout
from grpo_bench.forest.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

Need = Literal["old_mean", "reference"]


class MethodConfig(BaseModel):
    """A method's own settings; the string under a field is its help. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    std: Literal["group", "global"] = "group"
    """Divide centred rewards by their group's std, or by the whole batch's."""
    std_eps: float = Field(0.0, ge=0)
    """Constant added to that std (papers: 1e-4 Flow-GRPO, 1e-8 TreeGRPO)."""


C = TypeVar("C", bound=MethodConfig, covariant=True)


@dataclass(frozen=True)
class EdgeBatch:
    """The kept edges of one micro-batch, E of them; every tensor is (E,) fp32 unless noted.

    `logp` carries the gradient; `mean` and the optional means are (E, C, H, W); `std` is the edge's noise level, `h`
    its step's length in sigma; `advantage` is already clipped; `clip` is the ratio's half-width.
    """

    logp: Tensor
    logp_old: Tensor
    mean: Tensor
    std: Tensor
    h: Tensor
    advantage: Tensor
    weight: Tensor
    clip: float
    old_mean: Tensor | None = None
    reference_mean: Tensor | None = None


class Method(ABC, Generic[C]):
    """Base class of a method plugin. Its docstring's first line is its summary in `grpo-bench list`."""

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        """The forest of this iteration, the same for every prompt of the batch.

        `rng` depends on (seed, iteration) only. Raises UserError when the settings do not fit the schedule.
        """

    @abstractmethod
    def credit(self, rollout: Rollout) -> Credit:
        """Advantages for the forest's edges, from the rewards of its leaves."""

    def weights(self, forest: Forest, schedule: Schedule) -> Floats | None:
        """Positive loss weights per node (N,), or None for 1 everywhere. Never used to prune."""
        return None

    def edge_loss(self, batch: EdgeBatch) -> Tensor:
        """The loss of each edge (E,): PPO's clipped surrogate, w max(-A rho, -A clip(rho, 1-eps, 1+eps))."""
        ratio = (batch.logp - batch.logp_old).exp()
        clipped = ratio.clamp(1 - batch.clip, 1 + batch.clip)
        return batch.weight * (-batch.advantage * ratio).maximum(-batch.advantage * clipped)

    def state_dict(self) -> Mapping[str, object]:
        """JSON-like state that must survive a resume (numbers, strings, lists and mappings of them)."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` gave."""
