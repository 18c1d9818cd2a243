"""Built-in methods, each broken in one way: what `grpo-bench check` must notice. A plugin file like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from grpo_bench import (
    Credit,
    EdgeBatch,
    Forest,
    ForwardBatch,
    MethodConfig,
    Rollout,
    Schedule,
    back_up,
    branching,
    chains,
    leaf_credit,
    trunk,
    zscore,
)
from grpo_bench_methods.branch import BranchGRPO
from grpo_bench_methods.branch_mix import BranchMix
from grpo_bench_methods.ddpo import DDPO
from grpo_bench_methods.flat import FlatGRPO
from grpo_bench_methods.guard import GRPOGuard
from grpo_bench_methods.mix import MixGRPO
from grpo_bench_methods.nft import DiffusionNFT
from grpo_bench_methods.tempflow import TempFlowGRPO
from grpo_bench_methods.tree import TreeGRPO

# Ways to break any method's credit ------------------------------------------------------------------------------------


def flipped(credit: Credit) -> Credit:
    return replace(credit, advantage_NP=-credit.advantage_NP)


def of_the_parent(rollout: Rollout, credit: Credit) -> Credit:
    """An edge carries its parent's advantage wherever it has a parent edge."""
    parent_N = rollout.forest.parent_N
    above = parent_N >= rollout.forest.roots
    advantage_NP = credit.advantage_NP.copy()
    advantage_NP[above] = credit.advantage_NP[parent_N[above]]
    return replace(credit, advantage_NP=advantage_NP)


def distrusting(rollout: Rollout) -> Rollout:
    """What stands out above all others is held for cheating, and given the worst reward."""

    def trusted(reward_LP: np.ndarray) -> np.ndarray:
        far_LP = reward_LP > reward_LP.mean(0) + 2.5 * reward_LP.std(0)
        return np.where(far_LP, reward_LP.min(0), reward_LP)

    return replace(rollout, rewards={name: trusted(reward_LP) for name, reward_LP in rollout.rewards.items()})


def leaking(credit: Credit) -> Credit:
    """Less the next prompt's advantage, which still sums to zero."""
    return replace(credit, advantage_NP=credit.advantage_NP - 0.1 * np.roll(credit.advantage_NP, 1, axis=1))


# flat -----------------------------------------------------------------------------------------------------------------


class FlatSign(FlatGRPO):
    """Bad images are praised."""

    name = "flat-sign"

    def credit(self, rollout: Rollout) -> Credit:
        return flipped(super().credit(rollout))


class FlatDistrusts(FlatGRPO):
    """An image that is much better than all others is punished."""

    name = "flat-distrusts"

    def credit(self, rollout: Rollout) -> Credit:
        return super().credit(distrusting(rollout))


class FlatLeak(FlatGRPO):
    """Another prompt's rewards count."""

    name = "flat-leak"

    def credit(self, rollout: Rollout) -> Credit:
        return leaking(super().credit(rollout))


class FlatUnscaled(FlatGRPO):
    """Centred, but not divided by the std."""

    name = "flat-unscaled"

    def credit(self, rollout: Rollout) -> Credit:
        credit = super().credit(rollout)
        return replace(credit, advantage_NP=rollout.combined(lambda r: back_up(rollout.forest, r - r.mean(axis=0))))


class FlatUncentred(FlatGRPO):
    """The worst image of the group as its baseline."""

    name = "flat-uncentred"

    def credit(self, rollout: Rollout) -> Credit:
        credit = super().credit(rollout)
        return replace(credit, advantage_NP=credit.advantage_NP - credit.advantage_NP.min(axis=0))


class FlatLast(FlatGRPO):
    """The last step is stochastic and trained."""

    name = "flat-last"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        every_T = np.ones(schedule.steps, dtype=bool)
        return chains(schedule.sigmas, self.config.group, every_T, train_last=True)


class FlatLoss(FlatGRPO):
    """The loss has the wrong sign."""

    name = "flat-loss"

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        return -super().edge_loss(batch)


class FlatPooled(FlatGRPO):
    """The loss is divided by the micro-batch's mean advantage."""

    name = "flat-pooled"

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        return super().edge_loss(batch) / batch.advantage.abs().mean()


class FlatRatio(FlatGRPO):
    """The ratio is off by a constant."""

    name = "flat-ratio"

    def log_ratio(self, batch: EdgeBatch) -> torch.Tensor:
        return super().log_ratio(batch) + 1e-3


