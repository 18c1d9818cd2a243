"""Averages of the trained weights: a recipe's, with which it is evaluated, and those that a method asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from grpo_bench.config import TrainingSection
from grpo_bench.method import CURRENT
from grpo_bench.policies.base import Policy
from grpo_bench.policies.copies import WeightCopy


class Averages:
    """A method's: each is `copy <- d copy + (1 - d) weights` once an iteration, with a decay of its own."""

    def __init__(self, policy: Policy, names: Iterable[str] = ()) -> None:
        self._copies = {name: WeightCopy(policy.parameters()) for name in names}

    def follow(self, decays: Mapping[str, float]) -> None:
        """Move those named towards the weights; a decay of 0 makes them equal."""
        for name, decay in decays.items():
            self._copies[name].follow(decay)

    def __contains__(self, name: str) -> bool:
        return name in self._copies

    def applied(self, name: str) -> AbstractContextManager[None]:
        """The policy carries this average inside, its own weights again after; `CURRENT` are those."""
        return nullcontext() if name == CURRENT else self._copies[name].applied()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by `NAME/WEIGHT`."""
        return {f"{name}/{key}": value for name, copy in self._copies.items() for key, value in copy.tensors().items()}

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, copy in self._copies.items():
            prefix = f"{name}/"
            copy.load({key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)})

    def restart(self) -> None:
        """Make all of them equal to the weights."""
        self.follow(dict.fromkeys(self._copies, 0.0))


class Ema:
    """average <- d average + (1 - d) weights, as `training.ema_decay`, `ema_every`, `ema_warmup` and `ema_repeats` say.

    n counts optimiser steps. Warm-up "none" (DanceGRPO's FSDP_EMA): d = decay at every n that `every` divides.
    "flow-grpo" (flow_grpo/ema.py): d = min((1 + n) / (10 + n), decay) where `every` divides n + 1. That code averages
    once a micro-batch, so that several averagings see the same weights: d^repeats at once.
    `ema_decay = 0` switches the average off: it is then not kept, and evaluation sees the weights themselves.
    """

    def __init__(self, policy: Policy, training: TrainingSection) -> None:
        self._training, self._updates = training, 0
        self._average = WeightCopy(policy.parameters()) if training.ema_decay else None

    def update(self) -> None:
        """Call after every optimiser step."""
        self._updates += 1
        warm, n = self._training.ema_warmup == "flow-grpo", self._updates
        if self._average is None or (n + warm) % self._training.ema_every:
            return
        most = self._training.ema_decay
        decay = min((1 + n) / (10 + n), most) if warm else most
        self._average.follow(decay**self._training.ema_repeats)

    def applied(self) -> AbstractContextManager[None]:
        """The policy carries the average inside, its own weights again after."""
        return self._average.applied() if self._average else nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the average by weight name, and the count of updates."""
        return {**(self._average.tensors() if self._average else {}), "updates": torch.tensor(self._updates)}

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self._updates = int(stored["updates"])
        if self._average:
            self._average.load(stored)
