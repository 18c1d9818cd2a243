"""BranchGRPO (arXiv 2509.06040, section 3): one root, SDE at every step, K children at the split steps.

Leaf rewards are fused upward and z-scored per depth. This follows the paper but for the fusion's default:
- Split noise: (xi_0 + s eta_b) / sqrt(1 + s^2) keeps every marginal N(0, I). The code draws independent siblings at 4
  times the std and scores them at 1 time, so its ratio is not the sampler's.
- Fusion: the code's plain mean; `softmax` is the paper's, by path log-probs (the code's sees one edge only and sums).
- The last step is ODE; the code and the published counts train it: `train_last`. Depth pruning slides to later steps
  (the code: to earlier ones); the published cost needs 5 depths.
- Width pruning keeps leaves. Ties make the code drop the late steps of all chains, or another prompt's leaves.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from grpo_bench import Credit, Forest, Method, MethodConfig, Rollout, Schedule, UserError, branching, zscore

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class BranchConfig(MethodConfig):
    """Settings of BranchGRPO."""

    ddof: Literal[0, 1] = 1
    """Delta degrees of freedom of that std."""
    branching: int = Field(2, ge=2)
    """Children of every node at a split; one child would leave nothing to compare."""
    splits: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(None, min_length=1)
    """Steps that branch, all before the last; default: 0, 15, 30 and 45 % of the steps, rounded down."""
    sibling_noise: float | Literal["none"] = 4.0
    """s: the siblings' noise correlates by 1 / (1 + s^2); "none" draws it independently."""
    fusion: Literal["mean", "softmax"] = "mean"
    """A node's reward: the mean of its leaves (released code), or weighed by the log-prob of their paths (paper)."""
    fusion_beta: float = Field(1.0, ge=0)
    """Inverse temperature of the softmax fusion; 0 is the mean."""
    prune_width: Literal["none", "parent-top1", "extreme"] = "none"
    """Train below the last split only the better child of each parent, or the best and worst quarter of the leaves."""
    prune_depth: int = Field(0, ge=0)
    """Depths without gradient: a window that starts below the last split and slides towards the image."""
    prune_every: int = Field(30, ge=1)
    """Iterations after which that window moves one depth deeper, until it holds the depth before the last."""

    @model_validator(mode="after")
    def _paths_need_every_edge(self) -> BranchConfig:
        if self.fusion == "softmax" and self.prune_depth:
            raise ValueError("softmax fusion needs the log-prob of every edge, so it excludes prune_depth: use 'mean'")
        return self


