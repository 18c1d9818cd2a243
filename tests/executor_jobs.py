"""Jobs for executors: real tiny runs, and processes that a plugin keeps busy, which start in a fraction of a second."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from grpo_bench.config import RunConfig, Table, build
from grpo_bench.executors.base import Event, Executor, Job
from grpo_bench.registry import WORKLOADS
from grpo_bench.store.run import RunStore

# Told by its file name what to do: it says who it is, waits until it may go on, and ends as `grpo-bench run` would.
BUSY = """
import json, os, sys, time
from pathlib import Path

here, name = Path(__file__).parent, Path(__file__).stem
if (here / f"{name}.deaf").exists():
    import signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
said = here / f"{name}.{time.time_ns()}.saying"
said.write_text(json.dumps(
    {"pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "cwd": os.getcwd(), "argv": sys.argv[1:],
     "threads": os.environ.get("OMP_NUM_THREADS"), "device": os.environ.get("CUDA_VISIBLE_DEVICES")}))
said.rename(said.with_suffix(".began"))
while not ((here / "go").exists() or (here / f"{name}.go").exists()):
    time.sleep(0.01)
print("an earlier line")
print((here / f"{name}.says").read_text() if (here / f"{name}.says").exists() else "", file=sys.stderr, flush=True)
os._exit(int((here / f"{name}.code").read_text()) if (here / f"{name}.code").exists() else 3)
"""


@dataclass
class Heard:
    """What an executor told, and a hand on what it does next: `react` sees every event, `stop` ends the sweep."""

    events: list[Event] = field(default_factory=list)
    react: Callable[[Event], None] = lambda event: None
    stop: bool = False
    most: int = 0

    def notify(self, event: Event) -> None:
        self.events.append(event)
        going = Counter(e.kind == "started" for e in self.events)
        self.most = max(self.most, going[True] - going[False])
        self.react(event)

    def kinds(self, job: Job) -> list[str]:
        return [event.kind for event in self.events if event.job == job]

    def last(self, job: Job) -> Event:
        return [event for event in self.events if event.job == job][-1]


def carry_out(executor: Executor, jobs: list[Job], react: Callable[[Event], None] = lambda event: None) -> Heard:
    heard = Heard(react=react)
    executor.execute(jobs, heard.notify, lambda: heard.stop)
    return heard


def busy(folder: Path, name: str, *, code: int = 3, says: str = "", deaf: bool = False, **more: object) -> Job:
    """A process that waits for `folder/go` or `folder/NAME.go`, says a last line and ends with `code`."""
    (folder / f"{name}.py").write_text(BUSY, encoding="utf-8")
    (folder / f"{name}.code").write_text(str(code), encoding="utf-8")
    (folder / f"{name}.says").write_text(says, encoding="utf-8")
    if deaf:
        (folder / f"{name}.deaf").touch()
    return Job(name, 'workload = "gaussian"', folder / "results", plugins=(str(folder / f"{name}.py"),), **more)  # type: ignore[arg-type]


def began(folder: Path, name: str) -> list[dict]:
    """What the processes of a busy job said of themselves, in order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{name}.*.began"))]


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.02)


def config(seed: int, **over: object) -> RunConfig:
    """A run of the analytic workload that takes a fraction of a second once everything is loaded."""
    tiny: Table = {
        "workload": "gaussian",
        "seed": seed,
        "budget": {"iterations": 3.0},
        "method": {"name": "flat", "group": 2},
        "sampling": {"steps": 4},
        "evaluation": {"prompts": 2, "images": 2, "steps": 2},
    }
    return build([("workload", WORKLOADS.get("gaussian").defaults), ("test", {**tiny, **over})])


def real(results: Path, seed: int, **over: object) -> Job:
    """That run as a job, under its own id."""
    from grpo_bench.training.prepare import identify

    identity = identify(config(seed, **over))
    return Job(identity.run, identity.config.to_toml(), results)


def iterations(store: RunStore) -> list[int]:
    return [int(np.asarray(row["iteration"])) for row in store.rows()]
