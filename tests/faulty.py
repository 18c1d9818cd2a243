"""A stranger's faulty methods, which declare no groups and belong to no family: what `grpo-bench check` must notice.

A plugin file like any other. The mutants of built-in methods are in mutants.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch

from grpo_bench import (
    Credit,
    EdgeBatch,
    Forest,
    ForwardBatch,
    Method,
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
from grpo_bench_methods.nft import DiffusionNFT


def early(schedule: Schedule) -> np.ndarray:
    """(T,) every step but the last."""
    return np.arange(schedule.steps) < schedule.steps - 1


def undeclared(rollout: Rollout, advantage_NP: np.ndarray) -> Credit:
    return Credit(advantage_NP, np.full((rollout.forest.nodes, advantage_NP.shape[1]), -1))


class Chains(Method[MethodConfig]):
    """Eight chains. Sound; what is derived from it is not."""

    name = "sound-chains"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return chains(schedule.sigmas, 8, early(schedule))

    def credit(self, rollout: Rollout) -> Credit:
        return undeclared(rollout, self.changed(rollout, leaf_credit(rollout).advantage_NP))

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        """The fault."""
        return advantage_NP


class Tree(Chains):
    """A tree over a random window. Sound too."""

    name = "sound-tree"
    children = 2

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        step_T, start = np.arange(schedule.steps), int(rng.integers(0, schedule.steps - 3))
        inside_T = (step_T >= start) & (step_T < start + 3)
        return branching(schedule.sigmas, dict.fromkeys(np.flatnonzero(inside_T).tolist(), self.children), inside_T)


class Siblings(Tree):
    """A wider tree, z-scored among siblings, without a word about groups. Sound as well."""

    name = "sound-siblings"
    children = 3

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        forest = rollout.forest
        value_NP = rollout.combined(lambda reward_LP: back_up(forest, reward_LP))
        found_NP = np.zeros_like(value_NP)
        for children in forest.children:
            if len(children) > 1:
                found_NP[children] = zscore(value_NP[children])
        return found_NP


class Strided(Method[MethodConfig]):
    """A trunk whose children are finished on the grid and on every second point of it; the default credit. Sound."""

    name = "sound-strided"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return trunk(schedule.sigmas, {0: 3, 2: 3}, stride=(1, 2))


class StridedEnds(Method[MethodConfig]):
    """Chains whose ends jump, three points at once, with the default credit. Sound as well."""

    name = "sound-jumps"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return chains(schedule.sigmas, 4, np.arange(schedule.steps) < 3, stride=3)


class StridedAnotherSplit(Strided):
    """The children of one split have the advantages of the other's."""

    name = "strided-another-split"

    def credit(self, rollout: Rollout) -> Credit:
        advantage_NP = super().credit(rollout).advantage_NP
        trained_E = rollout.forest.trained_edges_E
        advantage_NP[trained_E] = advantage_NP[trained_E[::-1]]
        return undeclared(rollout, advantage_NP)


class StridedFineEnds(Strided):
    """An edge is credited by its last image alone: of the ways in which it is finished, one counts."""

    name = "strided-one-end"

    def credit(self, rollout: Rollout) -> Credit:
        forest = rollout.forest
        score_LP = zscore(rollout.combined(lambda reward_LP: reward_LP))
        last_N = forest.fold(np.maximum, np.arange(forest.images)[:, None].astype(float), -1.0)[:, 0].astype(int)
        return undeclared(rollout, score_LP[last_N])


# Credit that is not that of an edge's own descendants ----------------------------------------------------------------


class FirstChild(Tree):
    """Where a node has several children, its edge has the first child's advantage."""

    name = "first-child"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        found_NP = advantage_NP.copy()
        for node, children in enumerate(rollout.forest.children):
            if len(children) > 1:
                found_NP[node] = advantage_NP[children[0]]
        return found_NP


class FirstLeaf(Tree):
    """An edge has the advantage of the first image below it, as if depths did not matter."""

    name = "first-leaf"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        forest = rollout.forest
        return advantage_NP[forest.leaves_L[forest.descendant_NL.argmax(axis=1)]]


class Sibling(Tree):
    """All but the last trained edges have their sibling's."""

    name = "sibling"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        forest, found_NP = rollout.forest, advantage_NP.copy()
        for children in forest.children:
            if len(children) > 1 and forest.depth_N[children[0]] < forest.depth_N[forest.trained_edges_E].max():
                found_NP[children] = advantage_NP[children[::-1]]
        return found_NP


