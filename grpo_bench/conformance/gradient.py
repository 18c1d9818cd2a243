"""Check 5: one evaluation a parent, shared by its children, gives the gradient of one evaluation an edge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from grpo_bench.builtin import EXACT_WORKLOAD
from grpo_bench.conformance.finding import Finding, Worst
from grpo_bench.conformance.stage import Stage, stages
from grpo_bench.conformance.subject import SEED, Subject
from grpo_bench.metering.ledger import Ledger
from grpo_bench.sampling.noise import Purpose, generator
from grpo_bench.training.losses.edges import Batch, Objective
from grpo_bench.training.losses.forward import ForwardObjective

RELATIVE = 1e-5
"""The rule's own bound, fp32; in units of `Stage.magnified`."""
BLOCKS, BLOCK = 8, 8
"""Of the real family's edges, whose evaluations take longest: so many stretches of neighbours, siblings among them."""


def check_gradient(subject: Subject) -> Iterator[Finding]:
    """On policy everywhere; on the closed form also after a step that moved the policy off the samples."""
    worst, done = Worst("gradient", RELATIVE), []
    for stage in stages(subject):
        method, ledger = subject.method(), Ledger()
        iteration = stage.iterate(method, 0, ledger)
        # Both now: the old policy is the one that drew the samples, also after the step.
        objective, single = stage.objective(method, ledger), stage.objective(method, ledger, train_batch=1)
        for moved in (False, True) if stage.name == EXACT_WORKLOAD else (False,):
            if moved:
                _move(stage)
            batch = iteration.batch if stage.name == EXACT_WORKLOAD else _thinned(iteration.batch)
            together = stage.gradient(objective, batch)
            apart, parts = _apart(stage, single, batch)
            size = _norm(apart)
            error = _norm({name: together[name] - apart[name] for name in apart}) / size if size else np.nan
            error /= stage.magnified(iteration.forest)
            worst.see(
                error,
                f"edge_loss or forward_loss: with all edges at once the gradient on {stage.name} differs from that of "
                f"one edge at a time by {error:.3g} of its length; the loss of an edge may depend on that edge only, "
                "because micro-batches are cut anywhere",
            )
        done.append(f"{parts} terms one at a time on {stage.name}")
    yield worst.finding("; ".join(done), "")


def _thinned(batch: Batch) -> Batch:
    """Some of the kept (edge, prompt) pairs, spread over the grid; all where there are few, or draws instead."""
    pair_M2 = np.argwhere(batch.keep_EP)
    if batch.forward is not None or len(pair_M2) <= BLOCKS * BLOCK:
        return batch
    first = np.linspace(0, len(pair_M2) - BLOCK, BLOCKS).astype(int)
    chosen_M2 = pair_M2[np.unique(first[:, None] + np.arange(BLOCK))]
    keep_EP = np.zeros_like(batch.keep_EP)
    keep_EP[tuple(chosen_M2.T)] = True
    return replace(batch, keep_EP=keep_EP, place_P=None)


def _move(stage: Stage) -> None:
    """Add a little to every weight, so that ratios differ from 1 and some are clipped."""
    stream = generator(SEED, Purpose.PROBE, 0)
    with torch.no_grad():
        for _, weight in stage.policy.parameters():
            step = stream.standard_normal(tuple(weight.shape), dtype=np.float32)
            weight.add_(torch.from_numpy(step), alpha=1e-3)


def _apart(stage: Stage, single: Objective | ForwardObjective, batch: Batch) -> tuple[dict[str, Tensor], int]:
    """The mean gradient of single (edge, prompt) pairs, each with an evaluation of its own; and their number."""
    total: dict[str, Tensor] = {}
    if batch.forward is not None:
        parts = [(batch, [prompt]) for prompt in range(len(stage.prompts))]
        count = len(batch.forward.rows(np.arange(len(stage.prompts))))
    else:
        parts = []
        for edge, prompt in np.argwhere(batch.keep_EP).tolist():
            keep_EP = np.zeros_like(batch.keep_EP)
            keep_EP[edge, prompt] = True
            parts.append((replace(batch, keep_EP=keep_EP, place_P=None), [prompt]))
        count = len(parts)
    for part, prompts in parts:
        for name, gradient in stage.gradient(single, part, prompts).items():
            total[name] = total.get(name, torch.zeros_like(gradient)) + gradient
    return {name: value / len(parts) for name, value in total.items()}, count


def _norm(gradients: dict[str, Tensor]) -> float:
    return float(sum(float(value.square().sum()) for value in gradients.values()) ** 0.5)
