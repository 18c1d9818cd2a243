"""Check 1, its second half: away from ratio 1 the log-ratio follows the log-prob, and the loss stops pulling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.subject import Subject
from grpo_bench.method import EdgeBatch, Method, MethodConfig
from grpo_bench.training.losses.edges import default_clip

SHIFT = 0.5
"""Of the log-prob, thousands of times what any released clip allows."""
DIMENSIONS = 65_536
STILL = 1e-9
DISTANCES = (0.0, 0.01, 0.1)
"""Of the mean from another policy's, in each of its numbers."""


def check_trust(subject: Subject) -> Iterator[Finding]:
    """What the clip is there for; forward losses have none."""
    if subject.forward:
        yield Finding("trust", None, "the method trains on the forward process and has no ratio")
        return
    method = subject.method()
    rows = [(shift, side) for shift in (-SHIFT, SHIFT) for side in (-1.0, 1.0)]
    shift_E, advantage_E = (torch.tensor(values) for values in zip(*rows, strict=True))
    batch = _batch(subject, method, shift_E, advantage_E)
    with torch.enable_grad():
        log_ratio_E = method.log_ratio(batch)
        (pull_E,) = torch.autograd.grad(-method.edge_loss(batch).sum(), batch.logp, materialize_grads=True)
    log_ratio_E = log_ratio_E.detach()
    wrong = (log_ratio_E * shift_E <= 0).nonzero()
    if len(wrong):
        row = int(wrong[0])
        said = (
            f"log_ratio: where the log-prob has moved by {rows[row][0]:+g} it is {float(log_ratio_E[row]):.4g}; it "
            "must move with the log-prob, or nothing is ever clipped"
        )
        yield Finding("trust", False, said)
        return
    falls = _penalty_that_falls(subject, method)
    if falls:
        yield Finding("trust", False, falls)
        return
    further = (pull_E * advantage_E)[(shift_E * advantage_E) > 0].max()
    said = (
        f"edge_loss: with the log-prob {SHIFT:g} past the old one, far beyond the clip of {batch.clip:.3g}, the loss "
        "still pulls the way that the advantage points; the clip is shared, so stop there"
    )
    yield Finding("trust", float(further) <= STILL, said if further > STILL else "the loss stops beyond the clip")


def _penalty_that_falls(subject: Subject, method: Method[MethodConfig]) -> str:
    """What is wrong where the loss of edges without advantage falls as their mean leaves another policy's."""
    batch = _batch(subject, method, torch.zeros(2), torch.zeros(2))
    for of in ("reference", "old"):
        losses = []
        for distance in DISTANCES:
            mean = torch.full_like(batch.mean, distance)
            reference, old = (batch.mean if of == name else mean for name in ("reference", "old"))
            moved = replace(batch, mean=mean, reference_mean=reference.clone(), old_mean=old.clone())
            with torch.no_grad():
                losses.append(float(method.edge_loss(moved).sum()))
        if any(after < before - STILL for before, after in pairwise(losses)):
            return (
                f"edge_loss: with no advantage it goes from {losses[0]:.3g} to {losses[-1]:.3g} as the mean leaves "
                f"that of the {of} policy; a penalty grows with the distance"
            )
    return ""


def _batch(subject: Subject, method: Method[MethodConfig], shift_E: Tensor, advantage_E: Tensor) -> EdgeBatch:
    """Edges like the first trained one whose log-probs have moved by `shift_E`, with equal means."""
    edges, schedule = len(shift_E), subject.schedule
    forest = subject.forest(0)
    first = forest.transitions(schedule, forest.trained_edges_E[:1])
    mean = torch.zeros(edges, 1, 1, 1)
    return EdgeBatch(
        logp=shift_E.clone().requires_grad_(),
        logp_old=torch.zeros(edges),
        mean=mean,
        std=torch.full((edges,), float(first.std[0])),
        h=torch.full((edges,), float(first.h[0])),
        advantage=advantage_E.clone(),
        weight=torch.ones(edges),
        clip=default_clip(DIMENSIONS) * method.clip_scale,
        old_mean=mean.clone(),
        reference_mean=mean.clone(),
    )
