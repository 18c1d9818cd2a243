"""One iteration: grow, decode and judge, credit, batch, update. The loop makes it, and so do `check` and `diagnose`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from grpo_bench.config import TrainingSection
from grpo_bench.errors import Diverged, UserError
from grpo_bench.evaluation.scoring import Rewards, Scoring
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Credit, Floats, Ints, Rollout
from grpo_bench.forest.schedule import Schedule
from grpo_bench.guard import calling
from grpo_bench.metering.ledger import Counts, Ledger, check
from grpo_bench.method import BEHAVIOUR, CURRENT, Draws, ForwardMethod, Method, MethodConfig
from grpo_bench.policies.base import Policy
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Conditioning, Metered
from grpo_bench.sampling.noise import Noise
from grpo_bench.training.averages import Averages, Ema
from grpo_bench.training.credit_log import CreditLog
from grpo_bench.training.losses.edges import Batch, Diagnostics, Objective
from grpo_bench.training.losses.forward import ForwardObjective
from grpo_bench.training.planning import declared, draws_of
from grpo_bench.training.ranks import ALONE, Ranks
from grpo_bench.training.slope import slopes

Judge = Callable[[Tensor, Sequence[str]], Mapping[str, Floats]]
"""Each reward's scores (L, P) of leaves (L, P, Z) for P prompts."""


@dataclass(kw_only=True)
class Learner:
    """The live parts that an iteration works with; everything it spends is charged to `ledger`, phase by phase."""

    method: Method[MethodConfig]
    policy: Policy
    schedule: Schedule
    handle: Metered
    likelihood: Likelihood
    averages: Averages
    ledger: Ledger
    seed: int
    clip: float
    """Half-width of the ratio's clip, before the method's own `clip_scale`."""
    advantage_clip: float
    beta: float
    """Weight of the KL to the reference policy."""
    train_batch: int
    reward_weights: Mapping[str, float] = field(default_factory=dict)
    combine: Literal["zscore", "raw"] = "zscore"
    credit_log: CreditLog | None = None
    ranks: Ranks = ALONE

    @cached_property
    def draws(self) -> Draws | None:
        """A forward method's."""
        return draws_of(self.method, self.schedule)

    @cached_property
    def objective(self) -> Objective | ForwardObjective:
        """What turns a batch into gradients."""
        if isinstance(self.method, ForwardMethod):
            return ForwardObjective(
                self.method, self.handle, self.averages, clip=self.clip, train_batch=self.train_batch
            )
        return Objective(
            self.method, self.handle, self.likelihood, clip=self.clip, beta=self.beta, train_batch=self.train_batch
        )


def kept_averages(policy: Policy, method: Method[MethodConfig]) -> Averages:
    """The averages that a method asks for, and where it needs the policy that drew the images, a copy of that."""
    apart = BEHAVIOUR in method.needs and method.samples_with == CURRENT
    return Averages(policy, [*method.averages, *([BEHAVIOUR] if apart else [])])


@dataclass(frozen=True)
class Experience:
    """An iteration up to its updates. The forest, rollout and credit are of all prompts, the rest of this rank's."""

    forest: Forest
    grown: Trajectories
    rollout: Rollout
    credit: Credit
    weight_N: Floats | None
    batch: Batch


def experience(
    learner: Learner,
    forest: Forest,
    prompts: Sequence[str],
    encode: Callable[[Ints], Conditioning],
    judge: Judge,
    number: int,
) -> Experience:
    """Roll the forest out for every prompt, judge its leaves, and hand out the method's credit.

    Args:
        learner: whose policy samples, or the average that its method samples with.
        forest: what is rolled out for each prompt.
        prompts: those of all ranks.
        encode: features of the prompts at some places of that list.
        judge: scores the leaves.
        number: the iteration's, which names the noise.

    Raises:
        Diverged: a NaN or Inf in a latent, a reward or the credit.
        UserError: the method's credit is not what it should be.
    """
    place_P = learner.ranks.share(np.arange(len(prompts)))
    ledger, method = learner.ledger, learner.method
    with learner.ranks.together():
        with ledger.phase("setup"):  # encoding is no part of what methods differ in
            conditioning = encode(place_P)
        with ledger.phase("rollout"):
            noise = Noise(learner.seed, number, prompts, learner.policy.latent_shape, place_P)
            with learner.averages.applied(method.samples_with):
                grown = grow(
                    forest,
                    learner.schedule,
                    learner.handle,
                    conditioning,
                    noise,
                    likelihood=learner.likelihood,
                    old_mean="old_mean" in method.needs,
                )
        if not bool(torch.isfinite(grown.leaf_LPZ).all()):
            raise Diverged(f"the policy gave a NaN or Inf in the rollout of iteration {ledger.iterations}")
        scores = judge(grown.leaf_LPZ, [prompts[place] for place in place_P])
    rollout = _rollout(learner, forest, grown, scores, place_P, prompts)
    with ledger.phase("credit"):
        credit, weight_N = _credit(learner, forest, rollout)
        batch = Batch.credited(
            forest,
            learner.schedule,
            grown,
            conditioning,
            credit,
            weight_N,
            noise,
            advantage_clip=learner.advantage_clip,
            draws=learner.draws,
            place_P=place_P,
        )
    return Experience(forest, grown, rollout, credit, weight_N, batch)


