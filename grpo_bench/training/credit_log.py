"""Columns of every point about the training since the last one: `credit_scale`, `zero_spread`, `clipped`, and by step.

They tell a hidden learning rate from a better method, sparse rewards from a method that does not learn, and a trust
region that binds from one that does nothing.
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
    by_step: dict[str, list[int]] = field(default_factory=dict)
    """By step of the schedule: `flat` and `groups` once more, and `edges` and `clipped`, counted in every update."""

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
        node_E = forest.judged_E
        varied_EP, cell_EP = _compared(forest, rollout.rewards, credit.group_NP[node_E], node_E)
        slope_M = slope_NP[node_E][varied_EP]
        slope_M = slope_M[~np.isnan(slope_M)]
        self.squares, self.terms = self.squares + float(np.square(slope_M).sum()), self.terms + len(slope_M)
        groups, flat = _counted(cell_EP, varied_EP)
        self.flat, self.groups = self.flat + flat, self.groups + groups
        if forest.trained_edges:
            step_E = forest.start_N[node_E]
            for step in np.unique(step_E):
                groups, flat = _counted(cell_EP[step_E == step], varied_EP[step_E == step])
                self._add("groups", int(step), groups)
                self._add("flat", int(step), flat)
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

    def updated(self, edges_T: Ints, clipped_T: Ints) -> None:
        """One iteration's updates: kept edges by step, and those whose ratio lay outside 1 plus or minus the clip."""
        for step in np.flatnonzero(edges_T):
            self._add("edges", int(step), int(edges_T[step]))
            self._add("clipped", int(step), int(clipped_T[step]))

    def _add(self, name: str, step: int, count: int) -> None:
        counts = self.by_step.setdefault(name, [])
        counts.extend([0] * (step + 1 - len(counts)))
        counts[step] += count

    def columns(self) -> dict[str, float]:
        """The point's columns; one that nothing has been seen for is left out, as before the first iteration.

        `credit_scale`: root mean square of d loss / d log-prob at ratio 1, over the kept edges in groups with spread.
        `zero_spread`: share of (prompt, group) without spread. `clipped`: share of kept edges, in every update anew,
        whose ratio lay outside the clip. The last two also by step, `zero_spread_step_0` and so on.
        """
        scale = {"credit_scale": math.sqrt(self.squares / self.terms)} if self.terms else {}
        spread = {"zero_spread": self.flat / self.groups} if self.groups else {}
        edges, clipped = (sum(self.by_step.get(name, ())) for name in ("edges", "clipped"))
        outside = {"clipped": clipped / edges} if edges else {}
        return (
            scale
            | spread
            | outside
            | self._shares("zero_spread", "flat", "groups")
            | self._shares("clipped", "clipped", "edges")
        )

    def _shares(self, column: str, part: str, whole: str) -> dict[str, float]:
        counts = zip(self.by_step.get(part, ()), self.by_step.get(whole, ()), strict=True)
        return {f"{column}_step_{step}": some / of for step, (some, of) in enumerate(counts) if of}

    def clear(self) -> None:
        """Begin anew behind a point."""
        self.squares, self.terms, self.flat, self.groups, self.by_step = 0.0, 0, 0, 0, {}

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps, as JSON."""
        return asdict(self)


def _compared(forest: Forest, rewards: Mapping[str, Floats], group_EP: Ints, node_E: Ints) -> tuple[Bools, Ints]:
    """(whether each edge's group has spread (E, P), the number of its (prompt, group) (E, P))."""
    prompts = group_EP.shape[1]
    ids, index = np.unique(group_EP, return_inverse=True)
    cell_EP = index.reshape(group_EP.shape) * prompts + np.arange(prompts)
    varied_C = np.zeros(len(ids) * prompts, dtype=bool)
    for reward_LP in rewards.values():
        low_C, high_C = np.full(len(varied_C), np.inf), np.full(len(varied_C), -np.inf)
        low_NP, high_NP = _extremes(forest, reward_LP)
        np.minimum.at(low_C, cell_EP.ravel(), low_NP[node_E].ravel())
        np.maximum.at(high_C, cell_EP.ravel(), high_NP[node_E].ravel())
        whole = 0 if forest.images > 1 else None
        low_C.reshape(-1, prompts)[ids < 0] = reward_LP.min(axis=whole)
        high_C.reshape(-1, prompts)[ids < 0] = reward_LP.max(axis=whole)
        varied_C |= high_C > low_C
    return varied_C[cell_EP], cell_EP


def _counted(cell_EP: Ints, varied_EP: Bools) -> tuple[int, int]:
    """How many (prompt, group) there are among these edges, and how many have no spread."""
    return len(np.unique(cell_EP)), len(np.unique(cell_EP[~varied_EP]))


def _extremes(forest: Forest, reward_LP: Floats) -> tuple[Floats, Floats]:
    """The lowest and the highest reward (N, P) of the images below each node."""
    return forest.fold(np.minimum, reward_LP, np.inf), forest.fold(np.maximum, reward_LP, -np.inf)
