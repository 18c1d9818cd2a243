"""The objective on the forward process (DiffusionNFT): clean samples noised anew, velocities instead of log-probs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats, Ints
from grpo_bench.forest.schedule import Schedule
from grpo_bench.guard import calling
from grpo_bench.method import BEHAVIOUR, CURRENT, Draws, ForwardBatch, ForwardMethod, MethodConfig
from grpo_bench.sampling.gaussian import each
from grpo_bench.sampling.handle import Conditioning, Metered, Regime
from grpo_bench.sampling.noise import Noise, Purpose
from grpo_bench.training.averages import Averages
from grpo_bench.training.handed import handed

if TYPE_CHECKING:
    from grpo_bench.training.losses.edges import Batch, Diagnostics


@dataclass(frozen=True)
class ForwardSamples:
    """What one iteration's draws are made of: L leaves, this rank's P prompts; times and noise have named streams."""

    forest: Forest
    schedule: Schedule
    draws: Draws
    leaf_LPZ: Tensor
    advantage_LP: Floats
    advantage_clip: float
    noise: Noise

    def rows(self, columns: Ints) -> Ints:
        """Every (leaf, prompt, draw) of these prompts (R, 3): an image's draws together, or a draw's whole group."""
        leaves, draws = np.arange(self.forest.images), np.arange(self.draws.number)
        if self.draws.whole_groups:
            grid = np.meshgrid(columns, draws, leaves, indexing="ij")
            return np.stack([grid[2].ravel(), grid[0].ravel(), grid[1].ravel()], axis=1)
        return np.stack([axis.ravel() for axis in np.meshgrid(leaves, columns, draws, indexing="ij")], axis=1)

    def times(self, row_R3: Ints) -> Floats:
        """The t (R,) that each row is noised to."""
        times: Floats = self._times_LPD[tuple(row_R3.T)]
        return times

    def points(self, row_R3: Ints) -> Ints:
        """The grid's step (R,) in which each row's t lies."""
        points: Ints = np.searchsorted(-self.schedule.sigmas[:-1], -self.times(row_R3), side="right") - 1
        return points

    def noised(self, row_R3: Ints) -> tuple[Tensor, Tensor, Tensor]:
        """(x_0, t, x_t) of the rows: x_t = (1 - t) x_0 + t eps."""
        device = self.leaf_LPZ.device
        row = torch.as_tensor(row_R3, device=device)
        x_0 = self.leaf_LPZ[row[:, 0], row[:, 1]]
        eps = np.empty(x_0.shape, dtype=np.float32)
        for out, (leaf, prompt, draw) in zip(eps, row_R3, strict=True):
            self._stream(leaf, prompt, int(draw) + 1).standard_normal(dtype=np.float32, out=out)
        t_D = torch.as_tensor(self.times(row_R3), dtype=torch.float32, device=device)
        t_DZ = each(t_D, x_0)
        return x_0, t_D, (1 - t_DZ) * x_0 + t_DZ * torch.from_numpy(eps).to(device)

    @cached_property
    def _times_LPD(self) -> Floats:
        images = np.ndindex(self.leaf_LPZ.shape[0], self.leaf_LPZ.shape[1])
        times_ID = np.stack([self._times(leaf, prompt) for leaf, prompt in images])
        return times_ID.reshape(*self.leaf_LPZ.shape[:2], self.draws.number)

    def _times(self, leaf: int, prompt: int) -> Floats:
        """All of an image's times, from the one stream that is named by it."""
        draws, stream = self.draws, self._stream(leaf, prompt, 0)
        if draws.law == "grid":
            at_grid: Floats = self.schedule.sigmas[stream.permutation(self.schedule.steps)[: draws.number]]
            return at_grid
        part_D = stream.permutation(draws.number) if draws.law == "stratified" else 0
        share_D = (part_D + stream.random(draws.number)) / (draws.number if draws.law == "stratified" else 1)
        times: Floats = draws.low + (draws.high - draws.low) * share_D
        return times

    def _stream(self, leaf: int, prompt: int, draw: int) -> np.random.Generator:
        """Of one leaf, or where draws are shared of all leaves alike."""
        key = 0 if self.draws.shared else int(self.forest.key_N[self.forest.leaves_L[leaf]])
        return self.noise.stream(Purpose.FORWARD, key, prompt, draw=draw)


