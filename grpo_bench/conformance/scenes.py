"""Made-up rewards for a method's own forests: what its credit is asked about, without any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grpo_bench.conformance.subject import ITERATIONS, SEED, Subject
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Credit, Floats, Ints, Rollout
from grpo_bench.training.planning import plan_forest

PROMPTS = ("a red circle", "a blue square", "a star", "two stars")
"""Prompts 0 and 1 have continuous rewards of two scales, prompt 2 has rewards of 0 and 10, prompt 3 equal ones."""

CONTINUOUS = 2
"""The first so many prompts have rewards without ties."""

Change = Callable[[int, Floats], Floats]
Order = Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class Scored:
    """One iteration's forest, its rewards (L, P) of one reward, and the method's answer."""

    forest: Forest
    reward_LP: Floats
    credit: Credit


@dataclass(frozen=True)
class Scene:
    """Iterations of one method instance in a row.

    `change(turn, reward_LP)` alters the rewards, `order(turn)` the places of the prompts in the batch.
    """

    iterations: Sequence[int] = ITERATIONS
    change: Change = lambda turn, reward_LP: reward_LP
    order: Order = lambda turn: range(len(PROMPTS))

    def altered(self, change: Change) -> Scene:
        """The same iterations with other rewards."""
        return replace(self, change=change)


def play(subject: Subject, scene: Scene) -> list[Scored]:
    """Plan and credit the scene's iterations with a fresh instance of the method."""
    method, played = subject.method(), []
    for turn, iteration in enumerate(scene.iterations):
        forest = plan_forest(method, SEED, iteration, subject.schedule)
        order = list(scene.order(turn))
        reward_LP = scene.change(turn, rewards(turn, forest))[:, order]
        # Every trained edge is equally likely, so that softmax weights are those of the plain mean.
        logp_NP = np.where(forest.trained_N, -1.0, 0.0)[:, None] * np.ones((1, len(PROMPTS)))
        prompts = tuple(PROMPTS[p] for p in order)
        credit = method.credit(Rollout(forest, {"r": reward_LP.copy()}, logp_NP, prompts=prompts))
        played.append(Scored(forest, reward_LP, credit))
    return played


def rewards(turn: int, forest: Forest) -> Floats:
    """(L, P): scales of 10 and 30, far above any `std_eps` of a paper; a reward of two values; a constant."""
    draw_LP = np.random.default_rng([SEED, turn]).standard_normal((forest.images, 3))
    constant_L = np.full(forest.images, 0.25)
    binary_L = 10.0 * (draw_LP[:, 2] > 0)
    return np.stack([10 * draw_LP[:, 0] + 3, 30 * draw_LP[:, 1] - 50, binary_L, constant_L], axis=1)


def judged(scored: Scored, prompt: int) -> Ints:
    """Nodes whose advantage trains something: trained edges that are kept, or a forward method's leaves."""
    node_E, keep_NP = scored.forest.judged_E, scored.credit.keep_NP
    return node_E if keep_NP is None or not scored.forest.trained_edges else node_E[keep_NP[node_E, prompt]]
