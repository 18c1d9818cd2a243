"""Carrying out what a suite still lacks: nothing twice, and nothing lost when it stops half-way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError
from grpo_bench.executors.base import Event, Job
from grpo_bench.store.atomic import exclusively
from grpo_bench.store.run import holder_of
from grpo_bench.store.suite import SuiteRecord, read_suite, suite_path, write_suite
from grpo_bench.sweeping.cells import Cell
from grpo_bench.sweeping.state import ENDED, CellState, busy, cell_state, refused

if TYPE_CHECKING:
    from grpo_bench.executors.base import Executor

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Between two looks at a run that another process holds."""


@dataclass(frozen=True)
class Task:
    """How a sweep's runs are started."""

    results: Path
    plugins: tuple[str, ...] = ()
    threads: int | None = None
    gpus: float = 0

    def job(self, cell: Cell) -> Job:
        """A cell as an executor takes it."""
        return Job(
            run=cell.run,
            config_toml=cell.config.to_toml(),
            results=self.results.absolute(),
            plugins=self.plugins,
            threads=self.threads,
            gpus=self.gpus,
        )


def wanted(state: CellState, *, retry_failed: bool) -> bool:
    """Whether a sweep runs a cell. A folder without a whole run.json is never touched: what is left may be worth more.

    Damaged points of a whole run are rebuilt by running it again, which trains nothing.
    """
    if state.kind == "failed":
        return retry_failed
    return state.kind in ("missing", "running", "interrupted") or (state.kind == "damaged" and state.record)


def carry_out(
    cells: Sequence[Cell],
    task: Task,
    executor: Executor,
    notify: Callable[[Event], None],
    should_stop: Callable[[], bool],
    *,
    retry_failed: bool = False,
) -> dict[str, CellState]:
    """Run every cell that is wanted; the state of all of them at the end, by run.

    A run that another process holds (one that a killed sweep left behind) is waited for, and taken over if it is left
    unfinished.

    Raises:
        UserError: the executor cannot work at all.
    """
    last: dict[str, Event] = {}

    def heard(event: Event) -> None:
        last[event.job.run] = event
        notify(event)

    told: set[str] = set()
    pending = [cell for cell in cells if wanted(cell_state(task.results, cell), retry_failed=retry_failed)]
    while pending and not should_stop():
        free = [cell for cell in pending if not busy(task.results, cell.run)]
        if free:
            executor.execute([task.job(cell) for cell in free], heard, should_stop)
        else:
            _tell_of_waiting(task.results, pending, told)
            time.sleep(POLL_SECONDS)
        tried = {cell.run for cell in free if not busy(task.results, cell.run)}
        pending = [cell for cell in pending if cell.run not in tried]
    return {cell.run: _final(task.results, cell, last.get(cell.run)) for cell in cells}


def _tell_of_waiting(results: Path, pending: Sequence[Cell], told: set[str]) -> None:
    """Say once of each run who else writes it."""
    for cell in pending:
        if cell.run not in told:
            told.add(cell.run)
            log.warning("waiting for %s, which %s writes", cell.run, holder_of(results / cell.run) or "another process")


def _final(results: Path, cell: Cell, last: Event | None) -> CellState:
    """What the folder says; where it does not say why the run has no result, what was last heard of it."""
    state = cell_state(results, cell)
    if last is None or not last.message or state.kind in ENDED or state.reason:
        return state
    return replace(state, kind="failed" if refused(state, last) else state.kind, reason=last.message)


def settled(results: Path, record: SuiteRecord) -> bool:
    """Whether the folder holds the suite's file as it would be written now."""
    try:
        return read_suite(suite_path(results, record.suite)) == record
    except UserError:
        return False


def announce(results: Path, record: SuiteRecord) -> str:
    """Write the suite's file; one sentence if it changes what decides, since that was named before anything ran.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        old: SuiteRecord | None = read_suite(suite_path(results, record.suite))
    except UserError:
        old = None
    write_suite(results, record)
    if old is None or (old.baseline, old.contrasts) == (record.baseline, record.contrasts):
        return ""
    return (
        f"the suite {record.suite} was begun with other contrasts ({_contrasts(old)}), and now names "
        f"{_contrasts(record)}: say so where you report them"
    )


def _contrasts(record: SuiteRecord) -> str:
    return f"{record.baseline} against {', '.join(record.contrasts) or 'none'}"


@contextmanager
def only_one(results: Path, suite: str) -> Iterator[None]:
    """Hold a suite in a folder of results; a killed sweep's hold ends with it.

    Raises:
        UserError: another process sweeps it into the same folder, or the folder cannot be written.
    """
    path = results / f".{suite}.sweep.lock"
    refused = f"the suite {suite} is being swept into {results} by another process: wait for it, or stop it first"
    with exclusively(path, "the sweep's lock", path, refused):
        yield
