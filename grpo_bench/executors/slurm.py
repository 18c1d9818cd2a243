"""Runs as arrays of Slurm jobs, submitted by submitit.

Slurm schedules, and requeues what it preempts or what runs out of time; the run then goes on from its checkpoint.
submitit pickles the job that it submits and what the job returns, which is nothing: how a run ended is a file of JSON,
and no pickle is ever read as a result.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError, nearest
from grpo_bench.executors.base import Event, Job
from grpo_bench.executors.process import GRACE, PATIENCE, Outcome, Running, wait, wait_for_holder
from grpo_bench.executors.watch import Watch
from grpo_bench.store.atomic import saving, write_text
from grpo_bench.store.names import clean_text

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit import Job as Submitted
    from submitit.helpers import DelayedSubmission

FOLDER = ".slurm"
"""In the results: submitit's scripts, logs and pickles, and how each run ended."""
OPTIONS = {
    "partition": "slurm_partition",
    "account": "slurm_account",
    "qos": "slurm_qos",
    "constraint": "slurm_constraint",
    "exclude": "slurm_exclude",
    "gres": "slurm_gres",
    "time": "timeout_min",
    "parallel": "slurm_array_parallelism",
    "signal-delay": "slurm_signal_delay_s",
}
"""What can be asked of Slurm, and submitit's name for it: `time` in minutes, `parallel` runs at once."""
_NUMBERS = ("time", "parallel", "signal-delay")
_MINUTES, _REQUEUES = 240, 100
_EVERY = 0.5


class SlurmExecutor:
    """Runs in Slurm's queue; `cluster` "local" has submitit play Slurm on this machine."""

    def __init__(self, options: Mapping[str, str], *, cluster: str = "slurm", grace: float = GRACE) -> None:
        """`options`: some of `OPTIONS`.

        Raises:
            UserError: an unknown option, or a number that is none.
        """
        for key, value in options.items():
            if key not in OPTIONS:
                raise UserError(f"Slurm has no option {key!r} here; {nearest(key, OPTIONS)}")
            if key in _NUMBERS and not (value.isdecimal() and int(value) > 0):
                raise UserError(f"{key} is a whole number, such as {key}=60, not {value!r}")
        self._options, self._cluster, self._grace = options, cluster, grace

    def execute(self, jobs: Sequence[Job], notify: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        """See `Executor`. What was submitted outlives this process when that is killed, as a queue's jobs do.

        Raises:
            UserError: submitit is not installed, there is no Slurm, or it refuses the jobs.
        """
        if not jobs:
            return
        watch = Watch(jobs, notify)
        work = _Work(jobs[0].folder.parent / FOLDER, uuid.uuid4().hex[:12])
        submitted = self._submit(jobs, work)
        asked: float | None = None
        try:
            while submitted:
                if asked is None and should_stop():
                    asked = time.monotonic()
                    work.ask_to_stop()
                late = asked is not None and time.monotonic() - asked > self._grace + PATIENCE
                for entry in list(submitted):
                    job, task = entry
                    if task.done():
                        submitted.remove(entry)
                        _tell(job, task, work, watch, stopping=asked is not None)
                    elif late or (asked is not None and not watch.has_begun(job)):
                        task.cancel(check=False)
                watch.look(job for job, _ in submitted)
                time.sleep(_EVERY)
        finally:
            for _, task in submitted:
                task.cancel(check=False)

    def _submit(self, jobs: Sequence[Job], work: _Work) -> list[tuple[Job, Submitted[None]]]:
        """One array for each kind of reservation."""
        kinds: dict[tuple[object, ...], list[Job]] = {}
        for job in jobs:
            kinds.setdefault((job.threads, job.gpus, job.memory_bytes), []).append(job)
        submitted: list[tuple[Job, Submitted[None]]] = []
        executor = self._engine(work.folder)
        for alike in kinds.values():
            function = SlurmRun(work, self._grace)
            try:
                executor.update_parameters(**_reservation(alike[0]))
                submitted += zip(alike, executor.map_array(function, alike), strict=True)
            except (OSError, RuntimeError, ValueError) as error:
                for _, task in submitted:
                    task.cancel(check=False)
                raise UserError(f"Slurm took no jobs: {clean_text(str(error), 300)}") from error
        return submitted

    def _engine(self, folder: Path) -> AutoExecutor:
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                "the slurm executor needs submitit, which is not installed: pip install 'grpo-bench[slurm]'"
            ) from error
        if self._cluster == "slurm" and shutil.which("sbatch") is None:
            raise UserError(
                "the slurm executor needs Slurm, and this machine has no sbatch; use --executor local or ray"
            )
        with saving("Slurm's files", folder):
            folder.mkdir(parents=True, exist_ok=True)
        executor = submitit.AutoExecutor(folder, cluster=self._cluster, slurm_max_num_timeout=_REQUEUES)
        given = {OPTIONS[key]: int(value) if key in _NUMBERS else value for key, value in self._options.items()}
        executor.update_parameters(name="grpo-bench", **({"timeout_min": _MINUTES} | given))
        return executor


