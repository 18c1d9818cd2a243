"""Closed forms of single methods, each as (what, deviation, bound, sentence): no other code computes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from grpo_bench.conformance.scenes import CONTINUOUS, Scene, Scored, play
from grpo_bench.conformance.subject import ITERATIONS, SEED, Subject
from grpo_bench.forest.rollout import Floats
from grpo_bench.method import EdgeBatch, ForwardBatch, ForwardMethod, MethodConfig
from grpo_bench.sampling.gaussian import each

Form = tuple[str, float, float, str]
E, SHAPE = 64, (3, 2, 2)
FP32 = 1e-4
"""Squares of numbers around 1 are divided by std^2 = 0.01 and subtracted: fp32 leaves 1e-7 / 0.01 of them, and more."""


def tempflow_forms(subject: Subject) -> Iterator[Form]:
    """Weights: std_i over the mean std of the trained steps."""
    forest, schedule = subject.forest(0), subject.schedule
    weight_N = Subject(subject.name, {"weighting": "noise"}, subject.sampling).method().weights(forest, schedule)
    step_E = forest.start_N[forest.trained_edges_E]
    trained = np.unique(step_E)
    wanted_E = schedule.std_T[step_E] / schedule.std_T[trained].mean()
    got_E = np.ones(len(step_E)) if weight_N is None else weight_N[forest.trained_edges_E]
    off = float(np.abs(got_E - wanted_E).max())
    sentence = (
        f"weights: a step's weight is its noise level over the mean of the trained steps, but one is off by {off:.4g} "
        f"(first step {got_E[0]:.4g}, wanted {wanted_E[0]:.4g})"
    )
    yield "weights std_i / mean std", off, 1e-9, sentence


def tree_forms(subject: Subject) -> Iterator[Form]:
    """An edge's advantage: the mean of the z-scores of the images below it."""
    for scored in _scored(subject, "backup"):
        z_LP = _zscore(scored.reward_LP, 0)
        below_NL = scored.forest.descendant_NL
        wanted_NP = below_NL @ z_LP / below_NL.sum(1, keepdims=True)
        yield _against(scored, wanted_NP, "the mean of the z-scores of the images below it")


def branch_forms(subject: Subject) -> Iterator[Form]:
    """An edge's advantage: the z-score, over the nodes of its depth, of the mean reward of the images below it."""
    for scored in _scored(subject, "fusion"):
        below_NL = scored.forest.descendant_NL
        mean_NP = below_NL @ scored.reward_LP / below_NL.sum(1, keepdims=True)
        wanted_NP = np.zeros_like(mean_NP)
        for depth in range(1, scored.forest.steps + 1):
            nodes = scored.forest.depth_N == depth
            wanted_NP[nodes] = _zscore(mean_NP[nodes], 1)
        yield _against(scored, wanted_NP, "the z-score (ddof 1) of its mean reward over the nodes of its depth")


def _scored(subject: Subject, key: str) -> list[Scored]:
    """Iterations of the method's default settings, where children are averaged."""
    return play(Subject(subject.name, {key: "mean"}, subject.sampling), Scene())


def _zscore(reward_LP: Floats, ddof: int) -> Floats:
    """Written out, for rewards that are not all equal."""
    std_P = reward_LP.std(axis=0, ddof=ddof) if len(reward_LP) > 1 else np.zeros(reward_LP.shape[1])
    scored: Floats = (reward_LP - reward_LP.mean(axis=0)) / np.maximum(std_P, 1e-6)
    return scored


def _against(scored: Scored, wanted_NP: Floats, rule: str) -> Form:
    edge_E = scored.forest.trained_edges_E
    off_EP = np.abs(scored.credit.advantage_NP - wanted_NP)[edge_E, :CONTINUOUS]
    edge, prompt = np.unravel_index(np.argmax(off_EP), off_EP.shape)
    node = int(edge_E[edge])
    sentence = (
        f"credit: the advantage of node {node} (depth {scored.forest.depth_N[node]}) of prompt {prompt} is {rule}, "
        f"{wanted_NP[node, prompt]:.4g}, but {scored.credit.advantage_NP[node, prompt]:.4g} was given"
    )
    return rule, float(off_EP[edge, prompt]), 1e-9, sentence


