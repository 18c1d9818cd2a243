"""Check 7: on the analytic workload the method's estimate points up the exact gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from torch import Tensor

from grpo_bench.builtin import EXACT_WORKLOAD
from grpo_bench.conformance.direction import check_direction
from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.stage import Stage
from grpo_bench.conformance.subject import Subject
from grpo_bench.forest.rollout import Floats
from grpo_bench.metering.ledger import Ledger
from grpo_bench.workloads.gaussian.exact import exact_gradient
from grpo_bench.workloads.gaussian.judge import score_latents
from grpo_bench.workloads.gaussian.policy import GaussianPolicy

PROMPTS = 4
FIRST = 8
"""Iterations before the first look; their noise is independent. The built-in methods then are at 10 standard errors."""
ERRORS = 3.0
EVALUATIONS = {True: 150_000, False: 600_000}
"""What may be spent on a noisy estimate, `fast` or not: 3 and 10 seconds."""


def check_ascent(subject: Subject) -> Iterator[Finding]:
    """The loss pulls the right way edge by edge; all of it together points up the exact gradient."""
    yield from check_direction(subject)
    yield _ascent(subject)


def _ascent(subject: Subject) -> Finding:
    """Twice as many iterations until the mean cosine is three standard errors from zero, or the allowance is spent."""
    found: list[float] = []
    stream, looks = cosines(subject), FIRST
    for cosine, spent in stream:
        found.append(cosine)
        enough = spent >= EVALUATIONS[subject.fast]
        if len(found) < looks and not enough:
            continue
        looks *= 2
        mean, error = float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(len(found)))
        figure = mean / error if error else 0.0
        if abs(figure) > ERRORS or not error or enough:
            break
    seen = f"{mean:.3f} +- {error:.3f} over {len(found)} iterations"
    if figure > ERRORS:
        said = f"cosine with the exact gradient {seen}, in standard errors"
        return Finding("ascent", True, said, figure, ERRORS, at_least=True)
    if subject.fast and abs(figure) <= ERRORS and error:
        return Finding("ascent", None, f"cosine with the exact gradient {seen}: too noisy to tell without more time")
    return Finding(
        "ascent",
        False,
        f"the estimate's cosine with the exact gradient is {seen} of the analytic workload, so that training does not "
        "raise the reward; look for a sign or for credit that goes to the wrong edge",
        figure,
        ERRORS,
        at_least=True,
    )


def cosines(subject: Subject) -> Iterator[tuple[float, int]]:
    """The cosine of minus the loss's gradient with the exact one, for iterations in a row of one instance, without end.

    With each comes the number of network evaluations so far.
    """
    stage, method, ledger = Stage(subject, EXACT_WORKLOAD, PROMPTS), subject.method(), Ledger()
    assert isinstance(stage.policy, GaussianPolicy)
    for number in count():
        made = stage.iterate(method, number, ledger, reward=gaussian_reward)
        estimate = stage.gradient(stage.objective(method, ledger, train_batch=1024), made.batch)
        exact = exact_gradient(made.forest, stage.schedule, stage.policy, stage.prompts, made.weight_N)
        yield _cosine(estimate, exact), ledger.nfe


def gaussian_reward(leaf_LPZ: Tensor, prompts: Sequence[str]) -> Floats:
    """The analytic workload's own reward (L, P) of latents."""
    leaves = leaf_LPZ.shape[0]
    scores: Floats = score_latents(leaf_LPZ.flatten(0, 1).numpy(), list(prompts) * leaves)
    return scores.reshape(leaves, len(prompts))


def _cosine(loss: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of minus the first with the second; 0 where either is zero."""
    product = -sum(float((loss[name] * exact[name]).sum()) for name in exact)
    sizes = [math.sqrt(sum(float(g.square().sum()) for g in gradients.values())) for gradients in (loss, exact)]
    return product / (sizes[0] * sizes[1]) if all(sizes) else 0.0
