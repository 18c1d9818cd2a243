"""Check 7: on the analytic workload the method's estimate points up the exact gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.ratio import check_direction
from grpo_bench.conformance.stage import Stage
from grpo_bench.conformance.subject import Subject
from grpo_bench.forest.rollout import Floats
from grpo_bench.metering.ledger import Ledger
from grpo_bench.workloads.gaussian.exact import exact_gradient
from grpo_bench.workloads.gaussian.judge import score_latents
from grpo_bench.workloads.gaussian.policy import GaussianPolicy

PROMPTS = 4
SMALL, FULL = 8, 24
"""Iterations. Their noise is independent; the methods of the field reach 10 standard errors with the smaller number."""
ERRORS = 3.0


def check_ascent(subject: Subject) -> Iterator[Finding]:
    """The loss pulls the right way edge by edge; all of it together points up the exact gradient."""
    yield from check_direction(subject)
    cosine_I = cosines(subject, SMALL if subject.fast else FULL)
    mean, error = float(cosine_I.mean()), float(cosine_I.std(ddof=1) / math.sqrt(len(cosine_I)))
    figure = mean / error if error else 0.0
    passed = figure > ERRORS
    said = f"mean cosine {mean:.3f} with the exact gradient over {len(cosine_I)} iterations, in standard errors"
    broken = (
        f"the estimate's cosine with the exact gradient is {mean:.3f} +- {error:.3f} over {len(cosine_I)} iterations "
        "of the analytic workload, so that training does not raise the reward; look for a sign or for credit that goes "
        "to the wrong edge"
    )
    yield Finding("ascent", passed, said if passed else broken, figure, ERRORS, at_least=True)


def cosines(subject: Subject, iterations: int) -> Floats:
    """The cosine of minus the loss's gradient with the exact one, for iterations in a row of one instance."""
    stage, method = Stage(subject, "gaussian", PROMPTS), subject.method()
    assert isinstance(stage.policy, GaussianPolicy)
    found = []
    for number in range(iterations):
        ledger = Ledger()
        made = stage.iterate(method, number, ledger, reward=gaussian_reward)
        estimate = stage.gradient(stage.objective(method, ledger, train_batch=1024), made.batch)
        exact = exact_gradient(made.forest, stage.schedule, stage.policy, stage.prompts, made.weight_N)
        found.append(_cosine(estimate, exact))
    return np.array(found)


def gaussian_reward(leaf_LPCHW: Tensor, prompts: Sequence[str]) -> Floats:
    """The analytic workload's own reward (L, P) of latents."""
    leaves = leaf_LPCHW.shape[0]
    scores: Floats = score_latents(leaf_LPCHW.flatten(0, 1).numpy(), list(prompts) * leaves)
    return scores.reshape(leaves, len(prompts))


def _cosine(loss: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of minus the first with the second; 0 where either is zero."""
    product = -sum(float((loss[name] * exact[name]).sum()) for name in exact)
    sizes = [math.sqrt(sum(float(g.square().sum()) for g in gradients.values())) for gradients in (loss, exact)]
    return product / (sizes[0] * sizes[1]) if all(sizes) else 0.0
