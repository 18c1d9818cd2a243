"""A copy of trained weights that can stand for them: a frozen reference, an average, older weights that sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightCopy:
    """Made equal to the weights; follows them only when it is told to.

    Args:
        weights: the trained weights by name, in a fixed order.
    """

    def __init__(self, weights: Sequence[tuple[str, Tensor]]) -> None:
        self._weights = list(weights)
        self._copy = {name: weight.detach().clone() for name, weight in self._weights}

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """copy <- decay copy + (1 - decay) weights; 0 makes it equal to them."""
        for name, weight in self._weights:
            self._copy[name].lerp_(weight, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model computes with the copy inside, with its own weights again after.

        The two are exchanged in place, one tensor at a time: a sharded module reads its own storage only, and no third
        set of weights is needed.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, weight in self._weights:
            own = weight.detach().clone()
            weight.copy_(self._copy[name])
            self._copy[name].copy_(own)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by the weights' names."""
        return dict(self._copy)

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave, or other values by the same names."""
        for name, copy in self._copy.items():
            copy.copy_(stored[name].detach())
