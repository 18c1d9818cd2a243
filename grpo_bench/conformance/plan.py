"""Check 3, its first half: a plan depends on (iteration, rng) only, and leaves the last step alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch

from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.subject import ITERATIONS, SEED, Subject
from grpo_bench.forest.forest import Forest
from grpo_bench.method import CURRENT
from grpo_bench.training.planning import known_needs, plan_forest

ORDER = (0, 1, 2, 3, 57, 2, 0, 57)
"""Iterations of one instance, not in order: a resumed run plans iteration 0 again for its warm-up."""


def check_plan(subject: Subject) -> Iterator[Finding]:
    """The plan itself, and what it may depend on."""
    faults = [fault for iteration in ITERATIONS for fault in _faults(subject, subject.forest(iteration))]
    faults += _declarations(subject)
    done = f"{len(ITERATIONS)} forests; the first: {_cost(subject.forest(0))}"
    yield Finding("forest", not faults, faults[0] if faults else done)
    repeated = _repeated(subject)
    done = f"{len(ORDER)} plans of one instance and of fresh ones, under two global random states"
    yield Finding("determinism", not repeated, repeated[0] if repeated else done)


def _cost(forest: Forest) -> str:
    return (
        f"{forest.rollout_nfe}/{forest.train_nfe} evaluations a prompt to roll out and train, "
        f"{forest.trained_edges} edges, {forest.images} images"
    )


def _faults(subject: Subject, forest: Forest) -> Iterator[str]:
    schedule = subject.schedule
    if not np.array_equal(forest.sigmas, schedule.sigmas):
        yield "plan: the forest has a sigma grid of its own; pass schedule.sigmas to the builder"
    last_N = forest.depth_N == forest.steps
    if not schedule.train_last and (forest.stochastic_N & last_N).any():
        node = int(np.flatnonzero(forest.stochastic_N & last_N)[0])
        yield (
            f"plan: the edge into node {node} makes the last step ({forest.steps - 1}) stochastic, but the last "
            "transition is always deterministic and never trained; pass train_last=schedule.train_last to the builder"
        )
    if subject.forward and forest.trained_edges:
        yield (
            f"plan: the forest has {forest.trained_edges} trained edges, and a forward method trains none; make them "
            "untrained, or derive the method from Method"
        )
    if not subject.forward and not forest.trained_edges:
        yield "plan: the forest trains nothing; mark edges as trained, or derive the method from ForwardMethod"


def _declarations(subject: Subject) -> Iterator[str]:
    method = subject.method()
    known = known_needs(method)
    unknown = sorted(set(method.needs) - known)
    if unknown:
        yield f"needs: {unknown[0]!r} is nothing the engine has; known: {', '.join(sorted(known))}"
    if method.samples_with not in {CURRENT, *method.averages}:
        yield f"samples_with: {method.samples_with!r} is none of its averages ({', '.join(method.averages) or 'none'})"
    if not 0 < method.clip_scale < float("inf"):
        yield f"clip_scale: {method.clip_scale} is no half-width of a clip; use a positive number"
    for name, decay_of in method.averages.items():
        for iteration in ITERATIONS:
            decay = decay_of(iteration)
            if not 0 <= decay < 1:
                yield (
                    f"averages: the decay of {name!r} is {decay} after iteration {iteration}, but an average keeps a "
                    "share of itself from 0 to below 1"
                )


def _repeated(subject: Subject) -> list[str]:
    """Sentences about plans that differ where they must not."""
    faults = []
    states = _global_states()
    one = subject.method()
    for turn, iteration in enumerate(ORDER):
        wanted = subject.forest(iteration)
        if not plan_forest(one, SEED, iteration, subject.schedule).same_as(wanted):
            faults.append(
                f"plan: the forest of iteration {iteration} differs between an instance that has planned {turn} others "
                "and a fresh one; a plan may depend on iteration, rng and schedule only, and must not change the method"
            )
    if _global_states() != states:
        faults.append("plan: it changed a global random state; draw from the rng it is given")
    first, second = (_under(subject, seed) for seed in (1, 2))
    changed = [i for i, a, b in zip(ORDER, first, second, strict=True) if not a.same_as(b)]
    if changed:
        faults.insert(
            0,
            f"plan: the forest of iteration {changed[0]} is another one each time it is planned from the same rng; "
            "draw every random number from that rng, and nothing from global state or a clock",
        )
    return faults


def _under(subject: Subject, seed: int) -> list[Forest]:
    """Forests of fresh instances while the global random states are seeded; they are put back."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            return [subject.forest(iteration) for iteration in ORDER]
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def _global_states() -> tuple[str, str, str]:
    """Digests of Python's, numpy's and torch's global states."""
    return str(random.getstate()), str(np.random.get_state()), str(torch.get_rng_state().tolist())  # noqa: NPY002
