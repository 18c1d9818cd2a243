"""What a cell is said to cost, by hand: its evaluations from its plan, its seconds and memory from runs like it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from executor_jobs import config

from grpo_bench.config import RunConfig
from grpo_bench.store.points import encode
from grpo_bench.store.record import RunRecord, Status
from grpo_bench.store.run import RunStore
from grpo_bench.store.suite import CellRecord
from grpo_bench.sweeping.cells import Cell
from grpo_bench.sweeping.projection import PLANNED, Projection, planned_cost, project
from grpo_bench.training.preview import preview

ITERATION = 2 * (2 * 4 + 3 * 2 * 3)
"""NFE of two prompts with a pair of chains of four steps: eight rollout evaluations, six trained, each for three."""


def flat(budget: Mapping[str, float], *, seed: int = 0, **over: object) -> RunConfig:
    own = {"budget": dict(budget), "training": {"prompts": 2}} | over
    return config(seed, **own)


@pytest.mark.parametrize(
    ("budget", "iterations"),
    [
        ({"nfe": 10.0 * ITERATION}, 10),
        ({"nfe": 10.0 * ITERATION - 1}, 10),
        ({"nfe": 10.0 * ITERATION + 1}, 11),
        ({"iterations": 7.0}, 7),
        ({"reward-calls": 12.0}, 3),  # two prompts, two images each
        ({"reward-calls": 13.0}, 4),
    ],
)
def test_a_plan_ends_with_the_first_iteration_at_or_past_its_budget(budget: dict[str, float], iterations: int) -> None:
    assert planned_cost(flat(budget)) == Projection(iterations * ITERATION, iterations, exact=True)


def test_a_run_too_long_to_plan_is_taken_to_go_on_like_its_beginning() -> None:
    found = planned_cost(flat({"iterations": 5.0 * PLANNED}))

    assert (found.nfe, found.iterations) == (pytest.approx(5 * PLANNED * ITERATION), pytest.approx(5 * PLANNED))
    assert not found.exact


def test_what_pruning_saves_lets_further_iterations_in() -> None:
    of = flat({"nfe": 10_000.0}, method={"name": "branch", "prune_width": "parent-top1"}, sampling={"steps": 6})
    shown = preview(of)
    whole = planned_cost(flat({"iterations": 1.0}, method={"name": "branch"}, sampling={"steps": 6})).nfe
    kept = whole * shown.kept_nfe / shown.nfe
    assert kept < 0.95 * whole

    found = planned_cost(of)

    iterations = math.ceil(10_000 / kept)
    assert (found.iterations, found.nfe) == (iterations, pytest.approx(iterations * kept))
    assert not found.exact


def test_an_evaluation_of_the_base_costs_no_nfe() -> None:
    assert planned_cost(flat({"iterations": 0.0})) == Projection(0, 0, exact=True)


def cell(of: RunConfig) -> Cell:
    record = CellRecord(
        label="flat", run="the-cell", method=of.method.name, reward="gaussian", workload="gaussian", seed=of.seed
    )
    return Cell(record, of)


def past(
    results: Path, of: RunConfig, seconds: float, *, nfe: int = 1000, memory: int = 100, status: Status = "done"
) -> None:
    """A stored run of a config that spent `nfe`, and `seconds` of which half were evaluation and setup."""
    run = f"run-{len(list(results.iterdir())) if results.exists() else 0}"
    record = RunRecord(
        run=run, status=status, method=of.method.name, reward="gaussian", workload="gaussian", seed=of.seed,
        tier="analytic", rules_version=1, numerics_version=1, device="cpu",
    )  # fmt: skip
    store = RunStore.create(results, run, of.to_toml(), record)
    row = {
        "iteration": 0, "nfe": nfe if of.budget_amount else 0, "gold": 0.5, "peak_memory_bytes": memory,
        "seconds": seconds / 2, "rollout_seconds": seconds / 2,
        "eval_seconds": seconds / 4, "setup_seconds": seconds / 4,
    }  # fmt: skip
    phases = {f"{phase}_seconds": 0.0 for phase in ("plan", "decode", "reward", "credit", "train", "io")}
    (store.folder / "points.parquet").write_bytes(encode([row | phases]))


BUDGET = {"nfe": 10.0 * ITERATION}


def test_seconds_and_memory_are_medians_of_runs_that_differ_in_seed_budget_or_rate_only(tmp_path: Path) -> None:
    # 60 seconds for 3,000 nfe, 10 and 40 for 1,000: the median is 0.02 a piece.
    past(tmp_path, flat(BUDGET, seed=1), 60, nfe=3000, memory=100)
    past(tmp_path, flat({"nfe": 9999.0}), 10, memory=900)
    past(tmp_path, flat(BUDGET, training={"prompts": 2, "learning_rate": 0.5}), 40, memory=200)
    past(tmp_path, flat(BUDGET, training={"prompts": 4}), 5000)  # another setting
    past(tmp_path, flat(BUDGET), 5000, status="interrupted")
    past(tmp_path, flat({"iterations": 0.0}), 5000)  # an evaluation of the base

    found = project(tmp_path, [cell(flat(BUDGET))])["the-cell"]

    assert (found.source, found.memory_bytes) == ("3 alike", 200)
    assert found.seconds == pytest.approx(10 * ITERATION * 0.02)


def test_where_none_is_alike_runs_of_the_same_method_tell(tmp_path: Path) -> None:
    past(tmp_path, flat(BUDGET, training={"prompts": 4}), 30)
    past(tmp_path, flat(BUDGET, sampling={"steps": 8}), 5000)  # another number of steps is another speed
    past(tmp_path, flat(BUDGET, method={"name": "nft"}), 5000)

    found = project(tmp_path, [cell(flat(BUDGET))])["the-cell"]

    assert found.source == "1 of flat"
    assert found.seconds == pytest.approx(10 * ITERATION * 0.03)


def test_where_nothing_is_known_nothing_is_said(tmp_path: Path) -> None:
    past(tmp_path, flat(BUDGET, method={"name": "nft"}), 30)

    found = project(tmp_path, [cell(flat(BUDGET))])["the-cell"]

    assert found.source == "unknown"
    assert math.isnan(found.seconds) and math.isnan(found.memory_bytes)


def test_an_evaluation_of_the_base_takes_as_long_as_others_with_other_noise(tmp_path: Path) -> None:
    evaluation = {"prompts": 2, "images": 2, "steps": 2}
    for noise, seconds in enumerate((4, 6, 20)):
        past(tmp_path, flat({"iterations": 0.0}, evaluation=evaluation | {"seed": noise}), seconds)
    past(tmp_path, flat(BUDGET), 5000)

    found = project(tmp_path, [cell(flat({"iterations": 0.0}, evaluation=evaluation | {"seed": 9}))])["the-cell"]

    assert (found.source, found.seconds) == ("3 alike", 6)