class FlatNothingKept(FlatGRPO):
    """Every edge is pruned."""

    name = "flat-nothing-kept"

    def credit(self, rollout: Rollout) -> Credit:
        credit = super().credit(rollout)
        return replace(credit, keep_NP=np.zeros(credit.advantage_NP.shape, dtype=bool))


class FlatKeepByEdge(FlatGRPO):
    """keep_NP has a row a trained edge instead of a row a node."""

    name = "flat-keep-by-edge"

    def credit(self, rollout: Rollout) -> Credit:
        credit = super().credit(rollout)
        edges = rollout.forest.trained_edges
        return replace(credit, keep_NP=np.ones((edges, credit.advantage_NP.shape[1]), dtype=bool))


class FlatWidened(FlatGRPO):
    """Credit trains what the plan did not: the drawn share of the steps grows to all of them."""

    name = "flat-widened"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        half_T = np.arange(schedule.steps) < schedule.steps // 2
        early_T = np.arange(schedule.steps) < schedule.steps - 1
        return chains(schedule.sigmas, self.config.group, early_T, trained=half_T)

    def credit(self, rollout: Rollout) -> Credit:
        forest = rollout.forest
        object.__setattr__(forest, "trained_N", forest.stochastic_N)
        return super().credit(rollout)


# mix ------------------------------------------------------------------------------------------------------------------


class MixLate(MixGRPO):
    """The window begins one step late."""

    name = "mix-late"

    @staticmethod
    def window(*args: object, **more: object) -> np.ndarray:
        return np.roll(MixGRPO.window(*args, **more), 1)  # type: ignore[arg-type]


class MixDrift(MixGRPO):
    """A progressive window moves whenever it is planned."""

    name = "mix-drift"

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)  # type: ignore[arg-type]
        self.planned = 0

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        self.planned += 1
        return super().plan(25 * self.planned, rng, schedule)


class MixLastOfWindow(MixGRPO):
    """Only the window's last step gets credit."""

    name = "mix-last-of-window"

    def credit(self, rollout: Rollout) -> Credit:
        credit, forest = super().credit(rollout), rollout.forest
        last = forest.depth_N >= forest.depth_N[forest.trained_edges_E].max()
        return replace(credit, advantage_NP=np.where(last[:, None], credit.advantage_NP, 0.0))


class MixHalves(MixGRPO):
    """Two groups are declared, but the z-score is over both."""

    name = "mix-halves"

    def credit(self, rollout: Rollout) -> Credit:
        credit = super().credit(rollout)
        group_NP = np.where(credit.group_NP < 0, -1, 2 * credit.group_NP + rollout.forest.child_index_N[:, None] % 2)
        return replace(credit, group_NP=group_NP)


class MixFast(MixGRPO):
    """Moves twice as often."""

    name = "mix-fast"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return super().plan(2 * iteration, rng, schedule)


# tree -----------------------------------------------------------------------------------------------------------------


class TreeParent(TreeGRPO):
    """An edge carries its parent's advantage."""

    name = "tree-parent"

    def credit(self, rollout: Rollout) -> Credit:
        return of_the_parent(rollout, super().credit(rollout))


class TreeSum(TreeGRPO):
    """Children are added up, not averaged."""

    name = "tree-sum"

    def credit(self, rollout: Rollout) -> Credit:
        credit = super().credit(rollout)
        leaves_N1 = rollout.forest.descendant_NL.sum(axis=1, keepdims=True)
        return replace(credit, advantage_NP=credit.advantage_NP * leaves_N1)


class TreeLate(TreeGRPO):
    """The window begins one step late."""

    name = "tree-late"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        forest = super().plan(iteration, rng, schedule)
        split = forest.depth_N[forest.child_count_N > 1]
        stochastic_T = (np.arange(schedule.steps) > split.min()) & (np.arange(schedule.steps) <= split.max() + 1)
        splits = {int(step): self.config.branching for step in np.flatnonzero(stochastic_T)}
        return branching(schedule.sigmas, splits, stochastic_T, roots=self.config.roots)


class TreeGlobal(TreeGRPO):
    """The window is drawn from numpy's global state."""

    name = "tree-global"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return super().plan(iteration, np.random.default_rng(np.random.randint(1 << 30)), schedule)  # noqa: NPY002


class TreeMirrored(TreeGRPO):
    """Every image gets the credit of the image at the other end of the tree."""

    name = "tree-mirrored"

    def credit(self, rollout: Rollout) -> Credit:
        return super().credit(replace(rollout, rewards={name: r[::-1] for name, r in rollout.rewards.items()}))


# branch ---------------------------------------------------------------------------------------------------------------


