"""Check 7, term by term: at the unchanged policy the loss pulls what was good nearer and pushes what was bad away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from grpo_bench.builtin import EXACT_WORKLOAD
from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.ratio import recorded
from grpo_bench.conformance.stage import ADVANTAGE_CLIP, ForwardRecorder, Stage
from grpo_bench.conformance.subject import Subject
from grpo_bench.metering.ledger import Ledger
from grpo_bench.method import EdgeBatch, ForwardBatch, ForwardMethod, Method, MethodConfig
from grpo_bench.sampling.gaussian import each
from grpo_bench.training.losses.edges import Diagnostics


def check_direction(subject: Subject) -> Iterator[Finding]:
    """A loss that falls as what was good becomes likelier: at the unchanged policy, edge by edge or draw by draw."""
    stage = Stage(subject, EXACT_WORKLOAD, 2)
    method = subject.method()
    if isinstance(method, ForwardMethod):
        recorder, ledger = ForwardRecorder(method), Ledger()
        batch = stage.iterate(method, 0, ledger).batch
        stage.objective(recorder, ledger).accumulate(batch, np.arange(2), Diagnostics.empty(batch.forest.steps))
        yield _forward_direction(method, recorder.given)
        return
    batches, method = recorded(subject, stage)
    yield _edge_direction(method, batches)


def _edge_direction(method: Method[MethodConfig], batches: list[EdgeBatch]) -> Finding:
    faults, edges = [], 0
    for batch in batches:
        slope = {}
        for advantage in (1.0, 0.0, -1.0):
            logp = batch.logp.detach().clone().requires_grad_()
            fixed = replace(
                batch, logp=logp, mean=batch.mean.detach(), advantage=torch.full_like(batch.advantage, advantage)
            )
            loss = method.edge_loss(fixed)
            if loss.shape != logp.shape:
                shape = tuple(loss.shape)
                return Finding("direction", False, f"edge_loss: it gives a number an edge, ({len(logp)},), not {shape}")
            slope[advantage] = _slope(loss, logp)
        edges += len(batch.logp)
        unit = float(slope[1.0].abs().max())
        if not bool((slope[1.0] < 0).all()):
            faults.append(
                f"edge_loss: with advantage 1 the loss changes by {float(slope[1.0].max()):+.3g} per unit of log-prob, "
                "so that good edges do not become likelier; the loss must fall as the log-prob rises"
            )
        if not bool((slope[-1.0] >= 0).all()):
            faults.append(
                f"edge_loss: with advantage -1 the loss changes by {float(slope[-1.0].min()):+.3g} per unit of "
                "log-prob, so that bad edges become likelier"
            )
        if not float(slope[0.0].abs().max()) <= 1e-6 * unit:
            faults.append(
                f"edge_loss: with advantage 0 the loss still changes by {float(slope[0.0].abs().max()):.3g} per unit "
                "of log-prob; what is neither good nor bad must not be pushed"
            )
    return Finding("direction", not faults, faults[0] if faults else f"{edges} edges with advantages 1, 0 and -1")


def _slope(loss: Tensor, wrt: Tensor) -> Tensor:
    """d loss / d wrt, zero where the loss does not depend on it."""
    if not loss.requires_grad:
        return torch.zeros_like(wrt)
    return torch.autograd.grad(loss.sum(), wrt, materialize_grads=True)[0]


def _forward_direction(method: ForwardMethod[MethodConfig], batches: list[ForwardBatch]) -> Finding:
    """The velocity that fits a draw is u = (x_t - x_0) / t = eps - x_0: praise pulls v to it, blame pushes away."""
    faults, draws = [], 0
    for batch in batches:
        slope = {}
        for advantage in (1.0, 0.0, -1.0):
            v = batch.v.detach().clone().requires_grad_()
            old = None if batch.v_behaviour is None else v.detach()
            same = None if batch.v_reference is None else v.detach()
            told = torch.full_like(batch.advantage, advantage * ADVANTAGE_CLIP / 2)
            still = {name: v.detach() for name in batch.v_average}
            at = replace(batch, v=v, advantage=told, v_behaviour=old, v_reference=same, v_average=still)
            loss = method.forward_loss(at)
            if loss.shape != batch.t.shape:
                shape = tuple(loss.shape)
                return Finding("direction", False, f"forward_loss: it gives a number a draw, ({len(v)},), not {shape}")
            if not bool(torch.isfinite(loss).all()):
                return Finding("direction", False, "forward_loss: it is not finite at the unchanged policy")
            slope[advantage] = _slope(loss, v)
        draws += len(batch.t)
        off = batch.v.detach() - (batch.x_t - batch.x_0) / each(batch.t, batch.x_0)
        pull = {a: (s * off).flatten(1).sum(1) for a, s in slope.items()}
        largest, unit = float(slope[0.0].abs().max()), float(slope[1.0].abs().max())
        if not largest <= 1e-5 * unit:
            faults.append(
                f"forward_loss: with advantage 0 at the unchanged policy the gradient is {largest:.3g} (with praise "
                f"{unit:.3g}); what is neither good nor bad must not be pushed"
            )
        if not bool((pull[1.0] > 0).all()):
            faults.append(
                "forward_loss: for a praised image a step against the gradient takes the velocity away from the one "
                "that makes this image (x_t - x_0)/t; what was rewarded must become likelier"
            )
        if not bool((pull[-1.0] <= 0).all()):
            faults.append(
                "forward_loss: for a blamed image a step against the gradient takes the velocity nearer to the one "
                "that makes this image; what was not rewarded must not become likelier"
            )
    return Finding("direction", not faults, faults[0] if faults else f"{draws} draws, praised, neutral and blamed")
