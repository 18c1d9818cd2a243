"""The contract of a method: describe the forest, hand out credit. It owns no loop, no clock and no model.

A `Method` trains on the transitions of its forest, a `ForwardMethod` on its images, noised anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field

from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Credit, Floats, Rollout, leaf_credit
from grpo_bench.forest.schedule import Schedule
from grpo_bench.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

CURRENT = "current"
"""The trained weights themselves, where an average of them could be named."""
BEHAVIOUR = "behaviour"
"""What a method needs of the policy that drew the images, and the copy that is kept of it where no average is one."""


class MethodConfig(Settings):
    """A method's own settings; the string under a field is its help. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    std: Literal["group", "global"] = "group"
    """Divide centred rewards by their group's std, or by the whole batch's."""
    std_eps: float = Field(default=0.0, ge=0)
    """Constant added to that std (papers: 1e-4 Flow-GRPO, 1e-8 TreeGRPO)."""
    ddof: Literal[0, 1] = 0
    """Delta degrees of freedom of that std (DanceGRPO, MixGRPO and BranchGRPO: 1)."""


C = TypeVar("C", bound=MethodConfig, covariant=True)


@dataclass(frozen=True)
class EdgeBatch:
    """The kept edges of one micro-batch, E of them; every tensor is (E,) fp32 unless noted.

    `logp` carries the gradient; `mean` and the optional means are (E, Z), Z the axes of a latent; `std` is the edge's
    noise level, `h` its length in sigma; `advantage` is already clipped; `clip` is the ratio's half-width.
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


@dataclass(frozen=True)
class Draws:
    """How each image is noised anew for training: x_t = (1 - t) x_0 + t eps.

    Attributes:
        number: draws a leaf.
        law: of t. "grid": different points of the sampler's grid, in random order; "uniform": independent, between
            `low` and `high`; "stratified": one in each of `number` equal parts between them, in random order.
        low: the smallest t of the laws that are not "grid".
        high: the largest.
        shared: all leaves of a prompt have the same times and noise.
        whole_groups: a micro-batch holds all leaves of a prompt's draw, so that a loss may compare them.

    Raises:
        UserError: fewer than one draw, or no room between `low` and `high` in [0, 1].
    """

    number: int
    law: Literal["grid", "uniform", "stratified"] = "grid"
    low: float = 0.0
    high: float = 1.0
    shared: bool = False
    whole_groups: bool = False

    def __post_init__(self) -> None:
        if self.number < 1:
            raise UserError(f"each image is drawn at least once, got {self.number} draws: raise their number")
        if not 0 <= self.low < self.high <= 1:
            raise UserError(f"times of draws lie in 0 <= low < high <= 1, got {self.low:g} to {self.high:g}")


@dataclass(frozen=True)
class ForwardBatch:
    """Samples of the forward process in one micro-batch, D draws: x_t = (1 - t) x_0 + t eps; tensors are fp32.

    `t` and `advantage` (already clipped to plus or minus `advantage_clip`) are (D,), all else is (D, Z), Z the axes of
    a latent. The velocity `v` carries the gradient; the others only where the method needs them: `v_behaviour` is that
    of the policy that drew the images, `v_reference` the reference policy's, `v_average` has those of its averages by
    name. `group` (D,) numbers the draws that belong together where `Draws.whole_groups` says so.
    """

    x_0: Tensor
    t: Tensor
    x_t: Tensor
    v: Tensor
    advantage: Tensor
    advantage_clip: float
    v_behaviour: Tensor | None = None
    v_reference: Tensor | None = None
    v_average: Mapping[str, Tensor] = field(default_factory=dict)
    group: Tensor | None = None


class Method(ABC, Generic[C]):
    """Base class of a method plugin, trained on edges. `grpo-bench list` shows the first line of its docstring."""

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    needs: frozenset[str] = frozenset()
    """What the engine must see to: "old_mean" and "reference" (means that it hands over), "mean_log_prob" (the loss
    holds for the Gaussian log-prob, mean over dimensions, and for no other)."""
    averages: Mapping[str, Callable[[int], float]] = MappingProxyType({})
    """Averages of the trained weights that the engine keeps, by name: d(iteration) in copy <- d copy + (1 - d) weights,
    taken after each iteration's updates."""
    samples_with: str = CURRENT
    """Which weights draw the rollout: the trained ones, or the average of that name."""
    clip_scale: float = 1.0
    """Half-width of this method's ratio clip, as a multiple of `objective.clip`."""

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    def local(self) -> bool:
        """Whether a prompt's advantages depend on that prompt's rewards only."""
        return self.config.std == "group"

    @abstractmethod
    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        """The forest of this iteration, the same for every prompt of the batch.

        `rng` depends on (seed, iteration) only. Raises UserError when the settings do not fit the schedule.
        """

    def credit(self, rollout: Rollout) -> Credit:
        """Advantages for the forest's edges: the leaves' z-scores, each node the mean of its children's."""
        return leaf_credit(rollout, std=self.config.std, ddof=self.config.ddof, eps=self.config.std_eps)

    def weights(self, forest: Forest, schedule: Schedule) -> Floats | None:
        """Positive loss weights per node (N,), or None for 1 everywhere. Never used to prune."""
        return None

    def log_ratio(self, batch: EdgeBatch) -> Tensor:
        """Log of the ratio that the loss clips, and the log reports, for each edge (E,); 0 for an unchanged policy."""
        return batch.logp - batch.logp_old

    def edge_loss(self, batch: EdgeBatch) -> Tensor:
        """The loss of each edge (E,): PPO's clipped surrogate, w max(-A rho, -A clip(rho, 1-eps, 1+eps))."""
        ratio = self.log_ratio(batch).exp()
        clipped = ratio.clamp(1 - batch.clip, 1 + batch.clip)
        return batch.weight * (-batch.advantage * ratio).maximum(-batch.advantage * clipped)

    def state_dict(self) -> Mapping[str, object]:
        """JSON-like state that must survive a resume (numbers, strings, lists and mappings of them)."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` gave."""


class ForwardMethod(Method[C]):
    """Base class of a method that is trained on the forward process: on its leaves, noised anew. It trains no edge.

    Of `needs` it may name "reference", "behaviour" (the policy that drew the images) and its averages; each costs one
    evaluation a draw.
    """

    @abstractmethod
    def draws(self, schedule: Schedule) -> Draws:
        """How each leaf is noised anew, the same in every iteration."""

    @abstractmethod
    def forward_loss(self, batch: ForwardBatch) -> Tensor:
        """The loss of each draw (D,)."""
