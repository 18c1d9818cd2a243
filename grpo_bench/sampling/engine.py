"""The engine: grows a forest depth by depth, all parents of all prompts at a depth in one batch."""

from __future__ import annotations

from dataclasses import dataclass

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

    L leaves, K parents of trained edges, E trained edges and F fans of them (`Forest.fans`), each in the forest's
    order; P prompts; Z the axes of a latent.
    """

    leaf_LPZ: Tensor
    parent_KPZ: Tensor
    child_EPZ: Tensor
    logp_EP: Tensor
    old_mean_FPZ: Tensor | None

    @classmethod
    def empty(cls, forest: Forest, like_PZ: Tensor, *, old_mean: bool) -> Trajectories:
        """Room for what will be kept; filled once, so that nothing is copied at the end."""
        sizes = (forest.images, forest.trained_parents.size, forest.trained_edges, forest.fans.end_F.size)
        leaf, parent, child, mean = (like_PZ.new_empty((size, *like_PZ.shape)) for size in sizes)
        return cls(leaf, parent, child, like_PZ.new_empty((sizes[2], len(like_PZ))), mean if old_mean else None)


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

    One network evaluation a parent and prompt, shared by all its children, to whatever grid points they go: a
    stochastic child is the kernel's mean plus its noise, any other takes the grid's deterministic transition.
    """
    device = handle.device
    root_RPZ = noise.draw(Purpose.ROOT, forest.key_N[forest.nodes_at(0)], device)
    kept = Trajectories.empty(forest, root_RPZ[0], old_mean=old_mean)
    # The latents of each grid point that some node has reached; those of T are the leaves themselves.
    arrived = {0: root_RPZ, forest.steps: kept.leaf_LPZ}
    for point in range(forest.steps):
        if point not in arrived:
            continue
        x_DPZ, first = arrived.pop(point), int(forest.depth_start[point])
        prompt_B = torch.arange(x_DPZ.shape[1], device=device).repeat(len(x_DPZ))
        v_BZ = handle.predict_all(x_DPZ.flatten(0, 1), float(schedule.sigmas[point]), conditioning, prompt_B, role)
        v_DPZ = v_BZ.view_as(x_DPZ)
        parent = _between(forest.trained_parents, first, first + len(x_DPZ))
        kept.parent_KPZ[parent] = x_DPZ[torch.as_tensor(forest.trained_parents[parent] - first, device=device)]
        for end, child_C in forest.edges_from(point):
            if end not in arrived:
                arrived[end] = x_DPZ.new_empty((len(forest.nodes_at(end)), *x_DPZ.shape[1:]))
            place = int(child_C[0] - forest.depth_start[end])
            next_CPZ = arrived[end][place : place + len(child_C)]
            _follow(forest, schedule, noise, x_DPZ, v_DPZ, child_C, next_CPZ, kept, likelihood)
    return kept


def _follow(
    forest: Forest,
    schedule: Schedule,
    noise: Noise,
    x_DPZ: Tensor,
    v_DPZ: Tensor,
    child_C: Ints,
    next_CPZ: Tensor,
    kept: Trajectories,
    likelihood: Likelihood,
) -> None:
    """Fill in the children that the nodes of one grid point have at another one, and keep what is trained of them."""
    device, start, end = x_DPZ.device, int(forest.start_N[child_C[0]]), int(forest.depth_N[child_C[0]])
    # A depth's nodes have consecutive ids: a parent's row is its id less the depth's first id.
    row_C, noisy_C = forest.parent_N[child_C] - forest.depth_start[start], forest.stochastic_N[child_C]
    still, noisy = (_rows(mask_C, device) for mask_C in (~noisy_C, noisy_C))
    still_from, noisy_from = (torch.as_tensor(row_C[mask_C], device=device) for mask_C in (~noisy_C, noisy_C))
    if len(still):
        x, v, _, _ = (float(value) for value in schedule.still(start, end))
        next_CPZ[still] = x * x_DPZ[still_from] + v * v_DPZ[still_from]
    if not len(noisy):
        return
    factor = 1.0 if forest.noise_T is None else forest.noise_T[start]
    x, v, std, _ = (float(value) for value in schedule.edge(start, end, factor))
    mean_DPZ = x * x_DPZ + v * v_DPZ
    next_CPZ[noisy] = mean_DPZ[noisy_from] + std * _edge_noise(forest, child_C[noisy_C], noise, device)
    edge = _between(forest.trained_edges_E, int(child_C[0]), int(child_C[-1]) + 1)
    trained_C = forest.trained_N[child_C]
    if not trained_C.any():
        return
    child_EPZ = next_CPZ[_rows(trained_C, device)]
    from_E = torch.as_tensor(row_C[trained_C], device=device)
    std_B = child_EPZ.new_full((len(child_EPZ) * child_EPZ.shape[1],), std)
    logp_B = log_prob(child_EPZ.flatten(0, 1), mean_DPZ[from_E].flatten(0, 1), std_B, likelihood)
    kept.child_EPZ[edge], kept.logp_EP[edge] = child_EPZ, logp_B.view(child_EPZ.shape[:2])
    if kept.old_mean_FPZ is not None:
        fan_E = torch.tensor(forest.fans.fan_E[edge], device=device)
        kept.old_mean_FPZ[fan_E] = mean_DPZ[from_E]


def _between(node_M: Ints, first: int, last: int) -> slice:
    """Where the ids `first` to `last` - 1 stand in a sorted list of ids."""
    return slice(*np.searchsorted(node_M, (first, last)).tolist())


def _rows(mask: Bools, device: torch.device) -> Tensor:
    """Where `mask` holds, as indices: a mask on the device would make the host wait for it."""
    return torch.as_tensor(np.flatnonzero(mask), device=device)


def _edge_noise(forest: Forest, child_S: Ints, noise: Noise, device: torch.device) -> Tensor:
    """Noise of stochastic edges (S, P, Z); the stochastic children of a node share a part of it where the forest says.

    BranchGRPO, section 3.1: (xi_0 + s eta_b) / sqrt(1 + s^2) keeps every child's marginal N(0, I) and gives siblings
    the covariance 1 / (1 + s^2).
    """
    own_SPZ = noise.draw(Purpose.EDGE, forest.key_N[child_S], device)
    spread = forest.sibling_noise
    if spread is None or not len(child_S):
        return own_SPZ
    parent_U, row_S = np.unique(forest.parent_N[child_S], return_inverse=True)
    shared_UPZ = noise.draw(Purpose.SIBLINGS, forest.key_N[parent_U], device)
    mixed_SPZ = (shared_UPZ[torch.as_tensor(row_S, device=device)] + spread * own_SPZ) / (1 + spread**2) ** 0.5
    split_S = torch.as_tensor(forest.noisy_count_N[forest.parent_N[child_S]] > 1, device=device)
    return torch.where(split_S.view(-1, *(1,) * (own_SPZ.dim() - 1)), mixed_SPZ, own_SPZ)
