"""Check 6: what a forest declares is what the ledger counts, after pruning too; weights are positive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np

from grpo_bench.builtin import EXACT_WORKLOAD
from grpo_bench.conformance.finding import Finding, Worst
from grpo_bench.conformance.stage import ADVANTAGE_CLIP, Iteration, Stage
from grpo_bench.conformance.subject import ITERATIONS, SEED, Subject
from grpo_bench.forest.builders import assemble
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Credit
from grpo_bench.metering.ledger import Counts, Ledger
from grpo_bench.method import Draws, Method, MethodConfig
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.training.losses.edges import Batch, Diagnostics
from grpo_bench.training.planning import declared, drawn, draws_of

RANDOM_FORESTS = 40
LEAST_WEIGHT = 1e-3
"""Of the mean weight: what is weighed by less is paid for and not trained."""
NARROW = "a forest and its keep_NP are the whole cost of an iteration, and credit may narrow but not widen it"


def check_cost(subject: Subject) -> Iterator[Finding]:
    """The method's own forests, and unless `fast` random ones, on the closed form."""
    stage, method = Stage(subject, EXACT_WORKLOAD, 2), subject.method()
    cost, kept = Worst("cost", 0.0), []
    faults: list[str] = []
    for iteration in ITERATIONS:
        ledger = Ledger()
        made = stage.iterate(method, iteration, ledger)
        faults += _weight_faults(made)
        counted = _train(stage, method, made.batch, ledger)
        wanted = _declared(stage, method, made.planned, _kept(made), stage.learner(method, ledger).draws)
        if not made.forest.same_as(made.planned):
            cost.see(np.inf, f"credit: it changed the forest of iteration {iteration}; {NARROW}")
        _compare(cost, wanted, counted, f"the forest of iteration {iteration}")
        kept.append(f"{wanted.trained_edges}/{made.forest.trained_edges * len(stage.prompts)}")
    done = f"{len(ITERATIONS)} forests of the method; edges kept: {', '.join(kept)}"
    if not subject.fast:
        _random(stage, method, cost)
        done += f"; {RANDOM_FORESTS} random forests"
    yield cost.finding(done, "")
    yield Finding("weights", not faults, faults[0] if faults else f"positive and finite in {len(ITERATIONS)} forests")


def _train(stage: Stage, method: Method[MethodConfig], batch: Batch, ledger: Ledger) -> Counts:
    """Accumulate prompt by prompt, as a run with several updates does; everything counted since the ledger was new."""
    objective, edges = stage.objective(method, ledger), 0
    for prompt in range(len(stage.prompts)):
        _, terms = objective.accumulate(batch, np.array([prompt]), Diagnostics.empty(batch.forest.steps))
        edges += 0 if batch.forward else terms
    ledger.count("trained_edges", edges)
    ledger.count("images", int(np.prod(batch.trajectories.leaf_LPZ.shape[:2])))
    return ledger.counts()


def _declared(
    stage: Stage, method: Method[MethodConfig], forest: Forest, keep_NP: Bools, draws: Draws | None
) -> Counts:
    """Unguided, by one network."""
    once_T, forward_nfe = np.ones(forest.steps, dtype=np.int64), drawn(draws, forest, len(stage.prompts))
    return declared(forest, method, keep_NP, evaluations_T=once_T, forward_nfe=forward_nfe)


def _kept(made: Iteration) -> Bools:
    keep_NP = made.credit.keep_NP
    trained_NP: Bools = np.repeat(made.planned.trained_N[:, None], made.credit.advantage_NP.shape[1], axis=1)
    return trained_NP if keep_NP is None else trained_NP & keep_NP


def _compare(worst: Worst, wanted: Counts, counted: Counts, what: str) -> None:
    for part in fields(Counts):
        want, got = getattr(wanted, part.name), getattr(counted, part.name)
        worst.see(
            abs(want - got),
            f"cost: {what} declares {want} {part.name}, but {got} were counted; {NARROW}",
        )


def _weight_faults(made: Iteration) -> Iterator[str]:
    weight_N: object = made.weight_N  # whatever the plugin gave
    forest = made.forest
    if weight_N is None:
        return
    if not isinstance(weight_N, np.ndarray) or weight_N.shape != (forest.nodes,):
        got = f"shape {weight_N.shape}" if isinstance(weight_N, np.ndarray) else type(weight_N).__name__
        yield f"weights: they are None or an array of one number a node, of shape ({forest.nodes},), not {got}"
        return
    weight_E = weight_N[forest.trained_edges_E]
    sound_E = np.isfinite(weight_E) & (weight_E > 0)
    # against the sum, since of no edge there is no mean
    faint_E = weight_E * weight_E.size < LEAST_WEIGHT * weight_E.sum() if sound_E.all() else ~sound_E
    if faint_E.any():
        node = int(forest.trained_edges_E[np.argmax(faint_E)])
        yield (
            f"weights: the weight of the trained edge into node {node} is {weight_N[node]:g}, but weights are finite, "
            f"positive and at least {LEAST_WEIGHT:g} of their mean, and never prune; use keep_NP to drop an edge, so "
            "that it is not paid for either"
        )


def _random(stage: Stage, method: Method[MethodConfig], worst: Worst) -> None:
    """The method's loss on forests of any shape, with any pruning."""
    rng = np.random.default_rng(SEED)
    for number in range(RANDOM_FORESTS):
        forest = random_forest(rng)
        schedule = make_schedule(forest.sigmas, "dance-sde")
        ledger, noise = Ledger(), stage.noise(number)
        old_mean = "old_mean" in method.needs
        grown = grow(forest, schedule, stage.handle(ledger), stage.conditioning, noise, old_mean=old_mean)
        advantage_NP = rng.standard_normal((forest.nodes, len(stage.prompts)))
        keep_NP = forest.trained_N[:, None] & (rng.random(advantage_NP.shape) < 0.6)
        credit = Credit(advantage_NP, np.full(advantage_NP.shape, -1), keep_NP)
        draws = draws_of(method, schedule)
        forest = replace(forest, trained_N=forest.trained_N & (draws is None))
        batch = Batch.credited(
            forest, schedule, grown, stage.conditioning, credit, None, noise, advantage_clip=ADVANTAGE_CLIP, draws=draws
        )
        counted = _train(stage, method, batch, ledger)
        wanted = _declared(stage, method, forest, keep_NP, draws)
        _compare(worst, wanted, counted, f"random forest {number}")


def random_forest(rng: np.random.Generator) -> Forest:
    """Any forest of up to five steps: each node draws its children and where they lie, each edge whether it trains."""
    steps = int(rng.integers(1, 6))
    parent = [-1] * int(rng.integers(1, 4))
    depth, noisy = [0] * len(parent), [False] * len(parent)
    node = 0
    while node < len(parent):
        if depth[node] < steps:
            room = len(parent) < 60
            ends = rng.integers(depth[node] + 1, steps + 1, int(rng.integers(0, 4)) if room else 0).tolist()
            still = set(rng.integers(depth[node] + 1, steps + 1, int(rng.integers(0 if ends else 1, 3))).tolist())
            parent += [node] * (len(ends) + len(still))
            depth += [*ends, *sorted(still)]
            noisy += [True] * len(ends) + [False] * len(still)
        node += 1
    trained = np.array(noisy) & (rng.random(len(noisy)) < 0.5)
    return assemble(np.linspace(1, 0, steps + 1), parent, depth, noisy, trained)