def decoded_and_judged(
    policy: Policy, rewards: Rewards, ledger: Ledger, leaf_LPZ: Tensor, prompts: Sequence[str], *, decode_batch: int
) -> Mapping[str, Floats]:
    """Decode the leaves and score their images by every reward, chunk by chunk, so that few images are held at once."""
    leaves = len(leaf_LPZ)
    scoring = Scoring(rewards, list(prompts) * leaves)
    for chunk_BZ in leaf_LPZ.flatten(0, 1).split(decode_batch):
        with ledger.phase("decode"):
            media_B = policy.media_of(chunk_BZ)
            ledger.count("decodes", len(media_B))
            ledger.count("images", len(media_B))
        with ledger.phase("reward"):
            scoring.add(media_B)
    with ledger.phase("reward"):
        scores = {name: score_B.reshape(leaves, len(prompts)) for name, score_B in scoring.done().items()}
        for name, score_LP in scores.items():
            ledger.count_reward(name, score_LP.size)
    return scores


def _rollout(
    learner: Learner,
    forest: Forest,
    grown: Trajectories,
    scores: Mapping[str, Floats],
    place_P: Ints,
    prompts: Sequence[str],
) -> Rollout:
    """What the method's credit sees: every rank's prompts."""
    logp_NP = np.zeros((forest.nodes, len(place_P)))
    logp_NP[forest.trained_edges_E] = grown.logp_EP.cpu().numpy()
    ranks, count = learner.ranks, len(prompts)
    return Rollout(
        forest,
        {name: ranks.columns(score_LP, place_P, count) for name, score_LP in scores.items()},
        ranks.columns(logp_NP, place_P, count),
        learner.reward_weights,
        learner.combine,
        tuple(prompts),
    )


def _credit(learner: Learner, forest: Forest, rollout: Rollout) -> tuple[Credit, Floats | None]:
    method, schedule = learner.method, learner.schedule
    with calling(f"method {method.name!r}"):
        credit = method.credit(rollout)
        weight_N = method.weights(forest, schedule)
    _check_credit(credit, forest, rollout.logp_NP.shape[1])
    if learner.credit_log is not None:
        clip, advantage_clip = learner.objective.clip, learner.advantage_clip
        slope_NP = slopes(method, forest, schedule, credit, weight_N, clip=clip, advantage_clip=advantage_clip)
        learner.credit_log.see(rollout, credit, slope_NP)
    return credit, weight_N


def _check_credit(credit: object, forest: Forest, prompts: int) -> None:
    if not isinstance(credit, Credit):
        raise UserError(f"the method's credit is {type(credit).__name__}; return a Credit")
    if credit.advantage_NP.shape != (forest.nodes, prompts):
        raise UserError(
            f"the method's credit has the shape {credit.advantage_NP.shape}, but {forest.nodes} nodes and {prompts} "
            f"prompts need {(forest.nodes, prompts)}"
        )
    if not np.isfinite(credit.advantage_NP).all():
        raise Diverged("the method's credit holds a NaN or Inf")


def updates(
    learner: Learner, batch: Batch, optimiser: torch.optim.Optimizer, ema: Ema, training: TrainingSection
) -> Diagnostics:
    """The iteration's optimiser steps, split over its prompts; then the method's averages follow.

    Raises:
        Diverged: a loss or a gradient is not finite.
    """
    ledger, ranks = learner.ledger, learner.ranks
    if BEHAVIOUR in learner.averages:
        learner.averages.follow({BEHAVIOUR: 0.0})
    diagnostics = Diagnostics.empty(batch.schedule.steps)
    weights = [weight for _, weight in learner.policy.parameters()]
    for prompts in np.array_split(np.arange(batch.prompts), training.updates):
        if not batch.terms(prompts):
            continue
        with ranks.together():
            loss, edges = learner.objective.accumulate(batch, prompts, diagnostics)
        loss = ranks.total(loss)
        ranks.add_gradients(weights)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, training.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"the loss was {loss:g} and the gradient norm {norm:g} in iteration {ledger.iterations}")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ema.update()
        ledger.count("updates")
        ledger.count("trained_edges", 0 if batch.forward else edges)
        diagnostics.norms.append(norm)
    with calling(f"method {learner.method.name!r}"):
        decays = {name: decay(ledger.iterations) for name, decay in learner.method.averages.items()}
    learner.averages.follow(decays)
    return diagnostics.of_all(ranks)


def check_cost(learner: Learner, batch: Batch, counted: Counts) -> None:
    """The forest's exact cost, narrowed by what the method kept, must be what this rank's ledger counted.

    Raises:
        LedgerMismatch: it is not.
    """
    keep_NP = np.zeros((batch.forest.nodes, batch.keep_EP.shape[1]), dtype=bool)
    keep_NP[batch.forest.trained_edges_E] = batch.keep_EP
    handle, forward_nfe = learner.handle, 0
    if batch.forward is not None:
        row_R3 = batch.forward.rows(np.arange(keep_NP.shape[1]))
        forward_nfe = int(handle.evaluations(batch.forward.times(row_R3)).sum())
    cost = declared(
        batch.forest,
        learner.method,
        keep_NP,
        evaluations_T=handle.evaluations(batch.schedule.sigmas[:-1]),
        beta=learner.beta,
        forward_nfe=forward_nfe,
    )
    check(cost, counted)
