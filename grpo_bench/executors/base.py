"""What an executor takes and says. A run's folder is its only output; nothing else comes back but how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class Job:
    """One run to carry out. Doing so twice is harmless: a finished run is found, an unfinished one resumed."""

    run: str
    """The run's id, also its folder's name in `results`."""
    config_toml: str
    """The resolved config."""
    results: Path
    """The folder of results; on a cluster, one that all nodes share."""
    plugins: tuple[str, ...] = ()
    """What `--plugin` takes: files and modules."""
    timed: bool = True
    """Whether its seconds may count; an executor that lets it share its device says otherwise."""
    threads: int | None = None
    """Threads of its process, on a cluster also CPUs reserved; None: the executor's choice."""
    gpus: float = 0
    """GPUs reserved on a cluster; in local processes every run takes the machine's device."""
    memory_bytes: int | None = None
    """Memory reserved on a cluster; None: nothing is reserved."""
    cwd: Path = field(default_factory=Path.cwd)
    """Where it runs, so that relative paths in the config mean the same everywhere."""

    @property
    def folder(self) -> Path:
        """The run's folder, in full."""
        return self.cwd / self.results / self.run


@dataclass(frozen=True)
class Event:
    """Something that happened to a job. The last event of a job is `ended` or `lost`, and there is one of them.

    `started`: its process began, seen a moment later on a cluster; again, if it was lost and taken up elsewhere.
    `ended`: its process ended by itself; `code` is that of `grpo-bench run`.
    `lost`: its process or node was killed. Where `started` follows, it is finished elsewhere; where nothing follows,
    the same command goes on with it.
    """

    kind: Literal["started", "ended", "lost"]
    job: Job
    where: str = ""
    """Process and machine, for people."""
    code: int | None = None
    """Of `ended`: 0 done, 1 failed, 2 refused (a mistake, or the folder is held), 3 diverged, 130 stopped."""
    message: str = ""
    """One sentence; empty when all is well. Hostile text is cleaned already."""


class Executor(Protocol):
    """Carries out jobs."""

    def execute(self, jobs: Sequence[Job], notify: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        """Start the jobs in their order and return when all have ended; one's failure stops no other.

        `notify` and `should_stop` are called in the calling thread, several times a second. Once `should_stop()` holds,
        no further job is started (such a job has no event), the running ones are asked to stop (they end with code 130
        and go on from there next time), and killed when they do not.

        Raises:
            UserError: the executor cannot work at all: its package is missing, its cluster does not answer.
        """