class Parent(Tree):
    """An edge has its parent's, where that is an edge."""

    name = "parent"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        parent_N = rollout.forest.parent_N
        above = parent_N >= rollout.forest.roots
        found_NP = advantage_NP.copy()
        found_NP[above] = advantage_NP[parent_N[above]]
        return found_NP


class MostlyParent(Tree):
    """A third of it is its own."""

    name = "mostly-parent"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        return (advantage_NP + 2 * Parent.changed(self, rollout, advantage_NP)) / 3  # type: ignore[arg-type]


class NextChain(Chains):
    """All but the last trained step have the next chain's."""

    name = "next-chain"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        forest, found_NP = rollout.forest, advantage_NP.copy()
        for depth in range(1, forest.steps - 1):
            nodes = forest.nodes_at(depth)
            found_NP[nodes] = np.roll(advantage_NP[nodes], 1, axis=0)
        return found_NP


class Parity(Chains):
    """Every other chain has the wrong sign."""

    name = "parity"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        odd_L = np.arange(rollout.forest.images) % 2
        return advantage_NP * back_up(rollout.forest, 1.0 - 2.0 * odd_L[:, None])


class EarlyNothing(Chains):
    """The first trained step has no credit at all."""

    name = "early-nothing"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        return np.where(rollout.forest.depth_N[:, None] == 1, 0.0, advantage_NP)


class NextPrompt(Chains):
    """Credit of the next prompt, and it says that other prompts count."""

    name = "next-prompt"
    local = False  # type: ignore[assignment]

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        return np.roll(advantage_NP, 1, axis=1)


class NextPromptInside(Tree):
    """Credit of the previous prompt on interior edges only."""

    name = "next-prompt-inside"
    local = False  # type: ignore[assignment]

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        forest = rollout.forest
        inside = (forest.descendant_NL.sum(axis=1) > 1)[:, None]
        return np.where(inside, np.roll(advantage_NP, -1, axis=1), advantage_NP)


class Stale(Chains):
    """The last iteration's rewards, kept as a checkpoint would keep them."""

    name = "stale"
    memory: list[list[float]]

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.memory = []

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        (reward_LP,) = rollout.rewards.values()
        old_LP = np.array(self.memory) if np.shape(self.memory) == reward_LP.shape else reward_LP
        self.memory = reward_LP.tolist()
        return self.mixed(rollout, back_up(rollout.forest, zscore(old_LP)), advantage_NP)

    def mixed(self, rollout: Rollout, old_NP: np.ndarray, new_NP: np.ndarray) -> np.ndarray:
        """Which credit an edge has."""
        return old_NP

    def state_dict(self) -> Mapping[str, object]:
        return {"memory": self.memory}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.memory = state["memory"]  # type: ignore[assignment]


