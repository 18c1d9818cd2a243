"""The processes of one run: what each does of it, and how they agree. A run by one process is the plain case.

Whole prompts belong to ranks, round robin, so that no forest crosses one. What all ranks must know (rewards, counts,
gradients) is summed over tables in which every rank has filled in its own part, which is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from grpo_bench.errors import Diverged, UserError
from grpo_bench.forest.rollout import Ints

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Ranks:
    """This process's place among the `world` processes of the run."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes the run's folder and talks to people."""
        return self.rank == 0

    def share(self, index: Ints) -> Ints:
        """This rank's of some places: every `world`th."""
        return index[self.rank :: self.world]

    def check(self, prompts: int, updates: int, evaluated: int) -> None:
        """Every update's prompts divide by the ranks, so that all of them take part in it alike, and in evaluation too.

        Raises:
            UserError: they do not, or fewer prompts are evaluated than there are ranks.
        """
        if self.world == 1:
            return
        if prompts % (updates * self.world):
            raise UserError(
                f"{self.world} ranks share each update's prompts, and training.prompts = {prompts} in "
                f"training.updates = {updates} do not divide by them; make it a multiple of {updates * self.world}"
            )
        if evaluated < self.world:
            raise UserError(
                f"{self.world} ranks share the evaluated prompts, and there are {evaluated}; raise evaluation.prompts, "
                "hold out more, or start fewer ranks"
            )

    def rows(self, own: NDArray[Number], place: Ints, size: int) -> NDArray[Number]:
        """The table (size, ...) of all ranks' rows: `own` are this one's, and `place` says where they stand."""
        if self.world == 1:
            return own
        whole = np.zeros((size, *own.shape[1:]), dtype=own.dtype)
        whole[place] = own
        return self._reduced(whole, "SUM")

    def columns(self, own: NDArray[Number], place: Ints, size: int) -> NDArray[Number]:
        """The same by columns (rows, size)."""
        if self.world == 1:
            return own
        whole = np.zeros((len(own), size), dtype=own.dtype)
        whole[:, place] = own
        return self._reduced(whole, "SUM")

    def sum(self, counts: Sequence[int]) -> list[int]:
        """Whole numbers, each summed over the ranks."""
        return [int(value) for value in self._reduced(np.array(counts, dtype=np.int64), "SUM")]

    def most(self, values: Sequence[float]) -> list[float]:
        """The largest of each number over the ranks."""
        return [float(value) for value in self._reduced(np.array(values, dtype=np.float64), "MAX")]

    def total(self, value: float) -> float:
        """A number summed over the ranks."""
        return float(self._reduced(np.array([value], dtype=np.float64), "SUM")[0])

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return flag if self.world == 1 else bool(self.sum([int(flag)])[0])

    def add_gradients(self, weights: Sequence[Tensor]) -> None:
        """Sum the gradients over the ranks; zero stands for a rank's that did not use a weight.

        A weight that no rank used has none, so that the optimiser leaves it alone, as in one process.
        """
        if self.world == 1:
            return
        import torch
        import torch.distributed as dist

        used = self.sum([int(weight.grad is not None) for weight in weights])
        for weight in (weight for weight, ranks in zip(weights, used, strict=True) if ranks):
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            dist.all_reduce(weight.grad)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block at whose end every rank knows whether all have come through, so that none waits for one that has not.

        Raises:
            Diverged: it has failed on another rank, which says why.
        """
        try:
            yield
        except BaseException:
            self.any(True)
            raise
        if self.any(False):
            raise Diverged("another rank of this run failed")

    def _reduced(self, values: NDArray[Number], how: str) -> NDArray[Number]:
        if self.world > 1:
            import torch
            import torch.distributed as dist

            dist.all_reduce(torch.from_numpy(values), getattr(dist.ReduceOp, how))
        return values


ALONE = Ranks()
PATIENCE = timedelta(minutes=5)
"""How long a rank waits for the others."""


def joined() -> Ranks:
    """This process's place in the group that torchrun started it for; alone where it did not."""
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return ALONE
    if not dist.is_initialized():
        # A rank that dies is noticed by the others within minutes, not after torch's half hour.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size())
