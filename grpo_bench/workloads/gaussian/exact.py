"""The exact objective of the analytic workload and its exact gradient, in float64.

Moments. Given the velocity v = A x + a of a step, the next latent is F x + f + std eps, where F = c_x I + c_v A and
f = c_v a, with the coefficients of the stochastic kernel or (std 0) of the deterministic step. A Gaussian stays one:
m' = F m + f, C' = F C F^T + std^2 I, from m = 0, C = I. The reward's mean is then
J = -[(m - c)^T Q (m - c) + tr(Q C)] / D, a function of the weights that autograd differentiates.

Policy gradient. Let step i of a path be stochastic: J is the mean, over x' ~ N(mean_i, std_i^2 I), of the mean reward
of what follows. The weights of step i enter through mean_i alone, so E[reward grad_i log N(x'; mean_i, std_i^2 I)] =
dJ / d(weights of step i), the path's other steps held fixed. A trained edge estimates this for the paths through it,
each with its own transitions, of which any may jump over grid points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Floats, Ints
from grpo_bench.forest.schedule import Schedule
from grpo_bench.workloads.gaussian.clouds import NUMBERS, QUALITY, cloud
from grpo_bench.workloads.gaussian.policy import GaussianPolicy, gain


@dataclass(frozen=True)
class Moments:
    """Mean (M, P, D) and covariance (M, P, D, D) of final latents, for M ways from noise to image and P prompts."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class Paths:
    """M ways from noise to image: where the transition from each grid point ends (0: none starts there), and its noise.

    `factor_MT` is what the kernel's noise level is multiplied by, 0 where the transition is deterministic.
    """

    end_MT: Ints
    factor_MT: Floats

    @classmethod
    def of_steps(cls, stochastic_T: Bools) -> Paths:
        """One way that visits every grid point."""
        return cls(np.arange(1, stochastic_T.size + 1)[None], stochastic_T[None].astype(np.float64))


def exact_moments(
    policy: GaussianPolicy,
    schedule: Schedule,
    stochastic_T: Bools,
    prompts: Sequence[str],
    parameters: Mapping[str, Tensor] | None = None,
) -> Moments:
    """Moments of the latents that the policy samples where `stochastic_T` steps are stochastic; one way, M = 1.

    `parameters` (`weight`, `bias`; float64) stand for the policy's own where they are given.
    """
    weight_TDD, bias_TD = _steps(policy, schedule, parameters or _own(policy))
    return _propagate(weight_TDD[None], bias_TD[None], schedule, Paths.of_steps(stochastic_T), prompts)


