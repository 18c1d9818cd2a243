"""A sweep does what is lacking and nothing else, whatever state the folder is in."""

from __future__ import annotations

import shutil
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

import pytest
from filelock import FileLock
from running import Watcher, cli_here, same_points, sentence
from small_suite import small_suite

from grpo_bench.config import RunConfig, validated
from grpo_bench.errors import UserError
from grpo_bench.executors.base import Event, Job
from grpo_bench.registry import METHODS, REWARDS, load_plugin
from grpo_bench.store.run import RunStore, run_names
from grpo_bench.store.suite import read_suites
from grpo_bench.sweeping.cells import Cell, suite_cells, suite_record
from grpo_bench.sweeping.projection import project
from grpo_bench.sweeping.state import CellState, cell_state
from grpo_bench.sweeping.suite import parse_suite
from grpo_bench.sweeping.sweep import Task, announce, carry_out, only_one
from grpo_bench.training.run import start

SUITE = small_suite(settings="settings.training.prompts = 2\nsettings.evaluation = { every = 1500, prompts = 4 }")
PLUGIN = '''
import math
from pathlib import Path

import numpy as np
import torch
from grpo_bench import Method, Reward, chains


class Falls(Method):
    """A pair of chains that fails in its second iteration while a folder stands beside it."""

    name = "falls"

    def plan(self, iteration, rng, schedule):
        stochastic = np.arange(schedule.steps) < schedule.steps - 1
        return chains(schedule.sigmas, 2, stochastic)

    def credit(self, rollout):
        if Path(r"{trip}").exists():
            raise RuntimeError("[red]tripped\\x1b[31m over a wire")
        return super().credit(rollout)


class Nothing(Reward):
    """Not a number."""

    name = "nothing"
    range = (0.0, 1.0)

    def score(self, images, prompts):
        return torch.full((len(prompts),), math.nan)
'''