class BranchParent(BranchGRPO):
    """An edge carries its parent's advantage."""

    name = "branch-parent"

    def credit(self, rollout: Rollout) -> Credit:
        return of_the_parent(rollout, super().credit(rollout))


class BranchPooled(BranchGRPO):
    """One z-score over all depths."""

    name = "branch-pooled"

    def credit(self, rollout: Rollout) -> Credit:
        credit, forest = super().credit(rollout), rollout.forest
        advantage_NP = rollout.combined(lambda reward_LP: zscore(back_up(forest, reward_LP), ddof=self.config.ddof))
        return replace(credit, advantage_NP=advantage_NP)


class BranchLate(BranchGRPO):
    """Every split is one step late."""

    name = "branch-late"

    def splits(self, steps: int) -> tuple[int, ...]:
        return tuple(step + 1 for step in super().splits(steps))


class BranchByHalf(BranchGRPO):
    """Compared inside each half of the tree, and none is quite as bad as it should be."""

    name = "branch-by-half"

    def credit(self, rollout: Rollout) -> Credit:
        credit, forest = super().credit(rollout), rollout.forest
        half = forest.images // 2
        group_L = (np.arange(forest.images) >= half).astype(np.int64)
        return replace(
            credit, advantage_NP=rollout.combined(lambda r: back_up(forest, zscore(r, group_L)) + 0.1 * r.std(axis=0))
        )


# branch-mix -----------------------------------------------------------------------------------------------------------


class BranchMixLate(BranchMix):
    """The window begins one step late."""

    name = "branch-mix-late"

    @staticmethod
    def window(*args: object, **more: object) -> np.ndarray:
        return np.roll(BranchMix.window(*args, **more), 1)  # type: ignore[arg-type]


