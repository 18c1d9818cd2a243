"""TreeGRPO (arXiv 2512.08153, algorithm 1): one root, ODE before a window, b children a node inside it, ODE after.

Leaf z-scores are backed up from children to parents. The default backup is the released code's plain mean; the paper's
softmax of log-probs is uniform to 0.3% under mean reduction and one-hot under sum, and is kept as `softmax`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from grpo_bench import (
    Credit,
    Forest,
    Method,
    MethodConfig,
    Rollout,
    Schedule,
    UserError,
    back_up,
    branching,
    zscore,
)


class TreeConfig(MethodConfig):
    """Settings of TreeGRPO."""

    branching: int = Field(3, ge=2)
    """Children of every node inside the window; one child would leave nothing to compare."""
    window: int = Field(3, ge=1)
    """Steps that branch; a tree has branching ** window leaves."""
    window_law: Literal["geometric", "shift", "fixed"] = "geometric"
    """Start of the window: drawn with Pr[i] ~ ratio^i each iteration (paper), shifted every `tau` (code), or fixed."""
    ratio: float = Field(0.5, gt=0, lt=1)
    """Decay of the geometric law; small values favour the noisy, early steps."""
    tau: int = Field(50, ge=1)
    """Iterations between two shifts (`shift`)."""
    window_start: int | None = Field(None, ge=0)
    """First step of the window; giving it makes the law `fixed`."""
    roots: int = Field(1, ge=1)
    """Trees a prompt, each with its own initial noise."""
    backup: Literal["mean", "softmax"] = "mean"
    """Children weigh equally (released code), or by the softmax of their log-probs (paper)."""

    @model_validator(mode="before")
    @classmethod
    def _start_fixes_the_law(cls, table: dict[str, object]) -> dict[str, object]:
        if table.get("window_start") is not None:
            table = {"window_law": "fixed"} | table
        if table.get("window_law") == "fixed":
            table = {"window_start": 0} | table
        elif table.get("window_start") is not None:
            raise ValueError("window_start fixes the window, so window_law must be 'fixed' or left out")
        return table


class TreeGRPO(Method[TreeConfig]):
    """TreeGRPO: a shared ODE prefix, then a b-ary tree over a random window; credit backed up to the root."""

    name = "tree"
    paper = "2512.08153"
    Config = TreeConfig

    def plan(self, iteration: int, rng: np.random.Generator, schedule: Schedule) -> Forest:
        """A b-ary tree on the window of this iteration."""
        cfg, steps = self.config, schedule.steps
        # The last step is never stochastic, so windows start at 0 .. T - w - 1.
        starts = steps - cfg.window
        if starts < 1 or (cfg.window_start or 0) >= starts:
            raise UserError(
                f"method.window = {cfg.window} from step {cfg.window_start or 0} does not fit before the last of "
                f"{steps} steps; make the window shorter or raise sampling.steps"
            )
        start = self._start(iteration, rng, starts)
        stochastic_T = np.zeros(steps, dtype=bool)
        stochastic_T[start : start + cfg.window] = True
        splits = {start + i: cfg.branching for i in range(cfg.window)}
        return branching(schedule.sigmas, splits, stochastic_T, roots=cfg.roots)

    def credit(self, rollout: Rollout) -> Credit:
        """Leaf z-scores over the prompt's leaves, backed up to every edge."""
        cfg, credit = self.config, super().credit(rollout)
        if cfg.backup == "mean":
            return credit
        weight_NP = _sibling_softmax(rollout.forest, rollout.logp_NP)
        advantage_NP = rollout.combined(
            lambda reward_LP: back_up(
                rollout.forest, zscore(reward_LP, std=cfg.std, ddof=cfg.ddof, eps=cfg.std_eps), weight_NP
            )
        )
        # Weighted parents need not sum to zero, so no group is declared.
        return Credit(advantage_NP, np.full_like(credit.group_NP, -1))

    def start_law(self, starts: int) -> npt.NDArray[np.float64]:
        """Pr[i] of the geometric law for the starts 0 .. starts - 1, in proportion to ratio^i."""
        odds_I = self.config.ratio ** np.arange(starts)
        law_I: npt.NDArray[np.float64] = odds_I / odds_I.sum()
        return law_I

    def _start(self, iteration: int, rng: np.random.Generator, starts: int) -> int:
        cfg = self.config
        if cfg.window_start is not None:
            return cfg.window_start
        if cfg.window_law == "shift":
            return min(iteration // cfg.tau, starts - 1)
        return int(rng.choice(starts, p=self.start_law(starts)))


def _sibling_softmax(forest: Forest, logp_NP: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """exp(logp) normalised over the children of each node (N, P); an only child weighs 1."""
    weight_NP = np.ones_like(logp_NP)
    weight_NP[: forest.roots] = 0
    for parent in np.flatnonzero(forest.child_count_N > 1):
        first = forest.first_child_N[parent]
        child = slice(first, first + forest.child_count_N[parent])
        odds = np.exp(logp_NP[child] - logp_NP[child].max(axis=0))
        weight_NP[child] = odds / odds.sum(axis=0)
    return weight_NP