def guard_forms(subject: Subject) -> Iterator[Form]:
    """log_ratio = mean(eps dmean), which is 0 on average at every step; the loss is divided by the step's length."""
    method = subject.method()
    batch, eps_ED, shift_ED = _off_policy()
    got_E, wanted_E = method.log_ratio(batch).double(), (eps_ED * shift_ED).mean(1).double()
    off = float((got_E - wanted_E).abs().max())
    mean = float((got_E - wanted_E).mean())
    yield (
        "log-ratio <eps, dmean>",
        off,
        FP32,
        "log_ratio: with x' = mean_old + std eps it must be the mean of eps times the mean's shift, so that fresh "
        f"noise averages it to 0, but it is off by {off:.4g} ({mean:+.4g} on average); check the bias |dmean|^2 / (2 "
        "std^2) and the factor std",
    )
    loss_E = method.edge_loss(batch) * batch.h
    plain_E = _surrogate(method.log_ratio(batch), batch)
    off = float((loss_E - plain_E).abs().max())
    yield (
        "loss / h",
        off,
        FP32,
        f"edge_loss: times the step's length it must be the clipped surrogate of log_ratio, but it is off by {off:.4g}",
    )


def _off_policy() -> tuple[EdgeBatch, torch.Tensor, torch.Tensor]:
    """Edges of a policy whose means have moved, with their noise and shifts (E, D)."""
    stream = torch.Generator().manual_seed(SEED)
    numbers = int(np.prod(SHAPE))
    eps, shift, old = (torch.randn(E, numbers, generator=stream) for _ in range(3))
    std = torch.linspace(0.1, 0.9, E)
    child, mean = old + std[:, None] * eps, old + 0.1 * shift
    logp_old, logp = (-((child - m).square() / (2 * std[:, None] ** 2)).mean(1) - std.log() for m in (old, mean))
    batch = EdgeBatch(
        logp=logp,
        logp_old=logp_old,
        mean=mean.view(E, *SHAPE),
        std=std,
        h=torch.linspace(0.02, 0.2, E),
        advantage=torch.randn(E, generator=stream),
        weight=torch.ones(E),
        clip=0.05,
        old_mean=old.view(E, *SHAPE),
        reference_mean=old.view(E, *SHAPE),
    )
    return batch, eps, 0.1 * shift


def _surrogate(log_ratio_E: torch.Tensor, batch: EdgeBatch) -> torch.Tensor:
    """PPO's, written out."""
    ratio = log_ratio_E.exp()
    clipped = ratio.clamp(1 - batch.clip, 1 + batch.clip)
    return torch.maximum(-batch.advantage * ratio, -batch.advantage * clipped)


def nft_forms(subject: Subject) -> Iterator[Form]:
    """v+ and v- mirror each other at the old velocity; the old policy's decay starts at 0 and never falls."""
    method = Subject(subject.name, {"reference_weight": 0.0}, subject.sampling).method()
    assert isinstance(method, ForwardMethod)
    stream = torch.Generator().manual_seed(SEED)
    x_0, eps, old, step = (torch.randn(E, *SHAPE, generator=stream) for _ in range(4))
    t, advantage = torch.linspace(0.1, 1.0, E), torch.randn(E, generator=stream)
    t_DZ = each(t, x_0)
    batch = ForwardBatch(
        x_0=x_0,
        t=t,
        x_t=(1 - t_DZ) * x_0 + t_DZ * eps,
        v=old + step,
        advantage=advantage,
        advantage_clip=5.0,
        v_behaviour=old,
    )
    mirrored = replace(batch, v=old - step, advantage=-advantage)
    loss, other = method.forward_loss(batch), method.forward_loss(mirrored)
    off = float(((loss - other).abs() / loss.abs().clamp(min=1e-6)).max())
    yield (
        "v+ and v- mirror each other",
        off,
        FP32,
        "forward_loss: v+ and v- lie on either side of the old velocity, so that turning both the step and the "
        f"advantage round changes nothing, but the loss differs by {off:.4g} of itself",
    )
    yield _liked(method, batch)
    decays = [method.averages["old"](i) for i in (0, *ITERATIONS, 10_000)]
    falls = max(a - b for a, b in pairwise(decays))
    yield (
        "decay never falls",
        falls,
        0.0,
        "averages: the decay of the behaviour policy never falls, but after iterations 0, 0, 1, 57 and 10,000 it is "
        f"{decays}",
    )


def _liked(method: ForwardMethod[MethodConfig], batch: ForwardBatch) -> Form:
    """Where v = v_behaviour = (x_t - x_0) / t, both v+ and v- make the image exactly."""
    exact = (batch.x_t - batch.x_0) / each(batch.t, batch.x_0)
    off = float(method.forward_loss(replace(batch, v=exact, v_behaviour=exact)).abs().max())
    sentence = (
        f"forward_loss: where v and v_behaviour make the image exactly nothing is lost, but the loss is {off:.4g}"
    )
    return "no loss where the image is made exactly", off, 1e-3, sentence
