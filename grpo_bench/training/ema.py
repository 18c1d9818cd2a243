"""An exponential moving average of the trained weights, used for evaluation where a recipe asks for one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from grpo_bench.policies.base import Policy


class Ema:
    """average <- d average + (1 - d) weights after every `every` updates, d = min((1 + n) / (10 + n), decay).

    The warm-up is Flow-GRPO's (flow_grpo/ema.py); n counts averagings. `decay = 0` switches the average off: it is then
    not kept, and evaluation sees the weights themselves.
    """

    def __init__(self, policy: Policy, decay: float, every: int) -> None:
        self._policy, self._decay, self._every = policy, decay, every
        self._updates = 0
        self._average = {name: weight.detach().clone() for name, weight in policy.parameters()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Call after every optimiser step."""
        self._updates += 1
        if not self._average or self._updates % self._every:
            return
        n = self._updates // self._every
        decay = min((1 + n) / (10 + n), self._decay)
        for name, weight in self._policy.parameters():
            self._average[name].lerp_(weight, 1 - decay)

    def applied(self) -> AbstractContextManager[None]:
        """The policy carries the average inside, its own weights again after."""
        return self._policy.carrying(self._average) if self._average else nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the average by weight name, and the count of updates."""
        return {**self._average, "updates": torch.tensor(self._updates)}

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self._updates = int(stored["updates"])
        for name, average in self._average.items():
            average.copy_(stored[name])