class StaleEarly(Stale):
    """The same in the first half of the steps only."""

    name = "stale-early"

    def mixed(self, rollout: Rollout, old_NP: np.ndarray, new_NP: np.ndarray) -> np.ndarray:
        return np.where(rollout.forest.depth_N[:, None] < rollout.forest.steps // 2, old_NP, new_NP)


# What another process decides otherwise ------------------------------------------------------------------------------


class Hashed(Chains):
    """Leaves out a step that the hash of a text chooses."""

    name = "hashed"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        noisy_T = early(schedule)
        noisy_T[hash(f"iteration {iteration}") % (schedule.steps - 1)] = False
        return chains(schedule.sigmas, 8, noisy_T)


class SetOrder(Chains):
    """The prompt that a set names first counts twice."""

    name = "set-order"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        first = next(iter(set(rollout.prompts)))
        return advantage_NP * np.array([1.5 if prompt == first else 1.0 for prompt in rollout.prompts])


class Address(Chains):
    """Weights by where an object lies."""

    name = "address"

    def weights(self, forest: Forest, schedule: Schedule) -> np.ndarray:
        return 1.0 + np.arange(forest.nodes) % (id(self) // 64 % 97 + 2) / 100


class Faint(Chains):
    """Trains the later half of its steps, and weighs the earlier by next to nothing."""

    name = "faint"

    def weights(self, forest: Forest, schedule: Schedule) -> np.ndarray:
        return np.where(forest.depth_N <= schedule.steps // 2, 1e-9, 1.0)


class ProcessNumber(Chains):
    """The step that the process's number chooses."""

    name = "process-number"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        noisy_T = early(schedule)
        noisy_T[np.random.default_rng((os.getpid(), iteration)).integers(schedule.steps - 1)] = False
        return chains(schedule.sigmas, 8, noisy_T)


class ClassMemory(Chains):
    """A baseline that the class remembers, so that no checkpoint has it; iteration 0 forgets it."""

    name = "class-memory"
    seen: dict[str, float] = {}  # noqa: RUF012

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        if iteration == 0:
            self.seen.clear()
        return super().plan(iteration, rng, schedule)

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        (reward_LP,) = rollout.rewards.values()
        shift_P = np.array([self.seen.get(prompt, 0.0) for prompt in rollout.prompts])
        self.seen.update(zip(rollout.prompts, reward_LP.mean(axis=0) / reward_LP.std(), strict=True))
        return advantage_NP + 0.1 * shift_P


# Learning rates in disguise ------------------------------------------------------------------------------------------


class TimesTen(Chains):
    """Advantages times ten."""

    name = "times-ten"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        return 10 * advantage_NP


class Tenth(Chains):
    """Advantages over ten."""

    name = "tenth"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        return advantage_NP / 10


class Heavy(Chains):
    """Weights of ten."""

    name = "heavy"

    def weights(self, forest: Forest, schedule: Schedule) -> np.ndarray:
        return np.full(forest.nodes, 10.0)


class LossTimesTen(Chains):
    """The loss times ten."""

    name = "loss-times-ten"

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        return 10 * super().edge_loss(batch)


class WarmUp(Chains):
    """Weights that grow with the number of the iteration."""

    name = "warm-up"

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.now = 0

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        self.now = iteration
        return super().plan(iteration, rng, schedule)

    def weights(self, forest: Forest, schedule: Schedule) -> np.ndarray:
        return np.full(forest.nodes, 1.0 + 0.01 * self.now)


class Compound(Chains):
    """A factor that grows by 1% with every credit, and is kept in the state."""

    name = "compound"

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.factor = 1.0

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        self.factor *= 1.01
        return self.factor * advantage_NP

    def state_dict(self) -> Mapping[str, object]:
        return {"factor": self.factor}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.factor = float(state["factor"])  # type: ignore[arg-type]


class ForwardTimesTen(DiffusionNFT):
    """DiffusionNFT's loss times ten."""

    name = "forward-times-ten"

    def forward_loss(self, batch: ForwardBatch) -> torch.Tensor:
        return 10 * super().forward_loss(batch)


class EveryTenth(Chains):
    """Every tenth iteration has the wrong sign, from the fifth on."""

    name = "every-tenth"

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self.now = 0

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        self.now = iteration
        return super().plan(iteration, rng, schedule)

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        return -advantage_NP if self.now % 10 == 5 else advantage_NP


class Words(Chains):
    """Prompts with a number word in them count more."""

    name = "words"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        return advantage_NP * np.array([1.0 + 0.5 * ("two" in prompt) for prompt in rollout.prompts])


class FirstPromptsStd(Chains):
    """Every prompt's rewards are divided by the std of the first."""

    name = "first-prompts-std"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        (reward_LP,) = rollout.rewards.values()
        std_P = reward_LP.std(axis=0)
        return advantage_NP * std_P / np.maximum(std_P[0], 1e-6)


# Writing where it should read ----------------------------------------------------------------------------------------


class WritesRewards(Chains):
    """Adds a hundred to every reward."""

    name = "writes-rewards"

    def credit(self, rollout: Rollout) -> Credit:
        for reward_LP in rollout.rewards.values():
            reward_LP += 100.0
        return super().credit(rollout)


class AddsReward(Chains):
    """Adds a reward of its own."""

    name = "adds-a-reward"

    def credit(self, rollout: Rollout) -> Credit:
        rollout.rewards["mine"] = np.ones((rollout.forest.images, len(rollout.prompts)))  # type: ignore[index]
        return super().credit(rollout)


class WritesLogProbs(Chains):
    """Sets the log-probs of the rollout to zero."""

    name = "writes-log-probs"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        rollout.logp_NP[:] = 0.0
        return advantage_NP


class WritesBatch(Chains):
    """Amplifies praise in the batch that it is given."""

    name = "writes-batch"

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        batch.advantage.clamp_(min=0)
        return super().edge_loss(batch)


class WritesBehind(Chains):
    """Makes the old log-probs those of the policy, behind torch's back."""

    name = "writes-behind"

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        loss = super().edge_loss(batch)
        batch.weight.numpy()[:] = 7.0
        return loss


class WritesForward(DiffusionNFT):
    """Noises the clean latents that it is given."""

    name = "writes-forward"

    def forward_loss(self, batch: ForwardBatch) -> torch.Tensor:
        batch.x_0.mul_(0.9)
        return super().forward_loss(batch)


# The last step -------------------------------------------------------------------------------------------------------


class LastStep(Chains):
    """Believes that its last step is stochastic and trained."""

    name = "last-step"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return chains(schedule.sigmas, 8, np.ones(schedule.steps, dtype=bool))


class LastStepOfATree(Chains):
    """The same of a tree."""

    name = "last-step-of-a-tree"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return branching(schedule.sigmas, {0: 4}, np.ones(schedule.steps, dtype=bool))


class LastStepTrained(Chains):
    """Asks for the last step's training only."""

    name = "last-step-trained"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        return chains(schedule.sigmas, 8, early(schedule), trained=np.arange(schedule.steps) >= 2)


class RatioOfOne(Chains):
    """Its ratio is 1 wherever the policy goes, so that nothing is clipped."""

    name = "ratio-of-one"

    def log_ratio(self, batch: EdgeBatch) -> torch.Tensor:
        return batch.logp - batch.logp.detach()


class Unclipped(Chains):
    """The smaller of the two terms: the clip stops what it should let through, and nothing else."""

    name = "unclipped"

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        ratio = self.log_ratio(batch).exp()
        plain, clipped = ratio, ratio.clamp(1 - batch.clip, 1 + batch.clip)
        return batch.weight * torch.minimum(-batch.advantage * plain, -batch.advantage * clipped)


class OneOfTwoRewards(Chains):
    """Of several rewards it credits the first."""

    name = "one-of-two-rewards"

    def credit(self, rollout: Rollout) -> Credit:
        reward_LP = next(iter(rollout.rewards.values()))
        return undeclared(rollout, back_up(rollout.forest, zscore(reward_LP)))


class WithoutWeights(Chains):
    """Adds the z-scores of several rewards and forgets their weights."""

    name = "without-weights"

    def credit(self, rollout: Rollout) -> Credit:
        return undeclared(rollout, back_up(rollout.forest, sum(map(zscore, rollout.rewards.values()))))


class WideningClip(Chains):
    """Whose clip widens with every iteration."""

    name = "widening-clip"

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        self.clip_scale = 1.0 + iteration
        return super().plan(iteration, rng, schedule)


class PenaltyUpsideDown(Chains):
    """Rewarded for leaving the reference policy."""

    name = "penalty-upside-down"
    needs = frozenset({"reference"})

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        assert batch.reference_mean is not None
        apart = (batch.mean - batch.reference_mean).square().mean((1, 2, 3)) / (2 * batch.std**2)
        return super().edge_loss(batch) - 0.1 * apart


class LateLeaves(Chains):
    """Images late in the group count more."""

    name = "late-leaves"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        place_L = np.linspace(-0.3, 0.3, rollout.forest.images)
        return advantage_NP + back_up(rollout.forest, place_L[:, None] * np.ones((1, advantage_NP.shape[1])))


class KeepsByOthers(Chains):
    """Which edges are kept depends on the other prompts' rewards."""

    name = "keeps-by-others"

    def credit(self, rollout: Rollout) -> Credit:
        credit = super().credit(rollout)
        mean_NP = back_up(rollout.forest, next(iter(rollout.rewards.values())))
        return Credit(credit.advantage_NP, credit.group_NP, mean_NP >= np.median(mean_NP))


class LargeLatents(Chains):
    """Five times the loss where latents have as many numbers as the built-in model's."""

    name = "large-latents"

    def edge_loss(self, batch: EdgeBatch) -> torch.Tensor:
        return super().edge_loss(batch) * (5.0 if batch.mean[0].numel() >= 256 else 1.0)


class ManyPrompts(Chains):
    """Advantages that grow with the number of prompts."""

    name = "many-prompts"

    def changed(self, rollout: Rollout, advantage_NP: np.ndarray) -> np.ndarray:
        return advantage_NP * max(1.0, advantage_NP.shape[1] / 4)


class Ranks(Chains):
    """Ranks within the prompt, ties averaged: sound, although a raise that passes nobody changes nothing."""

    name = "sound-ranks"

    def credit(self, rollout: Rollout) -> Credit:
        (first_LP, *more) = (weight * reward_LP for _, weight, reward_LP in rollout.terms())
        reward_LP = sum(more, first_LP)
        above = (reward_LP[:, None] > reward_LP[None]).sum(1) - (reward_LP[:, None] < reward_LP[None]).sum(1)
        return undeclared(rollout, back_up(rollout.forest, 1.7 * above / len(reward_LP)))