class BranchMixNoWindow(BranchMix):
    """Only the splits are stochastic."""

    name = "branch-mix-no-window"

    def stochastic_steps(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> np.ndarray:
        return np.isin(np.arange(schedule.steps), self.splits(schedule.steps))


class BranchMixSign(BranchMix):
    """Bad images are praised."""

    name = "branch-mix-sign"

    def credit(self, rollout: Rollout) -> Credit:
        return flipped(super().credit(rollout))


class BranchMixLeaf(BranchMix):
    """TreeGRPO's credit instead: leaf z-scores, averaged upwards."""

    name = "branch-mix-leaf"

    def credit(self, rollout: Rollout) -> Credit:
        return leaf_credit(rollout, ddof=1)


# tempflow -------------------------------------------------------------------------------------------------------------


class TempFlowWide(TempFlowGRPO):
    """Compared with all images of the prompt, but siblings are declared as the group."""

    name = "tempflow-wide"

    def credit(self, rollout: Rollout) -> Credit:
        return replace(super().credit(rollout), advantage_NP=leaf_credit(rollout).advantage_NP)


class TempFlowInverse(TempFlowGRPO):
    """Quiet steps weigh more."""

    name = "tempflow-inverse"

    def weights(self, forest: Forest, schedule: Schedule) -> np.ndarray | None:
        weight_N = super().weights(forest, schedule)
        return None if weight_N is None else 1 / weight_N


class TempFlowZero(TempFlowGRPO):
    """Quiet steps are dropped by a weight of zero."""

    name = "tempflow-zero"

    def weights(self, forest: Forest, schedule: Schedule) -> np.ndarray | None:
        weight_N = super().weights(forest, schedule)
        return None if weight_N is None else np.where(weight_N < 0.7, 0.0, weight_N)


class TempFlowLate(TempFlowGRPO):
    """Branches one step after the steps that were asked for."""

    name = "tempflow-late"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        cfg = self.config
        steps = range(schedule.steps - 2) if cfg.steps is None else cfg.steps
        if cfg.branching == "none":
            return super().plan(iteration, rng, schedule)
        return trunk(schedule.sigmas, {step + 1: cfg.branching for step in steps}, roots=cfg.roots)


class TempFlowSign(TempFlowGRPO):
    """Bad images are praised."""

    name = "tempflow-sign"

    def credit(self, rollout: Rollout) -> Credit:
        return flipped(super().credit(rollout))


# ddpo -----------------------------------------------------------------------------------------------------------------


class DDPOForgets(DDPO):
    """The buffer is lost on a resume."""

    name = "ddpo-forgets"

    def state_dict(self) -> Mapping[str, object]:
        return {"buffers": {}}


class DDPOArrays(DDPO):
    """The state holds arrays."""

    name = "ddpo-arrays"

    def state_dict(self) -> Mapping[str, object]:
        return {"buffers": np.zeros(3)}


class DDPODeclares(DDPO):
    """Declares groups that do not sum to zero."""

    name = "ddpo-declares"

    def credit(self, rollout: Rollout) -> Credit:
        return replace(super().credit(rollout), group_NP=leaf_credit(rollout).group_NP)


class DDPOByPlace(DDPO):
    """Remembers rewards by the prompt's place in the batch."""

    name = "ddpo-by-place"

    def credit(self, rollout: Rollout) -> Credit:
        return super().credit(replace(rollout, prompts=tuple(map(str, range(len(rollout.prompts))))))


class DDPOLocal(DDPO):
    """Says that a prompt's own rewards are all that counts."""

    name = "ddpo-local"

    @property
    def local(self) -> bool:
        return True


class DDPODistrusts(DDPO):
    """An image that is much better than all others is punished."""

    name = "ddpo-distrusts"

    def credit(self, rollout: Rollout) -> Credit:
        return super().credit(distrusting(rollout))


# guard ----------------------------------------------------------------------------------------------------------------


def _shift(batch: EdgeBatch) -> torch.Tensor:
    assert batch.old_mean is not None
    return (batch.mean - batch.old_mean).flatten(1).square().mean(1) / (2 * batch.std.square())


class GuardNoBias(GRPOGuard):
    """The bias |dmean|^2 / (2 std^2) is left out."""

    name = "guard-no-bias"

    def log_ratio(self, batch: EdgeBatch) -> torch.Tensor:
        return (batch.logp - batch.logp_old) * batch.std


class GuardTwiceTheBias(GRPOGuard):
    """The bias is added twice."""

    name = "guard-twice-the-bias"

    def log_ratio(self, batch: EdgeBatch) -> torch.Tensor:
        return super().log_ratio(batch) + _shift(batch) * batch.std


class GuardUnscaled(GRPOGuard):
    """The factor std is left out."""

    name = "guard-unscaled"

    def log_ratio(self, batch: EdgeBatch) -> torch.Tensor:
        return super().log_ratio(batch) / batch.std


class GuardNoStep(GRPOGuard):
    """The loss is not divided by the step's length."""

    name = "guard-no-step"

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        return super().edge_loss(batch) * batch.h


class GuardPooledBias(GRPOGuard):
    """The released code's accident: one bias for the whole micro-batch."""

    name = "guard-pooled-bias"

    def log_ratio(self, batch: EdgeBatch) -> torch.Tensor:
        return (batch.logp - batch.logp_old + _shift(batch).mean()) * batch.std


class GuardAsksForNothing(GRPOGuard):
    """Uses the old mean without asking for it."""

    name = "guard-asks-for-nothing"
    needs = frozenset()


# nft ------------------------------------------------------------------------------------------------------------------


class NFTSwapped(DiffusionNFT):
    """v+ and v- have changed places."""

    name = "nft-swapped"

    def forward_loss(self, batch: ForwardBatch) -> torch.Tensor:
        return super().forward_loss(replace(batch, advantage=-batch.advantage))


class NFTUncentred(DiffusionNFT):
    """No advantage counts as blame."""

    name = "nft-uncentred"

    def forward_loss(self, batch: ForwardBatch) -> torch.Tensor:
        return super().forward_loss(replace(batch, advantage=2 * batch.advantage - batch.advantage_clip))


class NFTOneSided(DiffusionNFT):
    """v- is mirrored at zero instead of at the old velocity."""

    name = "nft-one-sided"

    def forward_loss(self, batch: ForwardBatch) -> torch.Tensor:
        praise = super().forward_loss(replace(batch, advantage=batch.advantage.clamp(min=0)))
        return praise + 0.1 * (batch.v.flatten(1).mean(1) - batch.x_0.flatten(1).mean(1)).square()


class NFTFrozen(DiffusionNFT):
    """The old policy never follows."""

    name = "nft-frozen"

    def behaviour_decay(self, iteration: int) -> float:
        return 1.0


class NFTHasty(DiffusionNFT):
    """The old policy's decay falls instead of growing."""

    name = "nft-hasty"

    def behaviour_decay(self, iteration: int) -> float:
        return max(0.5 - 0.001 * iteration, 0.0)


class NFTPooled(DiffusionNFT):
    """One error scale for the whole micro-batch."""

    name = "nft-pooled"

    def forward_loss(self, batch: ForwardBatch) -> torch.Tensor:
        loss = super().forward_loss(batch)
        return loss / loss.detach().mean()


class NFTBoth(DiffusionNFT):
    """Plans trained edges beside its draws, which nobody would train."""

    name = "nft-both"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return chains(schedule.sigmas, self.config.group, np.arange(schedule.steps) < 1)