class ForwardObjective:
    """Turns forward samples into gradients: the mean of the method's `forward_loss` over an update's draws.

    One `train` evaluation a draw, and a `reference` one for each further policy that the method needs.

    Args:
        method: its `forward_loss` and `needs`.
        handle: charges the evaluations.
        averages: the method's, and the behaviour policy.
        clip: of nothing here; what an edge's ratio is clipped to.
        train_batch: draws in one forward and backward.
    """

    def __init__(
        self,
        method: ForwardMethod[MethodConfig],
        handle: Metered,
        averages: Averages,
        *,
        clip: float,
        train_batch: int,
    ) -> None:
        self._method, self._handle, self._averages = method, handle, averages
        self.clip, self._train_batch = clip, train_batch
        self._behaviour = BEHAVIOUR if method.samples_with == CURRENT else method.samples_with

    def accumulate(self, batch: Batch, prompts: Ints, diagnostics: Diagnostics) -> tuple[float, int]:
        """Backpropagate the mean loss over the draws of `prompts`, places among all ranks' prompts.

        Returns this rank's part of the loss, and of the draws.
        """
        assert batch.forward is not None
        row_R3 = batch.forward.rows(batch.columns(prompts))
        losses, total = [], batch.terms(prompts)
        for regime, row_D3 in self._chunks(row_R3, batch.forward):
            given = self._batch(batch.forward, batch.conditioning, row_D3, regime)
            with calling(f"method {self._method.name!r}"), handed(given, self._method.name):
                loss_D = self._method.forward_loss(given)
            (loss_D.sum() / total).backward()
            losses.append(loss_D.detach().sum())
        # Read back once, at the end: a read inside the loop would make the host wait for every micro-batch.
        return sum(float(loss) for loss in losses) / total, len(row_R3)

    def _chunks(self, row_R3: Ints, samples: ForwardSamples) -> Iterator[tuple[Regime, Ints]]:
        """The rows in micro-batches that one regime serves.

        Raises:
            UserError: a group is to be compared whole, and its members' times lie in two regimes.
        """
        size, group = self._train_batch, samples.forest.images
        regime_R = self._handle.regimes(samples.times(row_R3))
        if samples.draws.whole_groups:
            size = size // group * group
            if any(one != regime_R[place // group * group] for place, one in enumerate(regime_R)):
                raise UserError(
                    f"method {self._method.name!r} compares a group's images at times of their own, which two networks "
                    "of this model share out, or two strengths of its guidance; draw one time for a group (shared)"
                )
        for regime in dict.fromkeys(regime_R):
            own_S3 = row_R3[[one == regime for one in regime_R]]
            for start in range(0, len(own_S3), size):
                yield regime, own_S3[start : start + size]

    def _batch(self, samples: ForwardSamples, conditioning: Conditioning, row_D3: Ints, regime: Regime) -> ForwardBatch:
        x_0, t_D, x_t = samples.noised(row_D3)
        selected = conditioning.select(torch.as_tensor(row_D3[:, 1], device=x_0.device))
        handle, needs, averages = self._handle, self._method.needs, self._averages

        def under(name: str) -> Tensor:
            return handle.predict_frozen(x_t, t_D, selected, regime, averages.applied(name))

        group = None
        if samples.draws.whole_groups:
            _, number_D = np.unique(row_D3[:, 1:], axis=0, return_inverse=True)
            group = torch.as_tensor(number_D.reshape(-1), device=x_0.device)
        advantage_D = samples.advantage_LP[row_D3[:, 0], row_D3[:, 1]]
        # What is frozen comes first: the weights are exchanged for it, which no graph may see.
        v_behaviour = under(self._behaviour) if BEHAVIOUR in needs else None
        v_reference = handle.predict_reference(x_t, t_D, selected, regime) if "reference" in needs else None
        v_average = {name: under(name) for name in self._method.averages if name in needs}
        return ForwardBatch(
            x_0=x_0,
            t=t_D,
            x_t=x_t,
            v=handle.predict(x_t, t_D, selected, "train", regime),
            advantage=torch.as_tensor(advantage_D, dtype=torch.float32, device=x_0.device),
            advantage_clip=samples.advantage_clip,
            v_behaviour=v_behaviour,
            v_reference=v_reference,
            v_average=v_average,
            group=group,
        )
