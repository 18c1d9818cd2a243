"""Check 1: before the first update the ratio is 1, and the recorded noise is N(0, I)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from grpo_bench.conformance.finding import Finding, Worst
from grpo_bench.conformance.stage import Recorder, Stage, stages
from grpo_bench.conformance.subject import ITERATIONS, SEED, Subject
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats
from grpo_bench.metering.ledger import Ledger
from grpo_bench.method import EdgeBatch, Method, MethodConfig
from grpo_bench.sampling.engine import Trajectories, grow
from grpo_bench.sampling.gaussian import Likelihood, each
from grpo_bench.training.planning import plan_forest

RATIO = {"mean": 1e-6, "sum": 1e-3}
"""The rule's own bounds, in units of `Stage.magnified`: a sum over D numbers rounds D times as much as their mean."""
LIMIT = 5.0
"""Standard errors. The seed is fixed: a method passes always or never. A sound one's chance of never is 1e-6, and
4e-5 where a single pair of siblings is compared (72 products, whose tails are exponential)."""
NO_EDGE = "the method trains on the forward process and has no ratio"


def check_ratio(subject: Subject) -> Iterator[Finding]:
    """The ratio before the first update, by both reductions, and the noise that was recorded."""
    if subject.forward:
        yield Finding("ratio", None, NO_EDGE)
        yield Finding("noise", None, "the rollout of a forward-process method draws no noise after the first")
        return
    places = stages(subject)
    yield _ratio(subject, places, Likelihood())
    if "mean_log_prob" in subject.method().needs:
        yield Finding("ratio-sum", None, "the method is defined for the mean log-prob only (it needs mean_log_prob)")
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
    edge_E = forest.transitions(stage.schedule, forest.trained_edges_E)
    v_K = []
    for x_PZ, point in zip(grown.parent_KPZ, forest.depth_N[forest.trained_parents].tolist(), strict=True):
        sigma, index_P = float(stage.schedule.sigmas[point]), torch.arange(len(x_PZ))
        v_K.append(handle.predict_all(x_PZ, sigma, stage.conditioning, index_P, "setup"))
    row = torch.from_numpy(row_E)
    x_E, v_E, std_E = (each(torch.from_numpy(values), grown.child_EPZ) for values in edge_E[:3])
    mean_EPZ = x_E * grown.parent_KPZ.double()[row] + v_E * torch.stack(v_K).double()[row]
    eps = (grown.child_EPZ.double() - mean_EPZ) / std_E
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
