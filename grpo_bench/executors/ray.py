"""Runs as tasks of a Ray cluster, which schedules them and takes them up elsewhere when a worker or node is lost.

A task starts `grpo-bench run` in a process of its own and waits. A task done twice is harmless: the folder's lock
lets one process write, and who comes second finds the run finished or goes on with it.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError
from grpo_bench.executors.address import check_answers
from grpo_bench.executors.base import Event, Job
from grpo_bench.executors.process import GRACE, PATIENCE, Outcome, run_job
from grpo_bench.executors.watch import Watch
from grpo_bench.store.names import clean_text

if TYPE_CHECKING:
    from ray import ObjectRef

RETRIES = 3
"""How often a job is taken up elsewhere when its worker or node is lost."""
OBJECT_STORE_BYTES = 200_000_000
"""Of a cluster started here; only configs and exit codes pass through it."""
_EVERY = 0.2


class RayExecutor:
    """Runs on the cluster at `address`, or on one that is started here and ends with the sweep."""

    def __init__(self, address: str | None = None, *, grace: float = GRACE) -> None:
        """`address`: HOST:PORT, `auto` (the one that runs on this machine), or None to start one."""
        self._address, self._grace = address, grace

    def execute(self, jobs: Sequence[Job], notify: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        """See `Executor`.

        Raises:
            UserError: Ray is not installed, does not answer, or has no node with what a job reserves.
        """
        ray = _ray()
        if not jobs:
            return
        # Ray prints what becomes of workers, and stdout is for results.
        with redirect_stdout(sys.stderr), _connected(ray, self._address):
            _check_room(ray, jobs)
            watch = Watch(jobs, notify)
            task = ray.remote(_carry_out)
            # Ray calls a task cancelled before it has ended, so that runs at work are asked to stop through a file.
            stop = jobs[0].folder.parent / f".{uuid.uuid4().hex[:12]}.stop"
            refs = {task.options(**_resources(job)).remote(job, stop, self._grace): job for job in jobs}
            asked: float | None = None
            try:
                while refs:
                    if asked is None and should_stop():
                        asked = time.monotonic()
                        stop.touch()
                        _cancel(ray, [ref for ref, job in refs.items() if not watch.has_begun(job)], force=False)
                    elif asked is not None and time.monotonic() - asked > self._grace + PATIENCE:
                        _cancel(ray, refs, force=True)
                    for ref in ray.wait(list(refs), timeout=_EVERY)[0]:
                        _tell(ray, ref, refs.pop(ref), watch)
                    watch.look(refs.values())
            finally:
                stop.unlink(missing_ok=True)


def _ray() -> ModuleType:
    # Before the import, which reads them; the last two are for a cluster that is started here. A run that never fits
    # into a node's memory would else be tried for ever, and every run would be as nice as Ray's workers (15) are.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("the ray executor needs Ray, which is not installed: pip install 'grpo-bench[ray]'") from error
    return ray


@contextmanager
def _connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Connect, and disconnect again; a cluster that was started here ends."""
    if address not in (None, "auto", "local"):
        assert address is not None
        check_answers(address, ray.util.get_node_ip_address())
    here = address in (None, "local")
    # An environment that names a cluster (RAY_ADDRESS) does not turn "start one here" into another's cluster.
    options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if here else {}
    try:
        ray.init(address="local" if here else address, log_to_driver=False, logging_level="CRITICAL", **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        doing = "could not be started here" if here else f"at {address} could not be joined"
        raise UserError(f"a Ray cluster {doing}: {clean_text(str(error), 300)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _resources(job: Job) -> dict[str, object]:
    """A task's options: what it reserves of its node, and how often it is taken up elsewhere."""
    reserved: dict[str, object] = {"num_cpus": job.threads or 1, "num_gpus": job.gpus}
    if job.memory_bytes is not None:
        reserved["memory"] = job.memory_bytes
    return {**reserved, "max_retries": RETRIES, "retry_exceptions": False, "name": job.run}


def _check_room(ray: ModuleType, jobs: Sequence[Job]) -> None:
    """Ray waits for ever for a node that has what a job reserves.

    Raises:
        UserError: no node of the cluster has it.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for job in jobs:
        needs = {"CPU": job.threads or 1, "GPU": job.gpus, "memory": job.memory_bytes or 0}
        if not any(all(node.get(kind, 0) >= amount for kind, amount in needs.items()) for node in nodes):
            wanted = ", ".join(f"{amount:g} {kind}" for kind, amount in needs.items() if amount)
            raise UserError(f"no node of the Ray cluster has the {wanted} that {job.run} reserves; ask for less")


def _carry_out(job: Job, stop: Path, grace: float) -> Outcome:
    """The task, on some node."""
    import ray

    context = ray.get_runtime_context()
    node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    alone = job.gpus >= 1 or context.get_assigned_resources().get("CPU", 0) >= node["Resources"].get("CPU", 0)
    try:
        return run_job(job, timed=job.timed and alone, threads=job.threads or 1, should_stop=stop.exists, grace=grace)
    except UserError as error:
        return Outcome(2, str(error), context.get_node_id())


def _cancel(ray: ModuleType, refs: Iterable[ObjectRef[Outcome]], *, force: bool) -> None:
    for ref in list(refs):
        ray.cancel(ref, force=force)


def _tell(ray: ModuleType, ref: ObjectRef[Outcome], job: Job, watch: Watch) -> None:
    try:
        watch.ended(job, ray.get(ref))
    except ray.exceptions.TaskCancelledError:
        watch.dropped(job)
    except ray.exceptions.RayError as error:
        first = clean_text(str(error).strip().partition("\n")[0], 300)
        watch.ended(job, Outcome(None, f"lost {RETRIES + 1} times: {first}"))
