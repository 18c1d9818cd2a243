"""The metered handle: the only way the engine reaches a network, so that no evaluation goes uncounted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from grpo_bench.forest.rollout import Ints
from grpo_bench.metering.ledger import Ledger, Role


@dataclass(frozen=True)
class Regime:
    """What serves the states of some noise levels; a batch holds states of one regime."""

    network: str
    """The policy's network that is evaluated."""
    guidance: float = 1.0
    """Weight of the text against the empty prompt; 1 is the text's prediction alone."""
    evaluations: int = 1
    """Network evaluations of one prediction."""


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts: named tensors with one row a prompt, and the same tensors for the empty prompt (one row)."""

    tensors: Mapping[str, Tensor]
    empty: Mapping[str, Tensor]

    def select(self, index_B: Tensor) -> Conditioning:
        """The rows of the prompts in `index_B`, int64."""
        return Conditioning({name: value[index_B] for name, value in self.tensors.items()}, self.empty)

    def to(self, device: torch.device) -> Conditioning:
        """The same rows on `device`."""
        return Conditioning(
            {name: value.to(device) for name, value in self.tensors.items()},
            {name: value.to(device) for name, value in self.empty.items()},
        )

    def with_empty(self) -> Mapping[str, Tensor]:
        """The empty prompt's rows stacked before the prompts', for a guided evaluation (2 B rows)."""
        return {name: torch.cat([self.empty[name].expand_as(value), value]) for name, value in self.tensors.items()}


class Denoiser(Protocol):
    """What the engine needs of a policy."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The axes of a latent, Z: channels, height and width; for clips channels, frames, height and width."""

    @property
    def device(self) -> torch.device:
        """Where latents live."""

    def regime(self, sigma: float, guidance: float) -> Regime:
        """What serves the states at a noise level, in a run with this guidance."""

    def predict(self, x_BZ: Tensor, sigma_B: Tensor, conditioning: Conditioning, regime: Regime) -> Tensor:
        """The velocity (B, Z), fp32, of states that this regime serves."""

    def reference(self) -> AbstractContextManager[None]:
        """A context in which `predict` is the reference policy."""


class Metered:
    """A denoiser and the ledger that every evaluation of it is charged to."""

    def __init__(self, denoiser: Denoiser, ledger: Ledger, *, guidance: float, batch: int) -> None:
        self._denoiser, self._ledger = denoiser, ledger
        self.guidance, self.batch = guidance, batch
        self.latent_shape, self.device = denoiser.latent_shape, denoiser.device

    def regimes(self, sigmas: Iterable[float]) -> list[Regime]:
        """What serves the states at each of these noise levels."""
        return [self._denoiser.regime(float(sigma), self.guidance) for sigma in sigmas]

    def served(self, sigmas: Sequence[float]) -> dict[Regime, float]:
        """Each regime that occurs at these noise levels, and the last level that it serves."""
        return dict(zip(self.regimes(sigmas), map(float, sigmas), strict=True))

    def evaluations(self, sigmas: Iterable[float]) -> Ints:
        """Network evaluations of one prediction at each of these noise levels."""
        return np.array([regime.evaluations for regime in self.regimes(sigmas)], dtype=np.int64)

    def predict(self, x_BZ: Tensor, sigma_B: Tensor, conditioning: Conditioning, role: Role, regime: Regime) -> Tensor:
        """The batch's prediction, all of whose states this regime serves; its evaluations are charged to `role`."""
        self._ledger.charge(role, len(x_BZ) * regime.evaluations)
        return self._denoiser.predict(x_BZ, sigma_B, conditioning, regime)

    def predict_all(
        self, x_BZ: Tensor, sigma: float, conditioning: Conditioning, index_B: Tensor, role: Role
    ) -> Tensor:
        """Many evaluations at one sigma without gradient, cut into micro-batches; `index_B` is each row's prompt."""
        out_BZ = torch.empty_like(x_BZ)
        (regime,) = self.regimes([sigma])
        with torch.no_grad():
            for start in range(0, len(x_BZ), self.batch):
                rows = slice(start, start + self.batch)
                sigma_B = torch.full((len(x_BZ[rows]),), sigma, device=self.device)
                out_BZ[rows] = self.predict(x_BZ[rows], sigma_B, conditioning.select(index_B[rows]), role, regime)
        return out_BZ

    def predict_reference(self, x_BZ: Tensor, sigma_B: Tensor, conditioning: Conditioning, regime: Regime) -> Tensor:
        """The reference policy's velocity, without gradient, charged to `reference`."""
        return self.predict_frozen(x_BZ, sigma_B, conditioning, regime, self._denoiser.reference())

    def predict_frozen(
        self,
        x_BZ: Tensor,
        sigma_B: Tensor,
        conditioning: Conditioning,
        regime: Regime,
        weights: AbstractContextManager[None],
    ) -> Tensor:
        """The velocity under the weights that the context puts in place, without gradient, charged to `reference`."""
        with torch.no_grad(), weights:
            return self.predict(x_BZ, sigma_B, conditioning, "reference", regime)
