"""Plans of registered methods and their counts, for tests."""

from __future__ import annotations

import numpy as np
from tiny import method

from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Credit, Floats, Rollout
from grpo_bench.forest.schedule import Schedule
from grpo_bench.method import Method, MethodConfig
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.schedule import shifted_grid


def schedule(steps: int, *, train_last: bool = False) -> Schedule:
    """SD3.5's grid with the flow-sde kernel."""
    return make_schedule(shifted_grid(steps), "flow-sde", train_last=train_last)


SCHEDULE = schedule(10)


def plan(name: str, iteration: int = 0, seed: int = 0, on: Schedule = SCHEDULE, **settings: object) -> Forest:
    """A registered method's forest."""
    return method(name, **settings).plan(iteration, np.random.default_rng(seed), on)


def costs(forest: Forest) -> tuple[int, int, int, int]:
    """Rollout evaluations, training evaluations, trained edges, images."""
    return forest.rollout_nfe, forest.train_nfe, forest.trained_edges, forest.images


def trained_steps(forest: Forest) -> list[int]:
    """The steps that hold a trained edge."""
    return np.unique(forest.depth_N[forest.trained_edges_E] - 1).tolist()


def start_of(forest: Forest) -> int:
    """The first trained step."""
    return trained_steps(forest)[0]


def credited(chosen: Method[MethodConfig], forest: Forest, reward_LP: Floats, logp_NP: Floats | None = None) -> Credit:
    """Credit for one reward named r; log-probs are 0 by default."""
    logp_NP = np.zeros((forest.nodes, reward_LP.shape[1])) if logp_NP is None else logp_NP
    return chosen.credit(Rollout(forest, {"r": reward_LP}, logp_NP))


def kept(chosen: Method[MethodConfig], forest: Forest, prompts: int, seed: int = 0) -> Bools:
    """The trained edges (N, P) that are left after pruning by random rewards."""
    reward_LP = np.random.default_rng(seed).standard_normal((forest.images, prompts))
    keep_NP = credited(chosen, forest, reward_LP).keep_NP
    trained_NP = np.repeat(forest.trained_N[:, None], prompts, axis=1)
    return trained_NP if keep_NP is None else trained_NP & keep_NP
