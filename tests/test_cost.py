"""The cost that a forest declares is what the engine spends (check item 6), before and after pruning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forest_strategy import forests
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import kept, schedule
from tiny import LinearDenoiser, batch, method

from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools
from grpo_bench.forest.schedule import Schedule
from grpo_bench.metering.ledger import Counts, Ledger, LedgerMismatch, check
from grpo_bench.method import MethodConfig
from grpo_bench.registry import METHODS
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.gaussian import Likelihood
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.noise import Noise
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.training.losses.edges import Diagnostics, Objective

PROMPTS = ["one", "two"]
FLAT = METHODS.get("flat")(METHODS.get("flat").Config())


def spend(forest: Forest, schedule: Schedule, keep_NP: Bools, *, guidance: float = 1.0, beta: float = 0.0) -> Counts:
    """Roll out and train once with a linear denoiser; what the ledger counted, checked against the denoiser's own."""
    denoiser, ledger = LinearDenoiser(), Ledger()
    handle = Metered(denoiser, ledger, guidance=guidance, batch=16)
    conditioning = denoiser.conditioning(len(PROMPTS))
    grown = grow(forest, schedule, handle, conditioning, Noise(0, 0, PROMPTS, denoiser.latent_shape))
    ledger.count("images", grown.leaf_LPZ.shape[0] * grown.leaf_LPZ.shape[1])
    objective = Objective(FLAT, handle, Likelihood(), clip=1e-3, beta=beta, train_batch=5)
    keep_EP = keep_NP[forest.trained_edges_E]
    data = batch(forest, schedule, grown, conditioning, np.ones(keep_EP.shape), keep_EP)
    for prompts in ([0], [1]):
        _, edges = objective.accumulate(data, np.array(prompts), Diagnostics.empty(forest.steps))
        ledger.count("trained_edges", edges)
    counted = ledger.counts()
    assert denoiser.evaluations == counted.rollout_nfe + counted.train_nfe + counted.reference_nfe
    return counted


def declared(forest: Forest, keep_NP: Bools, *, cost: int = 1, reference: bool = False) -> Counts:
    train_nfe, edges = forest.kept_cost(keep_NP)
    prompts = keep_NP.shape[1]
    return Counts(
        forest.rollout_nfe * prompts * cost,
        train_nfe * cost,
        train_nfe * cost if reference else 0,
        edges,
        forest.images * prompts,
    )


def everything(forest: Forest) -> Bools:
    return np.repeat(forest.trained_N[:, None], len(PROMPTS), axis=1)


@pytest.mark.slow
@settings(max_examples=200)
@given(forests(), st.randoms(use_true_random=False))
def test_random_forests_cost_what_they_declare(forest: Forest, random: object) -> None:
    # given any forest and any pruning of it, different for each prompt
    schedule = make_schedule(forest.sigmas, "dance-sde")
    rng = np.random.default_rng(random.randrange(2**32))  # type: ignore[attr-defined]
    for keep_NP in (everything(forest), everything(forest) & (rng.random((forest.nodes, len(PROMPTS))) < 0.4)):
        assert spend(forest, schedule, keep_NP) == declared(forest, keep_NP)


@pytest.mark.parametrize("name", ["flat", "mix", "tree", "branch", "branch-mix", "tempflow"])
@pytest.mark.parametrize(("guidance", "beta"), [(1.0, 0.0), (4.0, 0.0), (1.0, 0.1), (4.0, 0.1)])
def test_the_methods_own_forests_cost_what_they_declare(name: str, guidance: float, beta: float) -> None:
    # given guidance, every evaluation counts twice; with a KL every trained parent asks the reference once
    kind = METHODS.get(name)
    schedule = make_schedule(shifted_grid(10), "flow-sde")
    method = kind(kind.Config())
    for iteration in (0, 1, 60):
        forest = method.plan(iteration, np.random.default_rng(iteration), schedule)
        counted = spend(forest, schedule, everything(forest), guidance=guidance, beta=beta)
        wanted = declared(forest, everything(forest), cost=2 if guidance > 1 else 1, reference=beta > 0)
        assert counted == wanted
        # and per prompt and evaluation, it is what the plan printed
        per = len(PROMPTS) * (2 if guidance > 1 else 1)
        assert (counted.rollout_nfe, counted.train_nfe) == (forest.rollout_nfe * per, forest.train_nfe * per)


