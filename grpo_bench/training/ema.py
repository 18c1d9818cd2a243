"""An exponential moving average of the trained weights, used for evaluation where a recipe asks for one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from grpo_bench.config import TrainingSection
from grpo_bench.policies.base import Policy


class Ema:
    """average <- d average + (1 - d) weights, as `training.ema_decay`, `ema_every`, `ema_warmup` and `ema_repeats` say.

    n counts optimiser steps. Warm-up "none" (DanceGRPO's FSDP_EMA): d = decay at every n that `every` divides.
    "flow-grpo" (flow_grpo/ema.py): d = min((1 + n) / (10 + n), decay) where `every` divides n + 1. That code averages
    once a micro-batch, so that several averagings see the same weights: d^repeats at once.
    `ema_decay = 0` switches the average off: it is then not kept, and evaluation sees the weights themselves.
    """

    def __init__(self, policy: Policy, training: TrainingSection) -> None:
        self._policy, self._training = policy, training
        self._updates = 0
        self._average = {name: w.detach().clone() for name, w in policy.parameters()} if training.ema_decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Call after every optimiser step."""
        self._updates += 1
        warm, n = self._training.ema_warmup == "flow-grpo", self._updates
        if not self._average or (n + warm) % self._training.ema_every:
            return
        most = self._training.ema_decay
        decay = min((1 + n) / (10 + n), most) if warm else most
        for name, weight in self._policy.parameters():
            self._average[name].lerp_(weight, 1 - decay**self._training.ema_repeats)

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