def exact_objective(
    policy: GaussianPolicy,
    schedule: Schedule,
    stochastic_T: Bools,
    prompts: Sequence[str],
    parameters: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """J: the mean reward over images and prompts, a float64 number that `parameters` can be differentiated through."""
    return mean_reward(exact_moments(policy, schedule, stochastic_T, prompts, parameters), prompts).mean()


def exact_gradient(
    forest: Forest,
    schedule: Schedule,
    policy: GaussianPolicy,
    prompts: Sequence[str],
    weight_N: Floats | None = None,
) -> dict[str, Tensor]:
    """The direction of ascent that the forest's trained edges estimate, by the names of `policy.parameters()`, float64.

    The mean over trained edges (times `weight_N`, a method's own loss weights) and prompts of dJ / d(weights of the
    edge's step), where J is that of the paths through the edge, averaged over the leaves below it. What an estimate
    adds is positive factors: each prompt's reward scale, the log-prob's 1/D. A forest without trained edges
    (forward-process training) improves the deterministic sampler: J of its leaves' paths, with respect to every step.
    """
    paths, share_MT = _shares(forest, weight_N)
    weight_TDD, bias_TD = _steps(policy, schedule, _own(policy))
    weight_MTDD, bias_MTD = (_copies(value, len(share_MT)) for value in (weight_TDD, bias_TD))
    moments = _propagate(weight_MTDD, bias_MTD, schedule, paths, prompts)
    slopes = torch.autograd.grad(mean_reward(moments, prompts).mean(1).sum(), [weight_MTDD, bias_MTD])
    row_T = _rows(policy, schedule)
    exact = {}
    for (name, own), slope in zip(_own(policy).items(), slopes, strict=True):
        step = torch.einsum("mt,mt...->t...", torch.from_numpy(share_MT), slope)
        exact[name] = torch.zeros_like(own).index_add_(0, row_T, step)
    return exact


def mean_reward(moments: Moments, prompts: Sequence[str]) -> Tensor:
    """The reward's mean (M, P) over images with these moments."""
    quality_DD = torch.tensor(QUALITY)
    off_MPD = moments.mean - torch.from_numpy(np.array([cloud(prompt).target for prompt in prompts]))
    square_MP = torch.einsum("mpi,ij,mpj->mp", off_MPD, quality_DD, off_MPD)
    return -(square_MP + torch.einsum("mpij,ij->mp", moments.covariance, quality_DD)) / NUMBERS


def _copies(value: Tensor, count: int) -> Tensor:
    """`count` copies, so that every way's slope is told from the others'."""
    return value.expand(count, *value.shape).clone().requires_grad_()


def _own(policy: GaussianPolicy) -> dict[str, Tensor]:
    return {name: value.detach().cpu().double() for name, value in policy.parameters()}


def _rows(policy: GaussianPolicy, schedule: Schedule) -> Tensor:
    """The row of the weights that each step uses, (T,)."""
    rows: Tensor = policy.denoiser.rows(torch.tensor(schedule.sigmas[:-1], dtype=torch.float32)).cpu()
    return rows


def _steps(policy: GaussianPolicy, schedule: Schedule, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The weights (T, D, D) and biases (T, D) of the steps."""
    row_T = _rows(policy, schedule)
    return parameters["weight"][row_T], parameters["bias"][row_T]


def _propagate(
    weight_MTDD: Tensor, bias_MTD: Tensor, schedule: Schedule, paths: Paths, prompts: Sequence[str]
) -> Moments:
    """Moments after the last step, each of M ways with its own weights."""
    clouds = [cloud(prompt) for prompt in prompts]
    centre_PD = torch.from_numpy(np.array([c.mean for c in clouds]))
    spectrum_PD = torch.from_numpy(np.array([c.spectrum for c in clouds]))
    basis_PDD = torch.from_numpy(np.array([c.basis for c in clouds]))
    eye_DD = torch.eye(NUMBERS, dtype=torch.float64)
    mean_MPD = torch.zeros(len(paths.end_MT), len(clouds), NUMBERS, dtype=torch.float64)
    covariance_MPDD = eye_DD.expand(*mean_MPD.shape, NUMBERS)
    for step in range(schedule.steps):
        sigma = torch.tensor(schedule.sigmas[step], dtype=torch.float64)
        flow_PDD = (basis_PDD * gain(sigma, spectrum_PD)[:, None]) @ basis_PDD.mT
        start_PD = -(1 - sigma) * (flow_PDD @ centre_PD[..., None])[..., 0] - centre_PD
        x_M111, v_M111, variance_M111 = _coefficients(schedule, step, paths)
        slope_MPDD = x_M111 * eye_DD + v_M111 * (flow_PDD + weight_MTDD[:, None, step])
        shift_MPD = v_M111[..., 0] * (start_PD + bias_MTD[:, None, step])
        mean_MPD = (slope_MPDD @ mean_MPD[..., None])[..., 0] + shift_MPD
        covariance_MPDD = slope_MPDD @ covariance_MPDD @ slope_MPDD.mT + variance_M111 * eye_DD
    return Moments(mean_MPD, covariance_MPDD)


def _coefficients(schedule: Schedule, step: int, paths: Paths) -> tuple[Tensor, Tensor, Tensor]:
    """The latent's and the velocity's coefficient and the noise's variance of what starts here, each (M, 1, 1, 1)."""
    end_M, factor_M = paths.end_MT[:, step], paths.factor_MT[:, step]
    starts_M, noisy_M = end_M > 0, factor_M > 0
    to_M = np.where(starts_M, end_M, step + 1)
    still, noisy = schedule.still(step, to_M), schedule.edge(step, to_M, np.where(noisy_M, factor_M, 1.0))
    x_M = np.where(starts_M, np.where(noisy_M, noisy.x, still.x), 1.0)
    v_M = np.where(starts_M, np.where(noisy_M, noisy.v, still.v), 0.0)
    variance_M = np.where(noisy_M, noisy.std**2, 0.0)
    x_M111, v_M111, variance_M111 = (torch.from_numpy(c).view(-1, 1, 1, 1) for c in (x_M, v_M, variance_M))
    return x_M111, v_M111, variance_M111


def _shares(forest: Forest, weight_N: Floats | None) -> tuple[Paths, Floats]:
    """The forest's different ways, and the weight of each one's slope at each step (M, T).

    Every trained edge hands its weight, in equal parts, to the paths through it; the sum over all is divided by the
    number of edges. Without trained edges each leaf's path counts alike, at every step that it takes.
    """
    leaf_L = np.arange(forest.images)
    end_LT = np.zeros((forest.images, forest.steps), dtype=np.int64)
    factor_LT, share_LT = np.zeros(end_LT.shape), np.zeros(end_LT.shape)
    edge_N = np.where(forest.trained_N, 1.0 if weight_N is None else weight_N, 0.0) / max(forest.trained_edges, 1)
    noise_T = np.ones(forest.steps) if forest.noise_T is None else forest.noise_T
    for node_L in forest.path_LD[:, 1:].T:
        # A node stands at the points that it jumps over too, and is then written down again at the same place.
        taken_L = node_L >= forest.roots
        leaf_M, node_M = leaf_L[taken_L], node_L[taken_L]
        place = leaf_M, forest.start_N[node_M]
        end_LT[place] = forest.depth_N[node_M]
        factor_LT[place] = np.where(forest.stochastic_N[node_M], noise_T[forest.start_N[node_M]], 0.0)
        share = edge_N[node_M] / forest.leaf_count_N[node_M]
        share_LT[place] = share if forest.trained_edges else 1.0 / forest.images
    ways_L = np.concatenate([end_LT.astype(np.float64), factor_LT], axis=1)
    _, first_M, way_L = np.unique(ways_L, axis=0, return_index=True, return_inverse=True)
    share_MT = np.zeros((len(first_M), forest.steps))
    np.add.at(share_MT, way_L.reshape(-1), share_LT)
    return Paths(end_LT[first_M], factor_LT[first_M]), share_MT
