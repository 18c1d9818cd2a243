"""The engine: grows a forest depth by depth, all parents of all prompts at a depth in one batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Ints
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Role
from grpo_bench.sampling.gaussian import GAUSSIAN_MEAN, Likelihood, log_prob
from grpo_bench.sampling.handle import Conditioning, Metered
from grpo_bench.sampling.noise import Noise, Purpose


@dataclass(frozen=True)
class Trajectories:
    """What is kept of a grown forest: its leaves, and the latents at either end of trained edges, all fp32.

    K parents of trained edges, E trained edges, L leaves, P prompts, each in the forest's node order.
    """

    leaf_LPCHW: Tensor
    parent_KPCHW: Tensor
    child_EPCHW: Tensor
    logp_EP: Tensor
    old_mean_KPCHW: Tensor | None


def grow(
    forest: Forest,
    schedule: Schedule,
    handle: Metered,
    conditioning: Conditioning,
    noise: Noise,
    *,
    role: Role = "rollout",
    likelihood: Likelihood = GAUSSIAN_MEAN,
    old_mean: bool = False,
) -> Trajectories:
    """Sample every node of the forest for every prompt of `conditioning`.

    One network evaluation a parent and prompt, shared by all its children: a stochastic child is the kernel's mean plus
    its noise, any other takes the grid's deterministic step.
    """
    device = handle.device
    kept = _Kept(likelihood, old_mean)
    trains_N = np.zeros(forest.nodes, dtype=bool)
    trains_N[forest.trained_parents] = True
    x_DPCHW = noise.draw(Purpose.ROOT, forest.key_N[forest.nodes_at(0)], device)
    for step in range(forest.steps):
        node_D, child_C = forest.nodes_at(step), forest.nodes_at(step + 1)
        prompt_B = torch.arange(x_DPCHW.shape[1], device=device).repeat(len(node_D))
        v_BCHW = handle.predict_all(x_DPCHW.flatten(0, 1), float(schedule.sigmas[step]), conditioning, prompt_B, role)
        v_DPCHW = v_BCHW.view_as(x_DPCHW)
        mean_DPCHW = float(schedule.x_T[step]) * x_DPCHW + float(schedule.v_T[step]) * v_DPCHW
        # Breadth-first order keeps a depth's nodes together: a parent's row is its id less the depth's first id.
        row_C, noisy_C = forest.parent_N[child_C] - node_D[0], forest.stochastic_N[child_C]
        still, noisy = (_rows(mask_C, device) for mask_C in (~noisy_C, noisy_C))
        still_from, noisy_from = (torch.as_tensor(row_C[mask_C], device=device) for mask_C in (~noisy_C, noisy_C))
        still_x, still_v = float(schedule.still_x_T[step]), float(schedule.still_v_T[step])
        std = float(schedule.std_T[step])
        next_CPCHW = x_DPCHW.new_empty((len(child_C), *x_DPCHW.shape[1:]))
        next_CPCHW[still] = still_x * x_DPCHW[still_from] + still_v * v_DPCHW[still_from]
        eps_SPCHW = _edge_noise(forest, child_C[noisy_C], noise, device)
        next_CPCHW[noisy] = mean_DPCHW[noisy_from] + std * eps_SPCHW
        trained_C = forest.trained_N[child_C]
        parent_K = _rows(trains_N[node_D], device)
        trained_from = torch.as_tensor(row_C[trained_C], device=device)
        kept.add(x_DPCHW, mean_DPCHW, parent_K, next_CPCHW[_rows(trained_C, device)], trained_from, std)
        x_DPCHW = next_CPCHW
    return kept.trajectories(x_DPCHW)


def _rows(mask: Bools, device: torch.device) -> Tensor:
    """Where `mask` holds, as indices: a mask on the device would make the host wait for it."""
    return torch.as_tensor(np.flatnonzero(mask), device=device)


def _edge_noise(forest: Forest, child_S: Ints, noise: Noise, device: torch.device) -> Tensor:
    """Noise of stochastic edges (S, P, C, H, W); the children of a split share a part of it where the forest says so.

    BranchGRPO, section 3.1: (xi_0 + s eta_b) / sqrt(1 + s^2) keeps every child's marginal N(0, I) and gives siblings
    the covariance 1 / (1 + s^2).
    """
    own_SPCHW = noise.draw(Purpose.EDGE, forest.key_N[child_S], device)
    spread = forest.sibling_noise
    if spread is None or not len(child_S):
        return own_SPCHW
    parent_U, row_S, count_U = np.unique(forest.parent_N[child_S], return_inverse=True, return_counts=True)
    shared_UPCHW = noise.draw(Purpose.SIBLINGS, forest.key_N[parent_U], device)
    mixed_SPCHW = (shared_UPCHW[torch.as_tensor(row_S, device=device)] + spread * own_SPCHW) / (1 + spread**2) ** 0.5
    split_S = torch.as_tensor(count_U[row_S] > 1, device=device)
    return torch.where(split_S.view(-1, 1, 1, 1, 1), mixed_SPCHW, own_SPCHW)


@dataclass
class _Kept:
    """Collects what training needs while the forest grows; everything else is dropped."""

    likelihood: Likelihood
    old_mean: bool
    parents: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    children: list[Tensor] = field(default_factory=list)
    logps: list[Tensor] = field(default_factory=list)

    def add(
        self, x_DPCHW: Tensor, mean_DPCHW: Tensor, parent_K: Tensor, child_EPCHW: Tensor, row_E: Tensor, std: float
    ) -> None:
        self.parents.append(x_DPCHW[parent_K])
        self.children.append(child_EPCHW)
        edges, prompts = child_EPCHW.shape[:2]
        if edges:
            std_B = child_EPCHW.new_full((edges * prompts,), std)
            logp_B = log_prob(child_EPCHW.flatten(0, 1), mean_DPCHW[row_E].flatten(0, 1), std_B, self.likelihood)
            self.logps.append(logp_B.view(edges, prompts))
        if self.old_mean:
            self.means.append(mean_DPCHW[parent_K])

    def trajectories(self, leaf_LPCHW: Tensor) -> Trajectories:
        return Trajectories(
            leaf_LPCHW=leaf_LPCHW,
            parent_KPCHW=torch.cat(self.parents),
            child_EPCHW=torch.cat(self.children),
            logp_EP=torch.cat(self.logps) if self.logps else leaf_LPCHW.new_empty((0, leaf_LPCHW.shape[1])),
            old_mean_KPCHW=torch.cat(self.means) if self.old_mean else None,
        )
