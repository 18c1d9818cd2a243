"""The loop: plan, roll out, score, credit, update; evaluate at the grid's marks; stop at the budget.

The harness owns the clock, the counters, the evaluation grid and the budget; a method cannot touch them.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from grpo_bench.errors import Diverged
from grpo_bench.evaluation.evaluator import ByPrompt, Evaluation
from grpo_bench.forest.forest import Forest
from grpo_bench.guard import calling
from grpo_bench.metering.ledger import Counts, check
from grpo_bench.training.checkpoint import check_sound
from grpo_bench.training.experience import gather
from grpo_bench.training.objective import Batch, Diagnostics
from grpo_bench.training.planning import frozen_evaluations, iteration_cost, planned
from grpo_bench.training.session import Session, iteration_prompts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """One finished iteration, for display."""

    iteration: int
    spent: float
    budget: float
    reward: float
    nfe: int
    seconds: float


class Observer(Protocol):
    """What watches a run: a terminal, a log, a sweep. It cannot change the run, only ask it to stop."""

    def started(self, run: str, folder: Path) -> None:
        """Once, when the run's folder is locked and before anything is loaded."""

    def iteration(self, progress: Progress) -> None:
        """After each iteration."""

    def evaluated(self, row: dict[str, float], evaluation: Evaluation) -> None:
        """After each evaluation, with the point that was stored."""

    def should_stop(self) -> bool:
        """Asked between iterations: end cleanly, to be resumed later."""


class Recorder(Protocol):
    """Where points and checkpoints go."""

    def point(self, row: dict[str, float], evaluation: Evaluation) -> None:
        """Store one evaluation."""

    def by_prompt(self, iteration: int, noise: int, scores: ByPrompt) -> None:
        """Store what each prompt of a stored point scored under another evaluation noise."""

    def checkpoint(self, session: Session) -> None:
        """Store what a resume needs."""


