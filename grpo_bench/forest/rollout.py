"""What a realised forest tells a method (rewards, log-probs), what the method answers (credit), and their arithmetic.

Shapes: N nodes, L leaves, P prompts. All numpy, float64: credit is small and exact, and needs no device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from grpo_bench.forest.forest import Forest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rollout:
    """One iteration's outcome: the forest, each reward's scores of the leaves, and the behaviour log-probs.

    `rewards` maps a reward's name to its raw scores (L, P); `logp_NP` is the log-prob of each trained edge under
    the policy that sampled it, named by the node it leads to, and zero elsewhere. `prompts` are the batch's prompts,
    for methods that remember earlier rewards of a prompt. Arrays and mappings are copied and read-only.
    """

    forest: Forest
    rewards: Mapping[str, Floats]
    logp_NP: Floats
    reward_weights: Mapping[str, float] = field(default_factory=dict)
    combine: Literal["zscore", "raw"] = "zscore"
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rewards = {name: _read_only(score) for name, score in self.rewards.items()}
        object.__setattr__(self, "rewards", MappingProxyType(rewards))
        object.__setattr__(self, "logp_NP", _read_only(self.logp_NP))
        object.__setattr__(self, "reward_weights", MappingProxyType(dict(self.reward_weights)))

    def terms(self) -> list[tuple[str, float, Floats]]:
        """(name, weight, reward_LP) of what is normalised by itself and then added with these weights.

        `combine = "zscore"`: one term a reward. `"raw"`: their weighted sum, as one term named `raw`.
        """
        named = [(name, self.reward_weights.get(name, 1.0), score) for name, score in self.rewards.items()]
        if self.combine == "raw":
            return [("raw", 1.0, _total([weight * score for _, weight, score in named]))]
        return named

    def combined(self, advantage: Callable[[Floats], Floats]) -> Floats:
        """`advantage` of the combined reward.

        `combine = "zscore"`: the advantage of each reward by itself, then the weighted sum (TreeGRPO's rule: rewards
        of different scales do not drown each other). `"raw"`: the advantage of the weighted sum (Flow-GRPO's rule).
        """
        return _total([weight * advantage(score) for _, weight, score in self.terms()])


def _read_only(values: Floats) -> Floats:
    copied = np.array(values)
    copied.flags.writeable = False
    return copied


def _total(parts: list[Floats]) -> Floats:
    total: Floats = np.sum(np.stack(parts), axis=0)
    return total


@dataclass(frozen=True)
class Credit:
    """A method's answer, per node (an edge is named by the node it leads to) and prompt.

    `advantage_NP` any float; `group_NP` the group in which advantages must sum to zero, -1 where none is declared;
    `keep_NP` which trained edges get a gradient (None: all of them). It may only narrow the plan.
    """

    advantage_NP: Floats
    group_NP: Ints
    keep_NP: Bools | None = None


def zscore(
    reward_LP: Floats,
    group_L: Ints | None = None,
    *,
    std: Literal["group", "global"] = "group",
    ddof: int = 0,
    eps: float = 0.0,
) -> Floats:
    """(r - mean) / max(std, 1e-6) inside each group of a prompt's leaves; zero where all rewards of a group are equal.

    Args:
        reward_LP: rewards, leaves x prompts.
        group_L: the group of each leaf (None: all leaves of a prompt are one group).
        std: "group" divides by the group's own std, "global" by the std over the whole batch (Flow-GRPO's setting,
            which does not amplify prompts whose rewards hardly differ).
        ddof: 0 for the population std, 1 for the unbiased one (DanceGRPO, BranchGRPO).
        eps: a paper's additive constant in the denominator (Flow-GRPO 1e-4, TreeGRPO 1e-8).
    """
    reward_LP = np.asarray(reward_LP, dtype=np.float64)
    group_L = np.zeros(len(reward_LP), np.int64) if group_L is None else group_L
    advantage_LP = np.zeros_like(reward_LP)
    whole = reward_LP.std(ddof=ddof) if reward_LP.size > ddof else 0.0
    # Sorted once, since a search through all leaves for every group would be quadratic.
    order_L = np.argsort(group_L, kind="stable")
    for member_G in np.split(order_L, np.flatnonzero(np.diff(group_L[order_L])) + 1):
        reward_GP = reward_LP[member_G]
        if len(reward_GP) <= ddof:
            continue
        scale = reward_GP.std(axis=0, ddof=ddof) if std == "group" else np.full(reward_GP.shape[1], whole)
        centred = (reward_GP - reward_GP.mean(axis=0)) / (np.maximum(scale, 1e-6) + eps)
        flat = reward_GP.max(axis=0) == reward_GP.min(axis=0)
        advantage_LP[member_G] = np.where(flat, 0.0, centred)
    return advantage_LP


def back_up(forest: Forest, leaf_LP: Floats, weight_NP: Floats | None = None) -> Floats:
    """Leaf values carried to every node: the mean of its children's, from the deepest level to the roots, (N, P).

    `weight_NP` replaces the plain mean by weights, which must sum to one over the children of each node
    (TreeGRPO's softmax backup).
    """
    value_NP = np.zeros((forest.nodes, leaf_LP.shape[1]))
    value_NP[forest.leaves_L] = leaf_LP
    if weight_NP is None:
        children_N = np.bincount(forest.parent_N[forest.parent_N >= 0], minlength=forest.nodes)
        share_N = np.where(forest.parent_N >= 0, 1.0 / np.maximum(children_N[forest.parent_N], 1), 0.0)
        weight_NP = np.broadcast_to(share_N[:, None], value_NP.shape)
    for depth in range(forest.steps, 0, -1):
        child_D = forest.nodes_at(depth)
        np.add.at(value_NP, forest.parent_N[child_D], weight_NP[child_D] * value_NP[child_D])
    return value_NP


def by_depth(forest: Forest, prompts: int) -> Ints:
    """Group ids (N, P) that put all edges into one depth together, where these share all leaves out evenly.

    Then the means of leaves' z-scores sum to zero. Elsewhere (trunks of different branches, ends that jump the depth)
    they do not, and no group is declared: -1, as at the roots, which no edge leads to.
    """
    group_N = np.full(forest.nodes, -1, dtype=np.int64)
    for depth in range(1, forest.steps + 1):
        node_D = forest.nodes_at(depth)
        count_D = forest.leaf_count_N[node_D]
        if count_D.sum() == forest.images and (count_D == count_D[0]).all():
            group_N[node_D] = depth
    return np.repeat(group_N[:, None], prompts, axis=1)


def leaf_credit(
    rollout: Rollout, *, std: Literal["group", "global"] = "group", ddof: int = 0, eps: float = 0.0
) -> Credit:
    """The usual credit: z-score the leaves of a prompt, give every edge the mean of its descendants' scores.

    On a chain that is the leaf's own z-score on every edge (DanceGRPO, Flow-GRPO, MixGRPO); on a tree it is
    TreeGRPO's backup. Edges of one depth are a group where they sum to zero (`by_depth`).
    """

    def advantage(reward_LP: Floats) -> Floats:
        return back_up(rollout.forest, zscore(reward_LP, std=std, ddof=ddof, eps=eps))

    advantage_NP = rollout.combined(advantage)
    return Credit(advantage_NP, by_depth(rollout.forest, advantage_NP.shape[1]))
