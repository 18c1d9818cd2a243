"""The analytic workload's policy, ready for tests, and samples of it in large numbers."""

from __future__ import annotations

import numpy as np
import torch
from tiny import CPU

from grpo_bench.config import ModelSection
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Ledger
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise, Purpose
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.workloads.gaussian.clouds import SHAPE
from grpo_bench.workloads.gaussian.policy import GaussianPolicy
from grpo_bench.workloads.gaussian.workload import MODEL

T = 10
PROMPTS = ["cloud 0", "cloud 1"]
SDE = make_schedule(shifted_grid(T), "flow-sde")
STILL = np.zeros(T, dtype=bool)
NOISY = np.arange(T) < T - 1


def policy(spread: float = 0.0, **changes: object) -> GaussianPolicy:
    """The workload's policy; `spread` is the std of its residual's weights."""
    settings = ModelSection.model_validate({"height": 8, "width": 8} | changes)
    made = GaussianPolicy.load(str(MODEL), settings, CPU)
    stream = np.random.default_rng(0)
    for _, weight in made.parameters():
        weight.data = torch.tensor(spread * stream.standard_normal(weight.shape), dtype=torch.float32)
    return made


class OneStream(Noise):
    """Noise in one piece: many chains in no time, and still standard normal."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, 0, PROMPTS, SHAPE)
        self.one = np.random.default_rng(seed)

    def draw(self, purpose: Purpose, key_N: np.ndarray, device: torch.device) -> torch.Tensor:
        """See `Noise.draw`."""
        return torch.from_numpy(self.one.standard_normal((len(key_N), len(PROMPTS), *SHAPE), dtype=np.float32))


def sampled(made: GaussianPolicy, forest: Forest, schedule: Schedule, seed: int = 0) -> torch.Tensor:
    """Leaves (L, P, D), float64, of the engine."""
    handle = Metered(made, Ledger(), guidance=1.0, batch=1 << 16)
    return grow(forest, schedule, handle, made.encode(PROMPTS), OneStream(seed)).leaf_LPZ.flatten(2).double()
