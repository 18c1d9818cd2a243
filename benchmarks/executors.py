"""What an executor adds to a run: seconds a run on Ray over those of the same runs as plain processes. One JSON line.

    python benchmarks/executors.py [--runs 4] [--address HOST:PORT]

The runs are tiny ones of the analytic workload, one at a time, under either in turn, so that a busy machine slows both.
`ray_overhead` ought to be at most 3 s a run; `ray_start` is what joining or starting the cluster takes, once a sweep.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from grpo_bench.config import RunConfig, Table, build
from grpo_bench.errors import UserError
from grpo_bench.executors.base import Event, Executor, Job
from grpo_bench.executors.local import LocalExecutor, cores
from grpo_bench.executors.ray import RayExecutor
from grpo_bench.registry import WORKLOADS
from grpo_bench.training.run import identify

TINY: Table = {
    "workload": "gaussian",
    "budget": {"iterations": 1.0},
    "method": {"name": "flat", "group": 2},
    "sampling": {"steps": 4},
    "evaluation": {"prompts": 2, "images": 2, "steps": 2},
}


def config(seed: int) -> RunConfig:
    """A run that takes a moment once everything is loaded."""
    return build([("workload", WORKLOADS.get("gaussian").defaults), ("benchmark", {**TINY, "seed": seed})])


def ends(executor: Executor, jobs: list[Job]) -> list[float]:
    """Seconds from the beginning to each job's end.

    Raises:
        UserError: a run is not done.
    """
    began, told = time.perf_counter(), []

    def notify(event: Event) -> None:
        if event.kind == "lost" or event.code:
            raise UserError(f"{event.job.run} is not done: {event.message}")
        if event.kind == "ended":
            told.append(time.perf_counter() - began)

    executor.execute(jobs, notify, lambda: False)
    return told


def measure(runs: int, address: str | None) -> dict[str, object]:
    """Seconds a run under both, and what is between them."""
    with tempfile.TemporaryDirectory(prefix="grpo-bench-") as folder:
        jobs = []
        for seed in range(runs):
            identity = identify(config(seed))
            jobs.append(Job(identity.run, identity.config.to_toml(), Path(folder), threads=cores()))
        local: list[float] = []
        alone = [replace(job, results=Path(folder) / "local", threads=1) for job in jobs]
        on_ray = [replace(job, results=Path(folder) / "ray", threads=cores()) for job in jobs]
        half = len(jobs) // 2
        local += _gaps(ends(LocalExecutor(1), alone[:half]))
        told = ends(RayExecutor(address), on_ray)
        local += _gaps(ends(LocalExecutor(1), alone[half:]))
    # A first run's end contains joining the cluster, so it is not one of those that are compared.
    later = _gaps(told)[1:]
    overhead = statistics.median(later) - statistics.median(local)
    return {
        "runs": runs,
        "cores": os.cpu_count(),
        "local_seconds": round(statistics.median(local), 2),
        "ray_seconds": round(statistics.median(later), 2),
        "ray_overhead": round(overhead, 2),
        "ray_start": round(told[0] - statistics.median(later), 2),
    }


def _gaps(ended: list[float]) -> list[float]:
    return [end - before for before, end in zip([0.0, *ended[:-1]], ended, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4, help="runs under either, from 2 up")
    parser.add_argument("--address", help="of a Ray cluster; default: one started here")
    given = parser.parse_args()
    print(json.dumps(measure(max(2, given.runs), given.address)))
