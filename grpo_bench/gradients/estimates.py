"""g_k: a method's ascent gradient, of an iteration's first update on all of its prompts, again and again at one policy.

Before the clip of its norm and before AdamW. The policy is never updated, so that the ratio is 1 throughout; every
iteration has its own prompts and noise. A method whose forest depends on the iteration (a sliding window) is asked for
an iteration drawn uniformly from those that its budget reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_bench.config import RunConfig
from grpo_bench.errors import Diverged
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats
from grpo_bench.forest.schedule import Schedule
from grpo_bench.gradients.streams import ESTIMATES
from grpo_bench.guard import calling
from grpo_bench.method import Method, MethodConfig
from grpo_bench.policies.base import Policy
from grpo_bench.sampling.noise import Purpose, generator
from grpo_bench.training.losses.edges import Batch, Diagnostics
from grpo_bench.training.planning import iteration_cost, planned
from grpo_bench.training.session import Session, iteration_prompts
from grpo_bench.workloads.gaussian.exact import exact_gradient
from grpo_bench.workloads.gaussian.policy import GaussianPolicy

MOST_ITERATIONS = 100_000
"""That a budget may reach; more are not planned."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """One iteration: its gradient (W,) fp32 on the CPU, its cost, and what it trained.

    share_T is each step's share of the trained edges (of the forward draws), weight_T the mean weight of their loss,
    0 where nothing is trained. `exact` (W,) is the method's own target, on the analytic workload.
    """

    gradient: Tensor
    nfe: int
    share_T: Floats
    weight_T: Floats
    exact: Tensor | None


def estimates(session: Session) -> Iterator[Estimate]:
    """Iterations in a row, without end; a method's own memory goes on from one to the next.

    Raises:
        Diverged: a gradient is not finite.
    """
    config, reach = session.config, reached(session.config, session.method, session.schedule)
    number = 0
    while True:
        stream = generator(config.seed, Purpose.PLAN, ESTIMATES + number)
        with calling(f"method {session.method.name!r}"):
            forest = session.method.plan(int(stream.integers(reach)), stream, session.schedule)
        index_P = iteration_prompts(config.seed, number, len(session.prompts), config.training.prompts)
        before = session.ledger.nfe
        made = session.roll_out(forest, index_P, ESTIMATES + number)
        batch = made.batch
        session.objective.accumulate(batch, np.arange(len(index_P)), Diagnostics.empty(forest.steps))
        gradient = _taken(session.policy)
        if not bool(torch.isfinite(gradient).all()):
            raise Diverged(f"the gradient of method {session.method.name!r} holds a NaN or Inf")
        share_T, weight_T = _trained(batch, len(index_P))
        exact = _exact(session, forest, [session.prompts[index] for index in index_P])
        yield Estimate(gradient, session.ledger.nfe - before, share_T, weight_T, exact)
        number += 1


def reached(config: RunConfig, method: Method[MethodConfig], schedule: Schedule) -> int:
    """How many iterations a run of the config begins before its counted budget is spent, pruning left out."""
    kind, spent, count = config.budget_kind, 0.0, 0
    while spent < config.budget_amount and count < MOST_ITERATIONS:
        spent += iteration_cost(planned(method, config.seed, count, schedule), config, method, schedule).amount(kind)
        count += 1
    return max(count, 1)


def _taken(policy: Policy) -> Tensor:
    """Minus the gradients that the loss left in the weights, which are cleared."""
    parts = []
    for _, weight in policy.parameters():
        grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        parts.append(-grad.detach().flatten())
        weight.grad = None
    return torch.cat(parts).float().cpu()


def _trained(batch: Batch, prompts: int) -> tuple[Floats, Floats]:
    """(share_T, weight_T) of a batch's kept edges, or of its forward draws, whose weight is 1."""
    steps = batch.forest.steps
    if batch.forward is not None:
        step_M = batch.forward.points(batch.forward.rows(np.arange(prompts)))
        weight_M = np.ones(len(step_M))
    else:
        edge_M, _ = np.nonzero(batch.keep_EP)
        step_M = batch.forest.start_N[batch.forest.trained_edges_E[edge_M]]
        weight_M = batch.weight_E[edge_M]
    count_T = np.bincount(step_M, minlength=steps).astype(np.float64)
    weight_T = np.bincount(step_M, weights=weight_M, minlength=steps)
    return count_T / max(count_T.sum(), 1.0), weight_T / np.maximum(count_T, 1.0)


def _exact(session: Session, forest: Forest, prompts: list[str]) -> Tensor | None:
    """Where the objective has a closed form: the direction of ascent that the forest's edges estimate."""
    if not isinstance(session.policy, GaussianPolicy):
        return None
    with calling(f"method {session.method.name!r}"):
        weight_N = session.method.weights(forest, session.schedule)
    exact = exact_gradient(forest, session.schedule, session.policy, prompts, weight_N)
    return torch.cat([exact[name].flatten() for name, _ in session.policy.parameters()])
