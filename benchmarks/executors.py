"""What Ray adds to a run: seconds a run on Ray over those of the same runs as plain processes. One JSON line.

    python benchmarks/executors.py [--runs 10] [--address HOST:PORT]

What is added does not depend on what a run does, so that these are refused as soon as their process reads its config:
the shorter a run, the less of what a busy machine does to it is in the difference. One at a time; half of the plain
ones before Ray's and half after. `ray_overhead` ought to be at most 3 s a run; `ray_start` is what starting or joining
the cluster and its first worker take, once a sweep.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from grpo_bench.errors import UserError
from grpo_bench.executors.base import Event, Executor, Job
from grpo_bench.executors.local import LocalExecutor, cores
from grpo_bench.executors.ray import RayExecutor

REFUSED = 2


def gaps(executor: Executor, jobs: list[Job]) -> list[float]:
    """Seconds from one job's end to the next one's; the first from the beginning.

    Raises:
        UserError: a job ended otherwise than it should.
    """
    times = [time.perf_counter()]

    def notify(event: Event) -> None:
        if event.kind == "lost" or event.code not in (None, REFUSED):
            raise UserError(f"{event.job.run} ended with {event.code}: {event.message}")
        if event.kind == "ended":
            times.append(time.perf_counter())

    executor.execute(jobs, notify, lambda: False)
    return [end - before for before, end in itertools.pairwise(times)]


def measure(runs: int, address: str | None) -> dict[str, float | int | None]:
    """Seconds a run under both, and what is between them."""
    with tempfile.TemporaryDirectory(prefix="grpo-bench-") as folder:
        jobs = [Job(f"run-{number}", "not TOML", Path(folder), threads=cores()) for number in range(runs + 1)]
        before = gaps(LocalExecutor(1), jobs[: runs // 2])
        first, *on_ray = gaps(RayExecutor(address), jobs)
        plain = statistics.median(before + gaps(LocalExecutor(1), jobs[: runs // 2]))
    return {
        "runs": runs,
        "cores": os.cpu_count(),
        "plain_seconds": round(plain, 2),
        "ray_seconds": round(statistics.median(on_ray), 2),
        "ray_overhead": round(statistics.median(on_ray) - plain, 2),
        "ray_overhead_worst": round(max(on_ray) - plain, 2),
        "ray_start": round(first - plain, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10, help="runs under either, from 2 up")
    parser.add_argument("--address", help="of a Ray cluster; default: one started here")
    given = parser.parse_args()
    print(json.dumps(measure(max(2, given.runs), given.address)))