@dataclass
class Here:
    """An executor in this process, for runs of half a second."""

    ran: list[str] = field(default_factory=list)
    stop_after: int | None = None

    def execute(self, jobs: Sequence[Job], notify: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        for job in jobs:
            if should_stop():
                return
            self.ran.append(job.run)
            notify(Event("started", job))
            config = validated(RunConfig, tomllib.loads(job.config_toml))
            try:
                outcome = start(config, job.results, Watcher(stop_after=self.stop_after))
                assert outcome.record.run == job.run
                notify(Event("ended", job, code=0 if outcome.record.status == "done" else 1))
            except UserError as error:
                notify(Event("ended", job, code=2, message=str(error)))
            except Exception as error:
                notify(Event("ended", job, code=1, message=str(error)))


def never() -> bool:
    return False


def ignored(event: Event) -> None:
    pass


def swept(
    cells: Sequence[Cell], results: Path, executor: Here | None = None, *, retry_failed: bool = False
) -> dict[str, CellState]:
    return carry_out(cells, Task(results), executor or Here(), ignored, never, retry_failed=retry_failed)


@pytest.fixture
def cells() -> tuple[Cell, ...]:
    return suite_cells(parse_suite(SUITE))


@pytest.fixture
def trip(tmp_path: Path) -> Iterator[Path]:
    """The file over which the method `falls` falls; its plugin is loaded."""
    plugin, wire = tmp_path / "plugin.py", tmp_path / "wire"
    plugin.write_text(PLUGIN.replace("{trip}", str(wire)), encoding="utf-8")
    load_plugin(str(plugin))
    wire.mkdir()  # a file that a plugin names would be a part of it
    yield wire
    for registry, name in ((METHODS, "falls"), (REWARDS, "nothing")):
        with suppress(KeyError):
            del registry._plugins[name]


@pytest.mark.slow
def test_done_cells_are_skipped_and_interrupted_ones_go_on(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    """Given one cell done and one stopped, when swept, then only the second runs, to an uninterrupted one's points."""
    flat, tree = cells
    whole, mixed = tmp_path / "whole", tmp_path / "mixed"
    swept(cells, whole)
    swept([flat], mixed)
    swept([tree], mixed, Here(stop_after=2))
    assert cell_state(mixed, tree).kind == "interrupted"
    assert 0 <= cell_state(mixed, tree).share < 1

    executor = Here()
    states = swept(cells, mixed, executor)

    assert executor.ran == [tree.run]
    assert {state.kind for state in states.values()} == {"done"}
    same_points(RunStore(mixed / tree.run), RunStore(whole / tree.run))


@pytest.mark.slow
def test_failed_cells_are_shown_and_retried_only_on_request(trip: Path, tmp_path: Path) -> None:
    """Given a method that fails, then the others are done, its reason is kept, and only a retry runs it again."""
    cells = suite_cells(parse_suite(SUITE + "[methods.falls]\n"))
    states = swept(cells, tmp_path)
    assert [states[cell.run].kind for cell in cells] == ["done", "done", "failed"]
    assert "over a wire" in states[cells[2].run].reason
    trip.rmdir()

    untouched = Here()
    assert swept(cells, tmp_path, untouched)[cells[2].run].kind == "failed"
    assert untouched.ran == []
    again = Here()
    assert swept(cells, tmp_path, again, retry_failed=True)[cells[2].run].kind == "done"
    assert again.ran == [cells[2].run]


@pytest.mark.slow
def test_the_reason_of_a_failure_is_printed_as_it_is_and_harmless(trip: Path, tmp_path: Path) -> None:
    """Given a reason with markup and an escape, then the table shows the one as text and drops the other."""
    suite, text = tmp_path / "suite.toml", SUITE + "[methods.falls]\n"
    suite.write_text(text, encoding="utf-8")
    swept(suite_cells(parse_suite(text)), tmp_path)
    announce(tmp_path, suite_record(parse_suite(text), suite_cells(parse_suite(text))))
    said = cli_here("sweep", str(suite), "--results", str(tmp_path))
    assert said.returncode == 1
    assert "failed: RuntimeError: [red]tripped over a wire" in said.stdout
    assert "\x1b" not in said.stdout


def test_a_diverged_run_is_a_result(trip: Path, tmp_path: Path) -> None:
    """Given a reward that is not a number, then its cells have diverged, do not run again, and the exit code is 0."""
    text = SUITE.replace('rewards = ["gaussian"]', 'rewards = ["nothing"]')
    suite = tmp_path / "suite.toml"
    suite.write_text(text, encoding="utf-8")
    cells = suite_cells(parse_suite(text))
    assert {state.kind for state in swept(cells, tmp_path).values()} == {"diverged"}
    announce(tmp_path, suite_record(parse_suite(text), cells))
    said = cli_here("sweep", str(suite), "--results", str(tmp_path))
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("diverged: ") == 2


def test_a_folder_without_run_json_is_left_alone_and_the_others_go_on(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    flat, tree = cells
    swept([flat], tmp_path)
    (tmp_path / flat.run / "run.json").unlink()
    left = sorted((tmp_path / flat.run).rglob("*"))
    states = swept(cells, tmp_path, retry_failed=True)
    assert states[tree.run].kind == "done"
    assert states[flat.run].kind == "damaged"
    assert "is not a whole run, it has no run.json" in states[flat.run].reason
    assert sorted((tmp_path / flat.run).rglob("*")) == left


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_lost_points_of_a_done_run_are_rebuilt(
    damage: Callable[[Path], object], cells: tuple[Cell, ...], tmp_path: Path
) -> None:
    """Given a done run whose points are deleted or cut off, when swept, then they are those of before."""
    swept(cells, tmp_path)
    points = tmp_path / cells[0].run / "points.parquet"
    before = points.read_bytes()
    damage(points)
    assert cell_state(tmp_path, cells[0]).kind == "damaged"
    assert swept(cells, tmp_path)[cells[0].run].kind == "done"
    assert points.read_bytes() == before


@pytest.mark.slow
def test_a_run_that_another_process_holds_is_waited_for(
    cells: tuple[Cell, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a killed sweep's run that still writes, when swept, then the rest runs first and that one at last."""
    flat, tree = cells
    swept([flat], tmp_path, Here(stop_after=1))
    lock = FileLock(tmp_path / flat.run / "run.lock", thread_local=False)
    lock.acquire()

    def frees(event: Event) -> None:
        if event.kind == "ended" and event.job.run == tree.run:
            threading.Timer(1.0, lock.release).start()

    executor = Here()
    states = carry_out(cells, Task(tmp_path), executor, frees, never)
    assert [record.message for record in caplog.records if record.name == "grpo_bench.sweeping.sweep"] == [
        f"waiting for {flat.run}, which another process writes"
    ]
    assert executor.ran == [tree.run, flat.run]
    assert {state.kind for state in states.values()} == {"done"}


def test_a_refused_cell_says_why_and_leaves_nothing(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    """Given a folder's place taken by a file, then that cell is refused in one sentence and the others are done."""
    flat, tree = cells
    (tmp_path / flat.run).write_text("in the way", encoding="utf-8")
    states = swept(cells, tmp_path)
    assert states[tree.run].kind == "done"
    assert states[flat.run].kind == "failed"
    assert flat.run in states[flat.run].reason


@pytest.mark.parametrize(
    ("kind", "code", "shown"), [("ended", 130, "missing"), ("lost", None, "missing"), ("ended", 2, "failed")]
)
def test_a_cell_that_left_no_folder_keeps_what_was_heard_of_it(
    kind: Literal["ended", "lost"], code: int | None, shown: str, cells: tuple[Cell, ...], tmp_path: Path
) -> None:
    """Given runs that end before they have a folder, then only a refused one failed; each says why."""

    class Ends:
        def execute(
            self, jobs: Sequence[Job], notify: Callable[[Event], None], should_stop: Callable[[], bool]
        ) -> None:
            for job in jobs:
                notify(Event(kind, job, code=code, message="too early"))

    states = carry_out(cells, Task(tmp_path), Ends(), ignored, never)
    assert {(state.kind, state.reason) for state in states.values()} == {(shown, "too early")}


def test_a_run_that_a_full_disk_stopped_is_unfinished_and_not_failed(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    """Given a refusal amid a run whose record still says that it goes on, then the same command takes it up again."""

    class Refuses(Here):
        def execute(
            self, jobs: Sequence[Job], notify: Callable[[Event], None], should_stop: Callable[[], bool]
        ) -> None:
            super().execute(jobs, notify, should_stop)
            for job in jobs:
                notify(Event("ended", job, code=2, message="no space is left"))

    states = swept(cells, tmp_path, Refuses(stop_after=1))
    assert {state.kind for state in states.values()} == {"interrupted"}
    assert {state.kind for state in swept(cells, tmp_path).values()} == {"done"}


def test_projecting_many_cells_takes_as_long_for_each_as_for_few(tmp_path: Path) -> None:
    """Given n finished runs and n cells, then every run's and cell's settings are written out twice, not n times."""
    cells = suite_cells(parse_suite(SUITE.replace("seeds = 1", "seeds = 6")))
    swept(cells[:1], tmp_path)
    for cell in cells[1:]:
        shutil.copytree(tmp_path / cells[0].run, tmp_path / cell.run)
        (tmp_path / cell.run / "config.toml").write_text(cell.config.to_toml(), encoding="utf-8")
    written = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal written
        written += event == "call" and frame.f_code is RunConfig.to_toml.__code__

    sys.setprofile(count)
    try:
        project(tmp_path, cells)
    finally:
        sys.setprofile(None)
    assert written <= 2 * len(cells)


@pytest.mark.slow
def test_projected_evaluations_are_those_of_the_ledger(tmp_path: Path) -> None:
    """Given every unpruned method, then its planned cost is exact; of the pruned one it is said not to be."""
    text = SUITE + "".join(f"[methods.{name}]\n" for name in ("mix", "tempflow", "branch-mix", "guard", "ddpo"))
    cells = suite_cells(parse_suite(text + '[methods.top]\nname = "branch"\nset.method.prune_width = "parent-top1"\n'))
    empty = project(tmp_path, cells)
    states = swept(cells, tmp_path)
    for cell in cells[:-1]:
        assert (empty[cell.run].nfe, empty[cell.run].exact) == (states[cell.run].nfe, True), cell.record.label
    assert not empty[cells[-1].run].exact
    assert {projection.source for projection in empty.values()} == {"unknown"}
    known = project(tmp_path, cells)
    assert known[cells[0].run].source == "1 alike"
    assert known[cells[0].run].seconds == pytest.approx(states[cells[0].run].seconds)
    assert known[cells[0].run].memory_bytes == states[cells[0].run].memory_bytes


def test_a_dry_run_prints_every_cell_and_writes_nothing(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    suite, results = tmp_path / "suite.toml", tmp_path / "results"
    suite.write_text(SUITE + "[base]\nevaluations = 2\n[tuning]\nseeds = [9]\n", encoding="utf-8")
    said = cli_here("sweep", str(suite), "--dry-run", "--results", str(results))
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert sum("to run" in line and "unknown" in line for line in lines[2:]) == 2 + 2 + 6 + 1
    assert "10 cells: 10 missing" in said.stdout
    assert not results.exists()


@pytest.mark.slow
def test_a_dry_run_counts_failed_cells_where_they_would_run(trip: Path, tmp_path: Path) -> None:
    suite, text = tmp_path / "suite.toml", SUITE + "[methods.falls]\n"
    suite.write_text(text, encoding="utf-8")
    cells = suite_cells(parse_suite(text))
    swept(cells, tmp_path)
    args = ["sweep", str(suite), "--dry-run", "--results", str(tmp_path)]
    assert "to run:" not in cli_here(*args).stdout
    assert "to run: 1 cells, " in cli_here(*args, "--retry-failed").stdout


def test_a_method_that_cannot_be_planned_hides_no_other(trip: Path, tmp_path: Path) -> None:
    """Given a method whose credit fails, then the dry run says so once and shows every other cell's cost."""
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE.replace("seeds = 1", "seeds = 2") + "[methods.falls]\n", encoding="utf-8")
    said = cli_here("sweep", str(suite), "--dry-run", "--results", str(tmp_path / "results"))
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("falls cannot be planned: method 'falls' fails in credit on example rewards") == 1
    assert "to run: 6 cells, NFE unknown" in said.stdout
    assert "5,328" in said.stdout


def test_a_budget_of_seconds_is_projected_as_it_is(tmp_path: Path) -> None:
    """Given a minute for each of two cells, then one after another they take two, and two at once take one."""
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE.replace("budget.nfe = 4000", "budget.seconds = 60"), encoding="utf-8")
    said = cli_here("sweep", str(suite), "--dry-run", "--jobs", "3", "--results", str(tmp_path / "results"))
    assert "to run: 2 cells, NFE unknown, 2 min 00 s one after another (about 1 min 00 s with 3 jobs" in said.stdout


def test_the_suites_file_stands_before_the_first_run(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    record = suite_record(parse_suite(SUITE), cells)
    assert announce(tmp_path, record) == ""
    assert read_suites(tmp_path) == (record,)
    assert run_names(tmp_path) == []
    other = suite_record(parse_suite(SUITE.replace('["tree"]', "[]")), cells)
    assert "was begun with other contrasts (flat against tree), and now names flat against none" in announce(
        tmp_path, other
    )


def test_a_second_sweep_of_the_same_suite_is_refused(tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE, encoding="utf-8")
    with only_one(tmp_path, "small"):
        said = sentence(cli_here("sweep", str(suite), "--results", str(tmp_path)))
    assert said.startswith(f"the suite small is being swept into {tmp_path} by another process")
    assert run_names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    suite, file = tmp_path / "suite.toml", tmp_path / "file"
    suite.write_text(SUITE, encoding="utf-8")
    file.write_text("not a folder", encoding="utf-8")
    said = sentence(cli_here("sweep", str(suite), "--results", str(file / "results")))
    assert said.startswith("Could not write the sweep's lock to ")
