"""The loop: plan, roll out, score, credit, update; evaluate at the grid's marks; stop at the budget.

The harness owns the clock, the counters, the evaluation grid and the budget; a method cannot touch them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from grpo_bench.evaluation.evaluator import ByPrompt, Evaluation
from grpo_bench.forest.forest import Forest
from grpo_bench.training.checkpoint import check_sound
from grpo_bench.training.iteration import check_cost, updates
from grpo_bench.training.losses.edges import Diagnostics
from grpo_bench.training.planning import iteration_cost, planned
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


class Nobody:
    """Watches nothing and records nothing: the ranks that do neither, and whoever wants the result alone."""

    def started(self, run: str, folder: Path) -> None:
        """Nothing to do."""

    def iteration(self, progress: Progress) -> None:
        """Nothing to do."""

    def evaluated(self, row: dict[str, float], evaluation: Evaluation) -> None:
        """Nothing to do."""

    def should_stop(self) -> bool:
        """Never of its own."""
        return False

    def point(self, row: dict[str, float], evaluation: Evaluation) -> None:
        """Nothing to do."""

    def by_prompt(self, iteration: int, noise: int, scores: ByPrompt) -> None:
        """Nothing to do."""

    def checkpoint(self, session: Session) -> None:
        """Nothing to do."""


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
            if self.session.ranks.any(self._observer.should_stop()):
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
        evaluations_T = self.session.handle.evaluations(self.session.schedule.sigmas[:-1])
        cost = iteration_cost(forest, self._config, self.session.method, self.session.schedule, evaluations_T)
        return spent + cost.amount(kind) <= budget

    def _due(self) -> bool:
        """Whether the last iteration passed a mark of the evaluation grid."""
        every = self._config.evaluation_every
        return every > 0 and self._ledger.nfe // every > self.session.evaluated_nfe // every

    def _iterate(self, forest: Forest) -> None:
        session, ledger, training = self.session, self._ledger, self._config.training
        before, state, nfe, seconds = ledger.counts(), ledger.state_dict(), ledger.nfe, ledger.seconds
        index_P = iteration_prompts(self._config.seed, ledger.iterations, len(session.prompts), training.prompts)
        made = session.roll_out(forest, index_P, ledger.iterations)
        with ledger.phase("train"):
            diagnostics = updates(session, made.batch, session.optimiser, session.ema, training)
        session.credit_log.updated(diagnostics.edges_T, diagnostics.clipped_T)
        check_cost(session, made.batch, ledger.counts() - before)
        ledger.count("iterations")
        ledger.merge(state, session.ranks)
        scores, weights = made.rollout.rewards, self._config.reward.weights
        reward = float(np.mean(sum(weight * scores[name] for name, weight in weights.items())))
        self._report(reward, diagnostics, nfe, seconds)

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
        state = self._ledger.state_dict()
        with self._ledger.phase("eval"), self.session.ema.applied():
            evaluation = self.session.evaluator.evaluate()
        self._ledger.merge(state, self.session.ranks)
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
            state = self._ledger.state_dict()
            with self._ledger.phase("eval"), self.session.ema.applied():
                scores = self.session.evaluator.by_prompt(noise)
            self._ledger.merge(state, self.session.ranks)
            with self._ledger.phase("io"):
                self._recorder.by_prompt(self._ledger.iterations, noise, scores)

    def _save(self) -> None:
        """A checkpoint, of a sound policy only: any other would take the place of the last good one."""
        with self._ledger.phase("io"):
            check_sound(self.session)
            self._recorder.checkpoint(self.session)
