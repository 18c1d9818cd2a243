"""A forest with the name of its method and what the method's credit keeps of it: what pictures and tables show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.invariants import Bools
from grpo_bench.metering.ledger import TRAIN_WEIGHT


@dataclass(frozen=True, eq=False)
class Sketch:
    """One prompt's forest; all costs are exact and per prompt, guidance not counted.

    `keep_N` says which trained edges keep their gradient after some example rewards; None: all of them. `frozen` is
    the number of evaluations without gradient beside each trained one (the reference policy's, an older policy's),
    `draws` that of the times each leaf is noised anew for training on the forward process.

    Raises:
        UserError: if `keep_N` is not one bool a node.
    """

    name: str
    forest: Forest
    keep_N: Bools | None = None
    frozen: int = 0
    draws: int = 0
    title: str = ""
    """What a picture writes over it, where that is not its method's name."""

    def __post_init__(self) -> None:
        if self.keep_N is not None and (
            self.keep_N.shape != self.forest.parent_N.shape or self.keep_N.dtype != np.bool_
        ):
            raise UserError(
                f"keep_N holds a bool a node, got {self.keep_N.dtype} of shape {self.keep_N.shape}: "
                f"give {self.forest.nodes}"
            )

    @property
    def kept_N(self) -> Bools:
        """Trained edges that keep their gradient."""
        return self.forest.trained_N if self.keep_N is None else self.forest.trained_N & self.keep_N

    @property
    def pruned_N(self) -> Bools:
        """Trained edges whose gradient is dropped after the rewards."""
        return self.forest.trained_N & ~self.kept_N

    @property
    def kept_edges(self) -> int:
        """Trained edges that are left after pruning."""
        return int(np.count_nonzero(self.kept_N))

    @property
    def train_nfe(self) -> int:
        """Training evaluations before pruning."""
        return self.forest.train_nfe + self.draws * self.forest.images

    @property
    def kept_train_nfe(self) -> int:
        """Training evaluations that are left after pruning."""
        return self.forest.kept_cost(self.kept_N[:, None])[0] + self.draws * self.forest.images

    @property
    def prunes(self) -> bool:
        """Whether the credit keeps less than the plan allows."""
        return bool(self.pruned_N.any())

    @property
    def reference_nfe(self) -> int:
        """Evaluations of frozen policies, before pruning."""
        return self.frozen * self.train_nfe

    @property
    def nfe(self) -> int:
        """The budget's axis, rollout + reference + 3 x train, before pruning (RULES.md, "Budgets")."""
        return self.forest.rollout_nfe + (self.frozen + TRAIN_WEIGHT) * self.train_nfe

    @property
    def kept_nfe(self) -> int:
        """The same after pruning."""
        return self.forest.rollout_nfe + (self.frozen + TRAIN_WEIGHT) * self.kept_train_nfe