class _Work:
    """What a sweep and its jobs tell each other, through files: please stop, and how a run ended."""

    def __init__(self, folder: Path, token: str) -> None:
        self.folder, self._token = folder, token

    def ask_to_stop(self) -> None:
        """Every job looks once in a while."""
        with saving("Slurm's files", self.folder):
            self._stop.touch()

    def asked_to_stop(self) -> bool:
        """Whether the sweep wants an end."""
        return self._stop.exists()

    def save(self, job: Job, outcome: Outcome) -> None:
        """How the job's process ended."""
        write_text(self._end(job), json.dumps(asdict(outcome)), "how a run ended")

    def load(self, job: Job) -> Outcome | None:
        """How it ended, or None when nobody could say any more."""
        try:
            return Outcome(**json.loads(self._end(job).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def _stop(self) -> Path:
        return self.folder / f"{self._token}.stop"

    def _end(self, job: Job) -> Path:
        return self.folder / f"{self._token}.{job.run}.json"


class SlurmRun:
    """What a Slurm job calls: one run, which stops and is queued again when Slurm preempts it or its time is over."""

    def __init__(self, work: _Work, grace: float) -> None:
        self._work, self._grace = work, grace
        self._running: Running | None = None

    def __call__(self, job: Job) -> None:
        """Carry out the job and write down how it ended."""
        try:
            wait_for_holder(job, PATIENCE)
            if self._work.asked_to_stop():
                return
            self._running = Running(job, timed=job.timed and _alone(job), threads=job.threads or 1)
            outcome = wait(self._running, self._work.asked_to_stop, self._grace)
        except UserError as error:
            outcome = Outcome(2, str(error))
        self._work.save(job, outcome)

    def checkpoint(self, job: Job) -> DelayedSubmission:
        """Called by submitit, in the midst of the above, before it has the job queued again."""
        from submitit.helpers import DelayedSubmission

        if self._running is not None:
            self._running.stop(self._grace)
        return DelayedSubmission(SlurmRun(self._work, self._grace), job)


def _alone(job: Job) -> bool:
    """Whether a run has its device to itself: a GPU of its own, or all CPUs of its node."""
    return job.gpus >= 1 or int(os.environ.get("SLURM_CPUS_ON_NODE") or 0) >= (os.cpu_count() or 1)


def _reservation(job: Job) -> dict[str, float]:
    parameters: dict[str, float] = {"nodes": 1, "tasks_per_node": 1, "cpus_per_task": job.threads or 1}
    if job.gpus:
        parameters["gpus_per_node"] = math.ceil(job.gpus)
    if job.memory_bytes is not None:
        parameters["mem_gb"] = job.memory_bytes / 1e9
    return parameters


def _tell(job: Job, task: Submitted[None], work: _Work, watch: Watch, *, stopping: bool) -> None:
    outcome = work.load(job)
    if outcome is not None:
        watch.ended(job, outcome)
    elif stopping:
        watch.dropped(job)
    else:
        watch.ended(job, Outcome(None, f"the Slurm job {task.job_id} ended as {task.state}, see {task.paths.stderr}"))
