"""Two columns of every point about the training since the last one: `credit_scale` and `zero_spread`.

They tell a hidden learning rate from a better method, and sparse rewards from a method that does not learn.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Credit, Floats, Ints, Rollout

log = logging.getLogger(__name__)


@dataclass
class CreditLog:
    """Sums over the iterations since the last point, and the rewards that have been warned of in the whole run.

    A comparison group is what `group_NP` declares, or where it declares none (-1) all images of the prompt; where the
    prompt has one image only, those of the iteration. It has spread if the images below its trained edges (of a method
    on the forward process: its images) differ in any reward.
    """

    squares: float = 0.0
    terms: int = 0
    flat: int = 0
    groups: int = 0
    warned: list[str] = field(default_factory=list)

    def see(self, rollout: Rollout, credit: Credit, slope_NP: Floats) -> None:
        """One iteration, with the slopes (N, P) of `grpo_bench.training.slope`.

        Raises:
            UserError: the method's groups have another shape than its advantages.
        """
        forest = rollout.forest
        if np.shape(credit.group_NP) != slope_NP.shape:
            raise UserError(
                f"the method's group_NP has the shape {np.shape(credit.group_NP)}, but its advantages have "
                f"{slope_NP.shape}; give a group a node and prompt, -1 for none"
            )
        node_E = forest.leaves_L if forest.forward_draws else forest.trained_edges_E
        varied_EP, groups, flat = _compared(forest, rollout.rewards, credit.group_NP[node_E], node_E)
        slope_M = slope_NP[node_E][varied_EP]
        slope_M = slope_M[~np.isnan(slope_M)]
        self.squares, self.terms = self.squares + float(np.square(slope_M).sum()), self.terms + len(slope_M)
        self.flat, self.groups = self.flat + flat, self.groups + groups
        for name, reward_LP in rollout.rewards.items():
            if reward_LP.size > 1 and reward_LP.min() == reward_LP.max() and name not in self.warned:
                self.warned.append(name)
                log.warning(
                    "reward %r gave all %d images of an iteration the same score, %g: nothing is learnt from it there "
                    "(said once; the column zero_spread of the points says how often)",
                    name,
                    reward_LP.size,
                    reward_LP.flat[0],
                )

    def columns(self) -> dict[str, float]:
        """The point's columns; one that nothing has been seen for is left out, as before the first iteration.

        `credit_scale`: root mean square of d loss / d log-prob at ratio 1, over the kept edges in groups with spread.
        `zero_spread`: share of (prompt, group) without spread.
        """
        scale = {"credit_scale": math.sqrt(self.squares / self.terms)} if self.terms else {}
        return scale | ({"zero_spread": self.flat / self.groups} if self.groups else {})

    def clear(self) -> None:
        """Begin anew behind a point."""
        self.squares, self.terms, self.flat, self.groups = 0.0, 0, 0, 0

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps, as JSON."""
        return asdict(self)


def _compared(forest: Forest, rewards: Mapping[str, Floats], group_EP: Ints, node_E: Ints) -> tuple[Bools, int, int]:
    """(whether each edge's group has spread (E, P), how many (prompt, group) there are, how many have none)."""
    prompts = group_EP.shape[1]
    ids, index = np.unique(group_EP, return_inverse=True)
    cell_EP = index.reshape(group_EP.shape) * prompts + np.arange(prompts)
    there_C = np.zeros(len(ids) * prompts, dtype=bool)
    there_C[cell_EP.ravel()] = True
    varied_C = np.zeros_like(there_C)
    for reward_LP in rewards.values():
        low_C, high_C = np.full(len(there_C), np.inf), np.full(len(there_C), -np.inf)
        low_NP, high_NP = _extremes(forest, reward_LP)
        np.minimum.at(low_C, cell_EP.ravel(), low_NP[node_E].ravel())
        np.maximum.at(high_C, cell_EP.ravel(), high_NP[node_E].ravel())
        whole = 0 if forest.images > 1 else None
        low_C.reshape(-1, prompts)[ids < 0] = reward_LP.min(axis=whole)
        high_C.reshape(-1, prompts)[ids < 0] = reward_LP.max(axis=whole)
        varied_C |= high_C > low_C
    return varied_C[cell_EP], int(there_C.sum()), int((there_C & ~varied_C).sum())


def _extremes(forest: Forest, reward_LP: Floats) -> tuple[Floats, Floats]:
    """The lowest and the highest reward (N, P) of the images below each node."""
    found = []
    for extreme in (np.minimum, np.maximum):
        value_NP = np.empty((forest.nodes, reward_LP.shape[1]))
        value_NP[forest.leaves_L] = reward_LP
        for depth in range(forest.steps, 0, -1):  # the children of one depth's nodes follow each other
            parent_D, child_D = forest.nodes_at(depth - 1), forest.nodes_at(depth)
            value_NP[parent_D] = extreme.reduceat(
                value_NP[child_D], forest.first_child_N[parent_D] - child_D[0], axis=0
            )
        found.append(value_NP)
    return found[0], found[1]
