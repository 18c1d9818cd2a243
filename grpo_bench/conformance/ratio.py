"""Checks 1 and, edge by edge, 7: the ratio is 1 on policy, the noise N(0, I), the loss pulls the right way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from grpo_bench.conformance.finding import Finding, Worst
from grpo_bench.conformance.stage import ADVANTAGE_CLIP, Recorder, Stage, stages
from grpo_bench.conformance.subject import ITERATIONS, SEED, Subject
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats
from grpo_bench.metering.ledger import Ledger
from grpo_bench.method import EdgeBatch, ForwardBatch, Method, MethodConfig
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.training.objective import Diagnostics
from grpo_bench.training.planning import plan_forest

RATIO = {"mean": 1e-6, "sum": 1e-3}
"""The rule's own bounds, in units of `Stage.magnified`: a sum over D numbers rounds D times as much as their mean."""
LIMIT = 5.0
"""Standard errors; the seed is fixed, and a new topology's chance of exceeding them is below 1e-6."""
NO_EDGE = "the method trains on the forward process and has no ratio"


def check_ratio(subject: Subject) -> Iterator[Finding]:
    """The ratio before the first update, by both reductions, and the noise that was recorded."""
    if subject.forward:
        yield Finding("ratio", None, NO_EDGE)
        yield Finding("noise", None, "the rollout of a forward-process method draws no noise after the first")
        return
    places = stages(subject)
    yield _ratio(subject, places, Likelihood())
    if subject.method().gaussian_mean_only:
        yield Finding("ratio-sum", None, "the method is defined for the mean log-prob only (gaussian_mean_only)")
    else:
        yield _ratio(subject, places, Likelihood("sum"))
    yield from _noise(subject, places[0])


def _ratio(subject: Subject, places: list[Stage], likelihood: Likelihood) -> Finding:
    worst = Worst("ratio" if likelihood.reduction == "mean" else "ratio-sum", RATIO[likelihood.reduction])
    edges, where = 0, []
    for stage in places:
        batches, method = recorded(subject, stage, likelihood)
        magnified = stage.magnified(plan_forest(method, SEED, 0, stage.schedule))
        for batch in batches:
            with torch.no_grad():
                deviation = float((method.log_ratio(batch).exp() - 1).abs().max())
            edges += len(batch.logp)
            worst.see(
                deviation / magnified,
                f"log_ratio: before the first update the ratio is off 1 by {deviation:.3g} on {stage.name}, but the "
                "policy is then the one that drew the samples; log_ratio must be 0 for an unchanged policy",
            )
        where.append(stage.name)
    return worst.finding(f"{edges} edges on {' and '.join(where)}", "no edge was trained")


def recorded(
    subject: Subject, stage: Stage, likelihood: Likelihood | None = None
) -> tuple[list[EdgeBatch], Method[MethodConfig]]:
    """The edges of iteration 0 as the method's loss was given them, and the method."""
    method, ledger, chosen = subject.method(), Ledger(), likelihood or Likelihood()
    iteration = stage.iterate(method, 0, ledger, likelihood=chosen)
    recorder = Recorder(method)
    stage.gradient(stage.objective(recorder, ledger, chosen, train_batch=16), iteration.batch)
    return recorder.edges, method


def _noise(subject: Subject, stage: Stage) -> Iterator[Finding]:
    """(x' - mean) / std of one child a parent: independent draws whatever the siblings' correlation."""
    first, products, expected = [], [], 0.0
    for iteration in ITERATIONS:
        forest = plan_forest(subject.method(), SEED, iteration, stage.schedule)
        eps_EPD = _recovered(stage, forest, iteration)
        parent_E = forest.parent_N[forest.trained_edges_E]
        first_E = np.append(True, np.diff(parent_E) != 0)
        first.append(eps_EPD[first_E].ravel())
        second_E = np.append(False, ~first_E[1:] & first_E[:-1])
        if second_E.any():
            products.append((eps_EPD[second_E] * eps_EPD[np.roll(second_E, -1)]).ravel())
            expected = 0.0 if forest.sibling_noise is None else 1 / (1 + forest.sibling_noise**2)
    yield _standard_normal(np.concatenate(first))
    if products:
        yield _correlation(np.concatenate(products), expected)