@pytest.mark.parametrize(
    ("name", "settings", "steps", "counts"),
    [
        ("flat", {}, 10, (240, 216, 216, 24)),
        ("flat", {"shared_noise": True}, 10, (217, 193, 216, 24)),
        ("mix", {"shared_noise": False}, 10, (240, 72, 72, 24)),
        # start i: i + 1 + G (T - i - 1), 1 + G (w - 1), G w, G
        *[("mix", {"schedule": "fixed", "window_start": i}, 10, (i + 1 + 24 * (9 - i), 49, 72, 24)) for i in range(7)],
        ("tree", {"window_start": 0}, 10, (202, 13, 39, 27)),
        ("tree", {"window_start": 0, "branching": 4}, 10, (469, 21, 84, 64)),
        ("tree", {"window_start": 0, "branching": 2}, 10, (63, 7, 14, 8)),
        ("tree", {"window_start": 0, "branching": 2, "window": 4}, 10, (111, 15, 30, 16)),
        ("tree", {"window_start": 0, "branching": 5, "window": 2}, 10, (206, 6, 30, 25)),
        ("branch", {}, 20, (203, 187, 202, 16)),
        ("branch", {}, 10, (99, 83, 98, 16)),
        ("branch", {"prune_width": "parent-top1"}, 20, (203, 115, 130, 16)),
        ("branch", {"prune_width": "extreme"}, 20, (203, 115, 130, 16)),
        ("branch", {"prune_depth": 5}, 20, (203, 115, 122, 16)),
        ("branch", {"prune_depth": 5, "prune_width": "extreme"}, 20, (203, 75, 82, 16)),
        ("branch-mix", {}, 20, (203, 19, 34, 16)),
        ("tempflow", {"roots": 1}, 10, (279, 9, 54, 54)),
        ("tempflow", {}, 10, (1116, 36, 216, 216)),
        ("tempflow", {"branching": "none", "roots": 24}, 10, (240, 216, 216, 24)),
    ],
)
def test_a_methods_counts_are_what_the_ledger_counts(
    name: str, settings: dict[str, object], steps: int, counts: tuple[int, int, int, int]
) -> None:
    # given the counts per prompt of the methods' own settings, after pruning by rewards that differ by prompt
    chosen, on = method(name, **settings), schedule(steps)
    forest = chosen.plan(0, np.random.default_rng(0), on)
    keep_NP = kept(chosen, forest, len(PROMPTS))
    assert declared(forest, keep_NP) == Counts(*(len(PROMPTS) * n for n in (*counts[:2], 0, *counts[2:])))
    assert spend(forest, on, keep_NP) == declared(forest, keep_NP)


@pytest.mark.parametrize(
    ("iteration", "counts"), [(0, (115, 122)), (29, (115, 122)), (30, (107, 122)), (999, (107, 122))]
)
def test_the_depth_windows_counts_are_what_the_ledger_counts(iteration: int, counts: tuple[int, int]) -> None:
    # depths 10 to 14 at first: the split's own 8 parents and 4 x 16 below it; then 16 parents a depth, to 15 to 19
    chosen, on = method("branch", prune_depth=5), schedule(20)
    forest = chosen.plan(iteration, np.random.default_rng(0), on)
    counted = spend(forest, on, kept(chosen, forest, len(PROMPTS)))
    assert counted == declared(forest, everything(forest))
    assert (counted.train_nfe, counted.trained_edges) == tuple(len(PROMPTS) * n for n in counts)


def test_the_published_branch_recipe_counts_the_last_step() -> None:
    on = schedule(20, train_last=True)
    for prune_width, counts in [("none", (203, 218)), ("extreme", (123, 138))]:
        chosen = method("branch", prune_width=prune_width)
        forest = chosen.plan(0, np.random.default_rng(0), on)
        counted = spend(forest, on, kept(chosen, forest, len(PROMPTS)))
        assert (counted.train_nfe, counted.trained_edges) == tuple(len(PROMPTS) * n for n in counts)


def test_an_update_that_keeps_no_edge_costs_nothing_and_moves_nothing() -> None:
    schedule = make_schedule(shifted_grid(4), "flow-sde")
    forest = METHODS.get("flat")(METHODS.get("flat").Config(group=2)).plan(0, np.random.default_rng(0), schedule)
    keep_NP = np.zeros((forest.nodes, len(PROMPTS)), dtype=bool)
    counted = spend(forest, schedule, keep_NP)
    assert (counted.train_nfe, counted.trained_edges) == (0, 0)


def test_one_evaluation_too_many_is_an_engine_bug() -> None:
    wanted = Counts(240, 216, 0, 216, 24)
    with pytest.raises(LedgerMismatch, match="train_nfe was declared as 216 by the forest but counted as 217"):
        check(wanted, Counts(240, 217, 0, 216, 24))


def test_an_uncharged_evaluation_is_out_of_reach_of_a_method() -> None:
    # a method is given no policy: neither its config, nor what it is called with, leads to one
    flat = FLAT
    assert isinstance(flat.config, MethodConfig)
    assert not any(isinstance(value, torch.nn.Module | Metered | LinearDenoiser) for value in vars(flat).values())
