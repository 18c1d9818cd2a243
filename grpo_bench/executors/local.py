"""Runs as processes of this machine, some at once.

One at a time has the machine to itself and is timed. Several at once share its cores and are untimed, unless each has
a GPU of its own. Both, and the threads of each, follow from what was asked for and never from how many runs are left:
the same command again, after a kill, gives the same runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

from grpo_bench.errors import UserError
from grpo_bench.executors.base import Event, Job
from grpo_bench.executors.process import GRACE, Outcome, Running

_EVERY = 0.05


class LocalExecutor:
    """`jobs` processes at once."""

    def __init__(self, jobs: int = 1, *, devices: tuple[str, ...] | None = None, grace: float = GRACE) -> None:
        """`devices`: GPUs to spread them over, as CUDA_VISIBLE_DEVICES names them; None: those that torch can use.

        `grace`: seconds a run has to finish its iteration when the sweep is stopped.

        Raises:
            UserError: less than one job.
        """
        if jobs < 1:
            raise UserError(f"--jobs is a number of runs at once, from 1 up, not {jobs}")
        self._jobs, self._devices, self._grace = jobs, devices, grace

    def execute(self, jobs: Sequence[Job], notify: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        """See `Executor`; whatever is raised in here, or by `notify`, kills the runs that go on."""
        devices = self._devices
        if devices is None:
            devices = devices_of_torch() if self._jobs > 1 else ()
        waiting, slots = deque(jobs), dict[int, Running]()
        try:
            while True:
                stopping = should_stop()
                for slot in range(self._jobs):
                    if slot not in slots and waiting and not stopping:
                        self._start(waiting.popleft(), slot, slots, devices, notify)
                if not slots:
                    return
                for slot, running in list(slots.items()):
                    outcome = self._look(running, stopping=stopping)
                    if outcome is not None:
                        del slots[slot]
                        notify(event(running.job, outcome))
                time.sleep(_EVERY)
        finally:
            for running in slots.values():
                running.kill()

    def _start(
        self,
        job: Job,
        slot: int,
        slots: dict[int, Running],
        devices: tuple[str, ...],
        notify: Callable[[Event], None],
    ) -> None:
        alone = self._jobs == 1 or len(devices) >= self._jobs
        shared = None if self._jobs == 1 else max(1, cores() // self._jobs)
        device = devices[slot % len(devices)] if devices else None
        try:
            slots[slot] = Running(job, timed=job.timed and alone, threads=job.threads or shared, device=device)
        except UserError as error:
            notify(Event("ended", job, code=2, message=str(error)))
            return
        notify(Event("started", job, slots[slot].where))

    def _look(self, running: Running, *, stopping: bool) -> Outcome | None:
        if stopping:
            running.interrupt()
        if running.asked_for() > self._grace:
            return running.kill()
        return running.poll()


def event(job: Job, outcome: Outcome) -> Event:
    """How a process ended, as it is told."""
    if outcome.code is None:
        return Event("lost", job, outcome.where, message=outcome.message)
    return Event("ended", job, outcome.where, outcome.code, outcome.message)


def cores() -> int:
    """CPU cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def devices_of_torch() -> tuple[str, ...]:
    """The GPUs a run would see, as CUDA_VISIBLE_DEVICES names them; none where torch can use none.

    torch itself is asked, in a process of its own: a machine may have GPUs and a torch that was built for none.
    """
    if shutil.which("nvidia-smi") is None:
        return ()
    asked = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    done = subprocess.run([sys.executable, "-P", "-c", asked], capture_output=True, text=True, check=False)
    said = done.stdout.split()
    count = int(said[-1]) if done.returncode == 0 and said and said[-1].isdecimal() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(count)]
    return tuple(name.strip() for name in names[:count])