def _recovered(stage: Stage, forest: Forest, iteration: int) -> Floats:
    """The noise (E, P, D) that the recorded latents of trained edges hold, in float64."""
    handle = stage.handle(Ledger())
    grown: Trajectories = grow(forest, stage.schedule, handle, stage.conditioning, stage.noise(iteration))
    row_E = np.searchsorted(forest.trained_parents, forest.parent_N[forest.trained_edges_E])
    step_K = forest.depth_N[forest.trained_parents]
    means = []
    for row, step in enumerate(step_K.tolist()):
        x_PCHW = grown.parent_KPCHW[row]
        index_P = torch.arange(len(x_PCHW))
        sigma = float(stage.schedule.sigmas[step])
        v_PCHW = handle.predict_all(x_PCHW, sigma, stage.conditioning, index_P, "setup")
        means.append(stage.schedule.x_T[step] * x_PCHW.double() + stage.schedule.v_T[step] * v_PCHW.double())
    std_E = torch.from_numpy(stage.schedule.std_T[step_K[row_E]]).view(-1, 1, 1, 1, 1)
    eps = (grown.child_EPCHW.double() - torch.stack(means)[torch.from_numpy(row_E)]) / std_E
    values: Floats = eps.flatten(2).numpy()
    return values


def _standard_normal(eps: Floats) -> Finding:
    """Mean, variance and Kolmogorov's distance in standard errors; the last's 5 stands for a probability of 1e-6."""
    from scipy.stats import kstest

    n = len(eps)
    tests = {
        "mean": abs(float(eps.mean())) * math.sqrt(n),
        "variance": abs(float(eps.var()) - 1) * math.sqrt(n / 2),
        # P(sqrt(n) D > x) ~ 2 exp(-2 x^2) is 1e-6 at x = 2.69
        "distribution": float(kstest(eps, "norm").statistic) * math.sqrt(n) * LIMIT / 2.69,
    }
    worst = Worst("noise", LIMIT)
    for name, figure in tests.items():
        worst.see(
            figure,
            f"sampling: the {name} of the recorded noise is {figure:.1f} standard errors off N(0, I), so that the "
            "log-probs are not those of the sampler",
        )
    return worst.finding(f"mean, variance and distribution of {n} numbers, in standard errors", "")


def _correlation(products: Floats, expected: float) -> Finding:
    """Siblings' covariance; a product of two normals with correlation c has the variance 1 + c^2."""
    got = float(products.mean())
    worst = Worst("siblings", LIMIT)
    worst.see(
        abs(got - expected) / math.sqrt((1 + expected**2) / len(products)),
        f"sampling: siblings' noise correlates by {got:.4f}, but the forest declares {expected:.4f}",
    )
    return worst.finding(f"correlation {got:.4f} for {expected:.4f} declared, in standard errors", "")


def check_direction(subject: Subject) -> Iterator[Finding]:
    """A loss that falls as what was good becomes likelier: at the unchanged policy, edge by edge or draw by draw."""
    stage = Stage(subject, "gaussian", 2)
    if subject.forward:
        recorder, ledger = Recorder(subject.method()), Ledger()
        iteration = stage.iterate(subject.method(), 0, ledger)
        batch = iteration.batch
        stage.policy.keep_reference()
        stage.objective(recorder, ledger).accumulate(batch, np.arange(2), Diagnostics.empty(batch.forest.steps))
        yield _forward_direction(subject.method(), recorder.draws)
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


def _forward_direction(method: Method[MethodConfig], batches: list[ForwardBatch]) -> Finding:
    """The velocity that fits a draw is u = (x_t - x_0) / t = eps - x_0: praise pulls v to it, blame pushes away."""
    faults, draws = [], 0
    for batch in batches:
        slope = {}
        for advantage in (1.0, 0.0, -1.0):
            v = batch.v.detach().clone().requires_grad_()
            old = None if batch.v_old is None else v.detach()
            same = None if batch.v_reference is None else v.detach()
            told = torch.full_like(batch.advantage, advantage * ADVANTAGE_CLIP / 2)
            loss = method.forward_loss(replace(batch, v=v, v_old=old, v_reference=same, advantage=told))
            if loss.shape != batch.t.shape:
                shape = tuple(loss.shape)
                return Finding("direction", False, f"forward_loss: it gives a number a draw, ({len(v)},), not {shape}")
            if not bool(torch.isfinite(loss).all()):
                return Finding("direction", False, "forward_loss: it is not finite at the unchanged policy")
            slope[advantage] = _slope(loss, v)
        draws += len(batch.t)
        off = batch.v.detach() - (batch.x_t - batch.x_0) / batch.t.view(-1, 1, 1, 1)
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
