"""Training on the forward process (DiffusionNFT): clean samples noised anew, velocities instead of log-probs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats, Ints
from grpo_bench.forest.schedule import Schedule
from grpo_bench.guard import calling
from grpo_bench.method import ForwardBatch, Method, MethodConfig
from grpo_bench.sampling.gaussian import each
from grpo_bench.sampling.handle import Conditioning, Metered
from grpo_bench.sampling.noise import Noise, Purpose
from grpo_bench.training.behaviour import Behaviour
from grpo_bench.training.handed import handed


@dataclass(frozen=True)
class ForwardSamples:
    """What one iteration's forward draws are made of: L leaves, P prompts; times and noise come from named streams."""

    forest: Forest
    schedule: Schedule
    leaf_LPZ: Tensor
    advantage_LP: Floats
    advantage_clip: float
    noise: Noise

    def rows(self, prompts: Ints) -> Ints:
        """Every (leaf, prompt, draw) of `prompts` (R, 3), draws of one image together."""
        leaves, draws = self.forest.images, self.forest.forward_draws
        grid = np.meshgrid(np.arange(leaves), prompts, np.arange(draws), indexing="ij")
        return np.stack([axis.ravel() for axis in grid], axis=1)

    def steps(self, row_R3: Ints) -> Ints:
        """The grid's step (R,) that each row is noised to: an image's draws are distinct steps in random order."""
        image_I2, image_R = np.unique(row_R3[:, :2], axis=0, return_inverse=True)
        order_IT = np.stack(
            [
                self.noise.stream(Purpose.FORWARD, self._key(leaf), prompt).permutation(self.schedule.steps)
                for leaf, prompt in image_I2
            ]
        )
        return order_IT[image_R.reshape(-1), row_R3[:, 2]]

    def noised(self, row_R3: Ints) -> tuple[Tensor, Tensor, Tensor]:
        """(x_0, t, x_t) of the rows: x_t = (1 - t) x_0 + t eps, with noise of each row's own."""
        device = self.leaf_LPZ.device
        row = torch.as_tensor(row_R3, device=device)
        x_0 = self.leaf_LPZ[row[:, 0], row[:, 1]]
        eps = np.empty(x_0.shape, dtype=np.float32)
        for out, (leaf, prompt, draw) in zip(eps, row_R3, strict=True):
            stream = self.noise.stream(Purpose.FORWARD, self._key(leaf), prompt, draw=int(draw) + 1)
            stream.standard_normal(dtype=np.float32, out=out)
        t_D = torch.as_tensor(self.schedule.sigmas[self.steps(row_R3)], dtype=torch.float32, device=device)
        t_DZ = each(t_D, x_0)
        return x_0, t_D, (1 - t_DZ) * x_0 + t_DZ * torch.from_numpy(eps).to(device)

    def _key(self, leaf: int) -> int:
        """The leaf's key; of one leaf, as there are as many micro-batches as leaves."""
        return int(self.forest.key_N[self.forest.leaves_L[leaf]])


class ForwardObjective:
    """Turns forward samples into gradients: the mean of the method's `forward_loss` over an update's draws.

    One `train` evaluation a draw, and a `reference` one for each of the old and the reference policy where needed.
    """

    def __init__(self, method: Method[MethodConfig], handle: Metered, behaviour: Behaviour, train_batch: int) -> None:
        self._method, self._handle, self._behaviour, self._train_batch = method, handle, behaviour, train_batch

    def accumulate(self, samples: ForwardSamples, conditioning: Conditioning, prompts: Ints) -> tuple[float, int]:
        """Backpropagate the mean loss over the draws of `prompts`; returns it, and the number of draws."""
        row_R3 = samples.rows(prompts)
        losses = []
        for row_D3 in _chunks(row_R3, self._train_batch):
            batch = self._batch(samples, conditioning, row_D3)
            with calling(f"method {self._method.name!r}"), handed(batch, self._method.name):
                loss_D = self._method.forward_loss(batch)
            (loss_D.sum() / len(row_R3)).backward()
            losses.append(loss_D.detach().sum())
        # Read back once, at the end: a read inside the loop would make the host wait for every micro-batch.
        return sum(float(loss) for loss in losses) / len(row_R3), len(row_R3)

    def _batch(self, samples: ForwardSamples, conditioning: Conditioning, row_D3: Ints) -> ForwardBatch:
        x_0, t_D, x_t = samples.noised(row_D3)
        selected = conditioning.select(torch.as_tensor(row_D3[:, 1], device=x_0.device))
        handle, needs = self._handle, self._method.needs
        v_old = v_reference = None
        if "old_policy" in needs:
            v_old = handle.predict_frozen(x_t, t_D, selected, self._behaviour.applied())
        if "reference" in needs:
            v_reference = handle.predict_reference(x_t, t_D, selected)
        advantage_D = samples.advantage_LP[row_D3[:, 0], row_D3[:, 1]]
        return ForwardBatch(
            x_0=x_0,
            t=t_D,
            x_t=x_t,
            v=handle.predict(x_t, t_D, selected, "train"),
            advantage=torch.as_tensor(advantage_D, dtype=torch.float32, device=x_0.device),
            advantage_clip=samples.advantage_clip,
            v_old=v_old,
            v_reference=v_reference,
        )


def _chunks(row_R3: Ints, size: int) -> Iterator[Ints]:
    for start in range(0, len(row_R3), size):
        yield row_R3[start : start + size]
