"""What a cell will cost: evaluations from its plan, seconds and memory from stored runs of its like."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError
from grpo_bench.store.run import RunStore, run_names
from grpo_bench.sweeping.cells import Cell
from grpo_bench.sweeping.state import total_seconds
from grpo_bench.terminal.text import value

PLANNED = 300
"""Iterations that are planned one by one; those of a longer run are taken to cost the mean of these."""


@dataclass(frozen=True)
class Projection:
    """A cell's cost from beginning to end; NaN where it is not known."""

    nfe: float
    iterations: float
    exact: bool
    """False for a method that prunes by rewards, a budget of seconds, and a run too long to plan to its end."""
    seconds: float = math.nan
    memory_bytes: float = math.nan
    source: str = "unknown"
    """Which stored runs the seconds and memory are taken from."""
    problem: str = ""
    """Why it could not be planned: the method's own code fails."""


def planned_cost(config: RunConfig) -> Projection:
    """NFE and iterations of the whole run, by planning it as the trainer will.

    Raises:
        UserError: the method does not fit the schedule.
    """
    from grpo_bench.training.planning import iteration_cost, make_method, plan_schedule, planned
    from grpo_bench.training.preview import preview

    kind, budget = config.budget_kind, config.budget_amount
    if kind == "seconds":
        return Projection(math.nan, math.nan, exact=False, seconds=budget)
    if not budget:
        return Projection(0.0, 0.0, exact=True)
    method, schedule, sketch = make_method(config), plan_schedule(config), preview(config)
    kept = sketch.kept_nfe / sketch.nfe
    nfe, used, iterations = 0.0, 0.0, 0
    while iterations < PLANNED:
        cost = iteration_cost(planned(method, config.seed, iterations, schedule), config, method, schedule)
        # Pruning saves training evaluations, after the rewards are known.
        used += cost.amount(kind) * (kept if kind == "nfe" else 1)
        nfe += cost.nfe * kept
        iterations += 1
        if used >= budget:
            return Projection(nfe, iterations, exact=not sketch.prunes)
    scale = budget / used
    return Projection(nfe * scale, iterations * scale, exact=False)


def project(results: Path, cells: Sequence[Cell]) -> dict[str, Projection]:
    """Every cell's projection by its run's id; seconds and memory are medians over the finished runs in `results`.

    Taken from runs of the same settings but for seed, budget and learning rate; else of the same method and model.
    """
    same: dict[str, list[_Past]] = {}
    near: dict[str, list[_Past]] = {}
    for run in _past(results):
        same.setdefault(run.like, []).append(run)
        near.setdefault(run.near, []).append(run)
    found = {}
    for cell in cells:
        alike, nearby = same.get(_likeness(cell.config), []), near.get(_nearness(cell.config), [])
        source = f"{len(alike)} alike" if alike else f"{len(nearby)} of {cell.record.method}" if nearby else "unknown"
        found[cell.run] = _timed(_planned(cell), alike or nearby, source)
    return found


def _planned(cell: Cell) -> Projection:
    """A method that cannot be planned to its end hides no other cell's cost or state."""
    try:
        return planned_cost(cell.config)
    except Exception as error:  # a plugin's own code, in any iteration
        problem = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return Projection(math.nan, math.nan, exact=False, problem=problem)


@dataclass(frozen=True)
class _Past:
    """A finished run."""

    like: str
    near: str
    nfe: float
    seconds: float
    memory_bytes: float


def _past(results: Path) -> list[_Past]:
    """The finished runs of a folder; what cannot be read is left out."""
    from grpo_bench.training.run import stored_config

    found = []
    for name in run_names(results):
        store = RunStore(results / name)
        with suppress(UserError):
            if store.record.status == "done" and store.rows():
                last, config = store.rows()[-1], stored_config(store)
                seconds, memory = total_seconds(last), value(last, "peak_memory_bytes")
                found.append(_Past(_likeness(config), _nearness(config), value(last, "nfe"), seconds, memory))
    return found


def _timed(planned: Projection, past: Sequence[_Past], source: str) -> Projection:
    if not past:
        return planned
    if math.isnan(planned.nfe):
        seconds = planned.seconds
    elif planned.nfe:
        seconds = planned.nfe * statistics.median(run.seconds / run.nfe for run in past)
    else:
        seconds = statistics.median(run.seconds for run in past)
    memory = statistics.median(run.memory_bytes for run in past)
    return replace(planned, seconds=seconds, memory_bytes=memory, source=source)


def _likeness(config: RunConfig) -> str:
    """All that a run's speed depends on."""
    update = {
        "seed": 0,
        "recipe": "",
        "protocol": "controlled",
        "budget": {"iterations": float(config.budget_amount > 0)},
        "training": config.training.model_copy(update={"learning_rate": 1.0}),
        "evaluation": config.evaluation.model_copy(update={"seed": 0}),
    }
    return config.model_copy(update=update).to_toml()


def _nearness(config: RunConfig) -> str:
    trained = config.budget_amount > 0
    return repr((config.workload, config.method.name, config.model, config.sampling.steps, trained))
