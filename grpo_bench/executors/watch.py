"""When runs begin that another machine starts: seen in their folders, which every node shares."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from grpo_bench.executors.base import Event, Job
from grpo_bench.executors.process import Outcome
from grpo_bench.store.run import holder_of


class Watch:
    """Tells of jobs' beginnings, and of their ends."""

    def __init__(self, jobs: Iterable[Job], notify: Callable[[Event], None]) -> None:
        """Take note of who holds the folders before anything is started: a killed process leaves its name there."""
        self._notify = notify
        self._seen = {job.run: holder_of(job.folder) for job in jobs}
        self._started: dict[str, str] = {}

    def look(self, jobs: Iterable[Job]) -> None:
        """Tell of every job that a process has begun with; of one begun before, that it was lost there first."""
        for job in jobs:
            holder = holder_of(job.folder)
            if holder is None or holder == self._seen[job.run]:
                continue
            self._seen[job.run] = holder
            before = self._started.get(job.run)
            if before is not None:
                self._notify(Event("lost", job, before, message="its process or node was lost, and another goes on"))
            self._started[job.run] = holder
            self._notify(Event("started", job, holder))

    def has_begun(self, job: Job) -> bool:
        """Whether a process has been seen at work on it."""
        return job.run in self._started

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Tell how a job ended."""
        self.look([job])
        where = outcome.where or self._started.get(job.run, "")
        if outcome.code is None:
            self._notify(Event("lost", job, where, message=outcome.message))
        elif outcome.code == 0 and job.run not in os.listdir(job.folder.parent):
            unshared = f"it ended, but not in {job.folder.parent}: the nodes and this machine must share that folder"
            self._notify(Event("ended", job, where, 1, unshared))
        else:
            self._notify(Event("ended", job, where, outcome.code, outcome.message))

    def dropped(self, job: Job) -> None:
        """Tell of a job that was taken back: nothing, if no process ever began with it."""
        self.look([job])
        if self.has_begun(job):
            self.ended(job, Outcome(130, "stopped on request"))
