"""How hard a method's credit pulls: the derivative of its loss by the log-prob, where the policy is still unchanged."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Credit, Floats
from grpo_bench.forest.schedule import Schedule, Transition
from grpo_bench.guard import calling
from grpo_bench.method import EdgeBatch, ForwardBatch, ForwardMethod, Method, MethodConfig
from grpo_bench.sampling.gaussian import each

LATENT = (1, 2, 2)
"""The shape of made-up latents of the forward process."""


def slopes(
    method: Method[MethodConfig],
    forest: Forest,
    schedule: Schedule,
    credit: Credit,
    weight_N: Floats | None,
    *,
    clip: float,
    advantage_clip: float,
    latent: tuple[int, ...] = (1, 1, 1),
) -> Floats:
    """d loss / d log-prob (N, P) at ratio 1 of each kept edge, -w A for the shared loss; NaN where nothing is trained.

    It is asked of the method's own `edge_loss`, with equal old and new means of shape `latent`. On the forward process
    it is asked of `forward_loss` on made-up latents: d loss / d -e at the leaf, where e is the squared error of the
    predicted x_0 over its mean absolute error, as DiffusionNFT has it; its slope is then -A too. No policy is
    evaluated.
    """
    slope_NP = np.full(credit.advantage_NP.shape, np.nan)
    advantage_NP = np.clip(credit.advantage_NP, -advantage_clip, advantage_clip)
    if isinstance(method, ForwardMethod):
        leaf_LP = advantage_NP[forest.leaves_L]
        slope_NP[forest.leaves_L] = _forward(method, schedule, leaf_LP.ravel(), advantage_clip).reshape(leaf_LP.shape)
        return slope_NP
    keep_NP = np.broadcast_to(forest.trained_N[:, None], advantage_NP.shape)
    keep_NP = keep_NP if credit.keep_NP is None else keep_NP & credit.keep_NP
    node_M, _ = np.nonzero(keep_NP)
    weight_M = np.ones(len(node_M)) if weight_N is None else weight_N[node_M]
    edge_M = forest.transitions(schedule, node_M)
    slope_NP[keep_NP] = _edges(method, edge_M, advantage_NP[keep_NP], weight_M, clip, latent)
    return slope_NP


def _edges(
    method: Method[MethodConfig],
    edge_M: Transition,
    advantage_M: Floats,
    weight_M: Floats,
    clip: float,
    latent: tuple[int, ...],
) -> Floats:
    edges = len(advantage_M)
    logp, mean = torch.zeros(edges, requires_grad=True), torch.zeros(edges, *latent)
    batch = EdgeBatch(
        logp=logp,
        logp_old=torch.zeros(edges),
        mean=mean,
        std=_tensor(edge_M.std),
        h=_tensor(edge_M.h),
        advantage=_tensor(advantage_M),
        weight=_tensor(weight_M),
        clip=clip,
        old_mean=mean.clone(),
        reference_mean=mean.clone(),
    )
    with torch.enable_grad():
        with calling(f"method {method.name!r}"):
            loss = method.edge_loss(batch)
        values: Floats = _gradient(loss, logp).double().numpy()
    return values


def _forward(
    method: ForwardMethod[MethodConfig], schedule: Schedule, advantage_D: Floats, advantage_clip: float
) -> Floats:
    stream = torch.Generator().manual_seed(0)
    x_0, eps, old = (torch.randn(len(advantage_D), *LATENT, generator=stream) for _ in range(3))
    t_D = _tensor(schedule.sigmas[np.arange(len(advantage_D)) % schedule.steps])
    t_DZ = each(t_D, x_0)
    x_t, v = (1 - t_DZ) * x_0 + t_DZ * eps, old.clone().requires_grad_()
    batch = ForwardBatch(
        x_0=x_0,
        t=t_D,
        x_t=x_t,
        v=v,
        advantage=_tensor(advantage_D),
        advantage_clip=advantage_clip,
        v_behaviour=old.clone(),
        v_reference=old.clone(),
        v_average={name: old.clone() for name in method.averages},
        group=torch.zeros(len(advantage_D), dtype=torch.int64),
    )
    with torch.enable_grad():
        error = (x_t - t_DZ * v - x_0).flatten(1)
        fit = -(error.square() / error.detach().abs().mean(1, keepdim=True)).mean(1)
        with calling(f"method {method.name!r}"):
            own = method.forward_loss(batch)
        along, loss = (_gradient(value, v).flatten(1).double() for value in (fit, own))
    values: Floats = ((along * loss).sum(1) / along.square().sum(1)).numpy()
    return values


def _tensor(values: Floats) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


def _gradient(value: Tensor, wrt: Tensor) -> Tensor:
    """Zero where the value does not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(wrt)
    return torch.autograd.grad(value.sum(), wrt, materialize_grads=True)[0]