class BranchGRPO(Method[BranchConfig]):
    """BranchGRPO: a stochastic tree that splits early; leaf rewards fused upward and z-scored per depth."""

    name = "branch"
    paper = "2509.06040"
    Config = BranchConfig

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        """A tree that splits at the given steps; the depths of this iteration's pruning window get no gradient."""
        cfg, steps = self.config, schedule.steps
        splits = self.splits(steps)
        if max(splits) >= steps - 1 or len(set(splits)) < len(splits):
            raise UserError(
                f"method.splits = {splits} must be different steps, all before the last of {steps}; leave out the "
                "others or raise sampling.steps"
            )
        stochastic_T = self.stochastic_steps(iteration, rng, schedule)
        return branching(
            schedule.sigmas,
            dict.fromkeys(splits, cfg.branching),
            stochastic_T,
            sibling_noise=None if cfg.sibling_noise == "none" else cfg.sibling_noise,
            trained=stochastic_T & ~self._pruned_steps(iteration, max(splits), steps),
            train_last=schedule.train_last,
        )

    def splits(self, steps: int) -> tuple[int, ...]:
        """The steps that branch, each once; by default floor(T (0, .15, .30, .45)), (0, 3, 6, 9) at T = 20."""
        return self.config.splits or tuple(sorted({steps * percent // 100 for percent in (0, 15, 30, 45)}))

    def stochastic_steps(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Bools:
        """(T,) whether the step samples noise: here every step that the schedule allows."""
        return np.append(np.ones(schedule.steps - 1, dtype=bool), schedule.train_last)

    def credit(self, rollout: Rollout) -> Credit:
        """Fused leaf rewards, z-scored over the nodes of each depth; width pruning after that."""
        cfg, forest = self.config, rollout.forest
        beta = cfg.fusion_beta if cfg.fusion == "softmax" else 0.0

        def advantage(reward_LP: Floats) -> Floats:
            value_NP = _fuse(forest, reward_LP, beta * rollout.logp_NP)
            advantage_NP = np.zeros_like(value_NP)
            for depth in range(1, forest.steps + 1):
                node_D = forest.nodes_at(depth)
                advantage_NP[node_D] = zscore(value_NP[node_D], std=cfg.std, ddof=cfg.ddof, eps=cfg.std_eps)
            return advantage_NP

        advantage_NP = rollout.combined(advantage)
        # Either way a depth sums to zero, but `grpo-bench check` also orders a declared group by mean rewards.
        group_N = np.where((forest.depth_N > 0) & (cfg.fusion == "mean"), forest.depth_N, -1)
        group_NP = np.broadcast_to(group_N[:, None], advantage_NP.shape)
        return Credit(advantage_NP, group_NP, self._kept(forest, advantage_NP))

    def _pruned_steps(self, iteration: int, last_split: int, steps: int) -> Bools:
        """(T,) the steps into the pruned depths: at first from the last split's own edges on, at last up to T - 2."""
        cfg, latest = self.config, steps - 1 - self.config.prune_depth
        if cfg.prune_depth and latest < last_split:
            raise UserError(
                f"method.prune_depth = {cfg.prune_depth} does not fit between the last split ({last_split}) and the "
                f"last of {steps} steps; use {steps - 1 - last_split} or less"
            )
        start = min(last_split + iteration // cfg.prune_every, latest)
        return np.isin(np.arange(steps), np.arange(start, start + cfg.prune_depth))

    def _kept(self, forest: Forest, advantage_NP: Floats) -> Bools | None:
        """Width pruning keeps all edges into the last split's children and above, and below them the chosen leaves'."""
        cfg, images = self.config, forest.images
        if cfg.prune_width == "none":
            return None
        # Below the last split there are only chains, so the children of one parent are consecutive leaves.
        quarter = max(1, images // 4)
        family, best, worst = (images, quarter, quarter) if cfg.prune_width == "extreme" else (cfg.branching, 1, 0)
        chosen_LP = _chosen(advantage_NP[forest.leaves_L], family, best, worst)
        top_N = forest.depth_N <= forest.depth_N[forest.child_count_N > 1].max() + 1
        return np.asarray(forest.trained_N[:, None] & (top_N[:, None] | forest.any_leaf(chosen_LP)), dtype=np.bool_)


def _fuse(forest: Forest, reward_LP: Floats, logit_NP: Floats) -> Floats:
    """Each node's leaves, averaged by the softmax of the sum of `logit_NP` on the way to them (N, P); 0 is the mean."""
    path_LP = logit_NP[forest.path_LD].sum(axis=1)  # from the root: what lies above a node is the same for its leaves
    value_NP = np.empty((forest.nodes, reward_LP.shape[1]))
    for node, first in enumerate(forest.first_leaf_N):
        below = slice(first, first + forest.leaf_count_N[node])  # consecutive, in breadth-first order
        odds = np.exp(path_LP[below] - path_LP[below].max(axis=0))
        value_NP[node] = (odds * reward_LP[below]).sum(axis=0) / odds.sum(axis=0)
    return value_NP


def _chosen(advantage_LP: Floats, family: int, best: int, worst: int) -> Bools:
    """Among every `family` leaves in a row: the best and, of the others, the worst; ties go to the lower leaf."""
    family_FKP = advantage_LP.reshape(-1, family, advantage_LP.shape[1])
    chosen_FKP = np.zeros(family_FKP.shape, dtype=bool)
    for order_FKP, count in ((-family_FKP, best), (family_FKP, worst)):
        first = np.argsort(np.where(chosen_FKP, np.inf, order_FKP), axis=1, kind="stable")[:, :count]
        np.put_along_axis(chosen_FKP, first, True, axis=1)
    return chosen_FKP.reshape(advantage_LP.shape)
