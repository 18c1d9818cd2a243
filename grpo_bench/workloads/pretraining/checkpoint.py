"""Where a training loop stands, on disk: a pretraining that is ended goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.optim import Optimizer

EVERY = 100
"""Steps between two checkpoints."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a file for each phase of a pretraining; None: nothing is kept."""

    folder: Path | None

    def of(self, phase: str, tensors: Sequence[Tensor], optimiser: Optimizer, generator: Generator) -> _Phase:
        """The checkpoint of one loop, which changes `tensors`, `optimiser` and `generator` and nothing else."""
        return _Phase(self.folder and self.folder / f"{phase}.pt", tensors, optimiser, generator)


@dataclass(frozen=True)
class _Phase:
    file: Path | None
    tensors: Sequence[Tensor]
    optimiser: Optimizer
    generator: Generator

    def steps(self, count: int) -> Iterator[int]:
        """The steps of `count` that are still to be made; the state is kept as they are."""
        done = self._restore()
        for step in range(done, count):
            yield step
            if (step + 1) % EVERY == 0 or step + 1 == count:
                self._save(step + 1)

    def _save(self, done: int) -> None:
        import torch

        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        state = {
            "done": done,
            "tensors": [tensor.detach() for tensor in self.tensors],
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
        }
        torch.save(state, partial)
        partial.replace(self.file)

    def _restore(self) -> int:
        import torch

        if self.file is None or not self.file.exists():
            return 0
        state = torch.load(self.file, weights_only=True)
        with torch.no_grad():
            for tensor, saved in zip(self.tensors, state["tensors"], strict=True):
                tensor.copy_(saved)
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        return int(state["done"])
