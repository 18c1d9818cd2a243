"""The behaviour policy of methods that roll out with, and compare against, older weights than those being trained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from grpo_bench.policies.base import Policy


class Behaviour:
    """old <- d old + (1 - d) current after each iteration (DiffusionNFT, section 3.3); d = 0 makes it the current one.

    Not `wanted`, it keeps nothing, and the policy that is trained draws the rollouts itself.
    """

    def __init__(self, policy: Policy, *, wanted: bool) -> None:
        self._policy = policy
        self._old = {name: weight.detach().clone() for name, weight in policy.parameters()} if wanted else {}

    def applied(self) -> AbstractContextManager[None]:
        """The policy carries the old weights inside, its own again after."""
        return self._policy.carrying(self._old) if self._old else nullcontext()

    @torch.no_grad()
    def advance(self, decay: float) -> None:
        """Call once, after the updates of an iteration."""
        for name, weight in self._policy.parameters():
            if self._old:
                self._old[name].lerp_(weight, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the old weights by name, none where they are not wanted."""
        return dict(self._old)

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, old in self._old.items():
            old.copy_(stored[name])