class Trainer:
    """Runs one session to its budget."""

    def __init__(self, session: Session, recorder: Recorder, observer: Observer) -> None:
        self.session, self._recorder, self._observer = session, recorder, observer
        self._ledger, self._config = session.ledger, session.config
        self._all_noises_at = -1

    def run(self) -> bool:
        """Train to the first iteration at or past the budget; False when the observer asked to stop before that.

        Raises:
            Diverged: a NaN or Inf in the policy, a reward or a gradient; the last good checkpoint stays.
        """
        if self._ledger.iterations == 0:
            self._evaluate_all_noises()
        while self._ledger.amount(self._config.budget_kind) < self._config.budget_amount:
            with self._ledger.phase("plan"):
                forest = planned(self.session.method, self._config.seed, self._ledger.iterations, self.session.schedule)
            if self._observer.should_stop():
                self._save()
                return False
            if not self._fits(forest):
                self._evaluate_all_noises()
            self._iterate(forest)
            due = self._due()
            if due:
                self._evaluate()
            elif self._ledger.iterations % self._config.training.checkpoint_every == 0:
                self._save()
        self._evaluate_all_noises()
        return True

    def _fits(self, forest: Forest) -> bool:
        """Whether the budget has room for all that the forest may cost; what seconds it takes nobody knows before."""
        kind, budget = self._config.budget_kind, self._config.budget_amount
        if kind == "seconds":
            return True
        spent = self._ledger.amount(kind)
        return spent + iteration_cost(forest, self._config, self.session.method).amount(kind) <= budget

    def _due(self) -> bool:
        """Whether the last iteration passed a mark of the evaluation grid."""
        every = self._config.evaluation_every
        return every > 0 and self._ledger.nfe // every > self.session.evaluated_nfe // every

    def _iterate(self, forest: Forest) -> None:
        session, before, started = self.session, self._ledger.counts(), self._ledger.seconds
        spent_before = self._ledger.nfe
        index_P = iteration_prompts(
            self._config.seed, self._ledger.iterations, len(session.prompts), self._config.training.prompts
        )
        batch, rollout = gather(session, forest, index_P, self._ledger.iterations)
        with self._ledger.phase("train"):
            diagnostics = self._update(batch)
            with calling(f"method {session.method.name!r}"):
                decay = session.method.behaviour_decay(self._ledger.iterations)
            session.behaviour.advance(decay)
        self._check_cost(forest, batch, self._ledger.counts() - before)
        self._ledger.count("iterations")
        reward = float(np.mean(sum(w * rollout.rewards[name] for name, w in self._config.reward.weights.items())))
        self._report(reward, diagnostics, spent_before, started)

    def _update(self, batch: Batch) -> Diagnostics:
        """The iteration's optimiser steps, split over its prompts."""
        session, training = self.session, self._config.training
        diagnostics = Diagnostics.empty(batch.schedule.steps)
        weights = [weight for _, weight in session.policy.parameters()]
        for prompts in np.array_split(np.arange(batch.keep_EP.shape[1]), training.updates):
            loss, terms = session.objective.accumulate(batch, prompts, diagnostics)
            if not terms:
                continue
            norm = float(torch.nn.utils.clip_grad_norm_(weights, training.max_grad_norm))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise Diverged(
                    f"the loss was {loss:g} and the gradient norm {norm:g} in iteration {self._ledger.iterations}"
                )
            session.optimiser.step()
            session.optimiser.zero_grad(set_to_none=True)
            session.ema.update()
            self._ledger.count("updates")
            self._ledger.count("trained_edges", 0 if batch.forward else terms)
            diagnostics.norms.append(norm)
        session.credit_log.updated(diagnostics.edges_T, diagnostics.clipped_T)
        return diagnostics

    def _check_cost(self, forest: Forest, batch: Batch, counted: Counts) -> None:
        """The forest's exact cost, narrowed by what the method kept, must be what the ledger counted."""
        prompts = batch.keep_EP.shape[1]
        keep_NP = np.zeros((forest.nodes, prompts), dtype=bool)
        keep_NP[forest.trained_edges_E] = batch.keep_EP
        train_nfe, edges = forest.kept_cost(keep_NP)
        cost = self.session.handle.cost
        reference = train_nfe * cost * frozen_evaluations(forest, self._config.objective.beta, self.session.method)
        declared = Counts(
            forest.rollout_nfe * prompts * cost, train_nfe * cost, reference, edges, forest.images * prompts
        )
        check(declared, counted)

    def _report(self, reward: float, diagnostics: Diagnostics, nfe: int, seconds: float) -> None:
        log.info("iteration %d: reward %.4f, %s", self._ledger.iterations, reward, diagnostics.describe())
        self._observer.iteration(
            Progress(
                iteration=self._ledger.iterations,
                spent=float(self._ledger.amount(self._config.budget_kind)),
                budget=self._config.budget_amount,
                reward=reward,
                nfe=self._ledger.nfe - nfe,
                seconds=self._ledger.seconds - seconds,
            )
        )

    def _evaluate(self) -> None:
        with self._ledger.phase("eval"), self.session.ema.applied():
            evaluation = self.session.evaluator.evaluate()
        self.session.evaluated_nfe = self._ledger.nfe
        row = self._ledger.row() | evaluation.columns | self.session.credit_log.columns()
        self.session.credit_log.clear()
        with self._ledger.phase("io"):
            self._recorder.point(row, evaluation)
        log.info("point at %d nfe: proxy %.4f, gold %.4f", self._ledger.nfe, row["proxy"], row["gold"])
        self._observer.evaluated(row, evaluation)
        self._save()

    def _evaluate_all_noises(self) -> None:
        """A point here, unless there is one, and what its prompts score under every noise, once.

        So it is at the base, and at the two points between which the budget is read.
        """
        if self._all_noises_at == self._ledger.iterations:
            return
        self._all_noises_at = self._ledger.iterations
        if self.session.evaluated_nfe != self._ledger.nfe:
            self._evaluate()
        for noise in range(1, self._config.evaluation.noises):
            with self._ledger.phase("eval"), self.session.ema.applied():
                scores = self.session.evaluator.by_prompt(noise)
            with self._ledger.phase("io"):
                self._recorder.by_prompt(self._ledger.iterations, noise, scores)

    def _save(self) -> None:
        """A checkpoint, of a sound policy only: any other would take the place of the last good one."""
        with self._ledger.phase("io"):
            check_sound(self.session)
            self._recorder.checkpoint(self.session)
