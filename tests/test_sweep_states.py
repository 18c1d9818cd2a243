"""What a run's folder says of its cell, and what a sweep does about it: written by hand, nothing trained."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock
from small_suite import small_suite

from grpo_bench.executors.base import Event, Job
from grpo_bench.store.points import encode
from grpo_bench.store.record import RunRecord, Status
from grpo_bench.store.run import RunStore
from grpo_bench.store.suite import read_suites
from grpo_bench.sweeping.cells import Cell, suite_cells, suite_record
from grpo_bench.sweeping.state import CellState, cell_state
from grpo_bench.sweeping.suite import Suite, parse_suite
from grpo_bench.sweeping.sweep import Task, announce, carry_out, settled, wanted

PHASES = ("plan", "rollout", "decode", "reward", "credit", "train", "eval", "io", "setup")


def suite() -> Suite:
    return parse_suite(small_suite())


@pytest.fixture(scope="module")
def cells() -> tuple[Cell, ...]:
    return suite_cells(suite())


@pytest.fixture
def cell(cells: tuple[Cell, ...]) -> Cell:
    return cells[0]


def stored(
    results: Path, cell: Cell, status: Status, *, nfe: Sequence[int] = (), reason: str = "", timed: bool = True
) -> RunStore:
    """A cell's run that ended so, with a point at each of `nfe`, and phases of 1, 2, 4, 8, ... seconds."""
    record = RunRecord(
        run=cell.run, status=status, reason=reason, method="flat", reward="gaussian", workload="gaussian", seed=0,
        tier="analytic", rules_version=1, numerics_version=1, device="cpu", timed=timed,
    )  # fmt: skip
    store = RunStore.create(results, cell.run, cell.config.to_toml(), record)
    phases = {f"{phase}_seconds": 2.0**place for place, phase in enumerate(PHASES)}
    rows = [{"iteration": place, "nfe": spent, "gold": 0.25, **phases} for place, spent in enumerate(nfe)]
    if rows:
        (store.folder / "points.parquet").write_bytes(encode(rows))
    return store


def held_by(store: RunStore, host: str, pid: int) -> None:
    (store.folder / "holder.json").write_text(json.dumps({"host": host, "pid": pid}), encoding="utf-8")


def test_a_cell_without_a_folder_is_missing(tmp_path: Path, cell: Cell) -> None:
    assert cell_state(tmp_path, cell) == CellState("missing")


@pytest.mark.parametrize(("nfe", "share"), [((0,), 0.0), ((0, 1000), 0.25), ((0, 4000), 1.0), ((0, 4200), 1.0)])
def test_its_share_is_that_of_its_budget_and_never_more_than_all(
    tmp_path: Path, cell: Cell, nfe: tuple[int, ...], share: float
) -> None:
    stored(tmp_path, cell, "interrupted", nfe=nfe)

    assert cell_state(tmp_path, cell).share == share


def test_its_seconds_are_of_all_phases_and_its_figures_those_of_its_last_point(tmp_path: Path, cell: Cell) -> None:
    stored(tmp_path, cell, "done", nfe=(0, 4000), timed=False)

    state = cell_state(tmp_path, cell)

    assert (state.kind, state.seconds, state.gold, state.nfe, state.timed) == ("done", 2**9 - 1, 0.25, 4000, False)


def test_a_run_is_running_while_a_process_that_lives_says_so(tmp_path: Path, cell: Cell) -> None:
    store = stored(tmp_path, cell, "running", nfe=(0,))
    nobody = 2**22 + 7  # above the most that Linux gives

    assert cell_state(tmp_path, cell).kind == "interrupted"
    for host, pid, kind in (
        (socket.gethostname(), os.getpid(), "running"),
        (socket.gethostname(), nobody, "interrupted"),
        ("another-machine", nobody, "running"),  # of another machine's processes nothing is known
    ):
        held_by(store, host, pid)
        assert cell_state(tmp_path, cell).kind == kind


@pytest.mark.parametrize("status", ["done", "diverged", "failed"])
def test_a_run_that_ended_is_so_whoever_held_it(tmp_path: Path, cell: Cell, status: Status) -> None:
    held_by(stored(tmp_path, cell, status, nfe=(0,), reason="a reason"), "another-machine", 1)

    assert cell_state(tmp_path, cell).kind == status


@pytest.mark.parametrize(
    ("state", "once", "again"),
    [
        (CellState("missing"), True, True),
        (CellState("running", record=True), True, True),
        (CellState("interrupted", record=True), True, True),
        (CellState("failed", record=True), False, True),
        (CellState("damaged", record=True), True, True),
        (CellState("damaged"), False, False),
        (CellState("done", record=True), False, False),
        (CellState("diverged", record=True), False, False),
    ],
)
def test_what_a_sweep_runs(state: CellState, once: bool, again: bool) -> None:
    assert (wanted(state, retry_failed=False), wanted(state, retry_failed=True)) == (once, again)


class Told:
    """An executor that runs nothing and says how each job ended."""

    def __init__(self, **end: object) -> None:
        self.jobs: list[Job] = []
        self._end = end

    def execute(self, jobs: Sequence[Job], notify, should_stop) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        self.jobs += jobs
        for job in jobs:
            notify(Event("ended", job, **self._end))


def swept(cells: Sequence[Cell], task: Task, executor: Told) -> dict[str, CellState]:
    return carry_out(cells, task, executor, lambda event: None, lambda: False)


def test_a_job_is_told_all_that_was_asked_for(tmp_path: Path, cell: Cell) -> None:
    executor = Told(code=0)

    swept([cell], Task(tmp_path, plugins=("mine.py",), threads=3, gpus=0.5), executor)

    (job,) = executor.jobs
    assert (job.run, job.plugins, job.threads, job.gpus) == (cell.run, ("mine.py",), 3, 0.5)
    assert (job.results, job.config_toml) == (tmp_path, cell.config.to_toml())


def test_a_run_that_is_held_when_its_job_ends_is_waited_for_and_taken_over(tmp_path: Path, cell: Cell) -> None:
    """Given a run whose sweep was killed and whose process lives on, and takes the folder before its job can."""
    stored(tmp_path, cell, "interrupted", nfe=(0,))
    lock = FileLock(tmp_path / cell.run / "run.lock", thread_local=False)

    class Late(Told):
        def execute(self, jobs: Sequence[Job], notify, should_stop) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            if not self.jobs:
                lock.acquire()
                threading.Timer(0.7, lock.release).start()
            super().execute(jobs, notify, should_stop)

    executor = Late(code=2, message="is being written by another process")
    swept([cell], Task(tmp_path), executor)

    assert [job.run for job in executor.jobs] == [cell.run, cell.run]


def test_once_asked_to_stop_nothing_is_begun(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    executor = Told(code=0)

    states = carry_out(cells, Task(tmp_path), executor, lambda event: None, lambda: True)

    assert executor.jobs == []
    assert {state.kind for state in states.values()} == {"missing"}


def test_a_runs_own_reason_counts_for_more_than_what_was_heard_of_it(tmp_path: Path, cells: tuple[Cell, ...]) -> None:
    own, refused = cells
    stored(tmp_path, own, "interrupted", nfe=(0,), reason="stopped by hand")

    states = swept(cells, Task(tmp_path), Told(code=2, message="nobody home"))

    assert (states[own.run].kind, states[own.run].reason) == ("interrupted", "stopped by hand")
    assert (states[refused.run].kind, states[refused.run].reason) == ("failed", "nobody home")


def test_a_result_that_is_there_is_one_whatever_was_heard(tmp_path: Path, cell: Cell) -> None:
    stored(tmp_path, cell, "running", nfe=(0, 4000))

    class Ends(Told):
        def execute(self, jobs: Sequence[Job], notify, should_stop) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            store = RunStore(tmp_path / cell.run)
            store.save_record(replace_status(store.record, "done"))
            super().execute(jobs, notify, should_stop)

    state = swept([cell], Task(tmp_path), Ends(code=1, message="the cable was pulled"))[cell.run]

    assert (state.kind, state.reason) == ("done", "")


def replace_status(record: RunRecord, status: Status) -> RunRecord:
    return record.model_copy(update={"status": status})


def test_a_folder_is_settled_when_it_holds_the_suites_file_as_it_is_now(
    tmp_path: Path, cells: tuple[Cell, ...]
) -> None:
    record = suite_record(suite(), cells)

    assert not settled(tmp_path, record)
    announce(tmp_path, record)
    assert settled(tmp_path, record)
    assert not settled(tmp_path, record.model_copy(update={"title": "another"}))
    (tmp_path / "small.suite.json").write_text("{", encoding="utf-8")
    assert not settled(tmp_path, record)


def test_another_baseline_is_told_and_written_and_another_title_is_not_told(
    tmp_path: Path, cells: tuple[Cell, ...]
) -> None:
    record = suite_record(suite(), cells)
    announce(tmp_path, record)

    assert announce(tmp_path, record.model_copy(update={"title": "another"})) == ""
    other = record.model_copy(update={"baseline": "mix"})
    assert "(flat against tree), and now names mix against tree" in announce(tmp_path, other)
    assert read_suites(tmp_path) == (other,)
