"""What a sweep's display counts and shows, event by event."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from small_suite import small_suite

from grpo_bench.executors.base import Event
from grpo_bench.sweeping.cells import Cell, suite_cells
from grpo_bench.sweeping.projection import project
from grpo_bench.sweeping.state import CellState
from grpo_bench.sweeping.suite import parse_suite
from grpo_bench.sweeping.sweep import Task
from grpo_bench.terminal import sweep_display
from grpo_bench.terminal.sweep_display import SweepDisplay
from grpo_bench.terminal.sweeping import print_dry_run, print_sweep

SUITE = small_suite("shown", contrasts="[]", settings="settings.training.prompts = 2")


@pytest.fixture
def cells() -> tuple[Cell, ...]:
    return suite_cells(parse_suite(SUITE))


def event(kind: str, cell: Cell, **more: object) -> Event:
    return Event(kind, Task(Path("results")).job(cell), **more)  # type: ignore[arg-type]


def display(cells: tuple[Cell, ...], tmp_path: Path, *, terminal: bool = False, width: int = 100) -> SweepDisplay:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal)
    return SweepDisplay(cells, len(cells), tmp_path, console=console)


def text(shown: SweepDisplay) -> str:
    file = shown.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_lost_run_that_goes_on_elsewhere_is_counted_once(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    """Given a run that is lost and taken up again, then two cells end as 1 and 2 of 2, never as 3 of 2."""
    flat, tree = cells
    with display(cells, tmp_path) as shown:
        shown.heard(event("started", flat))
        shown.heard(event("lost", flat, message="its node was lost"))
        shown.heard(event("started", flat))
        shown.heard(event("started", tree))
        shown.heard(event("ended", tree, code=0))
        shown.heard(event("ended", flat, code=0))
    said = text(shown).splitlines()
    assert [line.partition(" ")[0] for line in said] == ["2", "1/2", "1/2", "2/2"]
    assert "lost, gold – (its node was lost); 0 running" in said[1]
    assert said[-1].endswith("; 0 running, 0 s left")


def test_a_run_may_end_while_it_is_drawn(
    cells: tuple[Cell, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a run that ends while another thread reads its state to draw it, then the frame is drawn all the same."""
    shown = display(cells, tmp_path)

    def ends_meanwhile(results: Path, cell: Cell) -> CellState:
        shown._running.clear()
        return CellState("running")

    for cell in cells:
        shown.heard(event("started", cell, where="process 7"))
    monkeypatch.setattr(sweep_display, "cell_state", ends_meanwhile)
    shown.console.print(shown._frame())
    assert "process 7" in text(shown)


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_folds_and_loses_nothing(cells: tuple[Cell, ...], tmp_path: Path, width: int) -> None:
    shown = display(cells, tmp_path, width=width)
    shown.heard(event("started", cells[0], where="process 7 on node-1"))
    shown.console.print(shown._frame())
    lines = text(shown).splitlines()
    assert max(len(line) for line in lines) <= width
    assert {"flat,", "seed"} <= set(text(shown).split())


def test_stopping_at_once_says_how_to_go_on(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    shown = display(cells, tmp_path)
    with pytest.raises(KeyboardInterrupt), shown:
        raise KeyboardInterrupt
    assert "the same command goes on" in text(shown)


def test_the_table_ends_with_what_can_be_done(cells: tuple[Cell, ...]) -> None:
    """Given one cell interrupted and one failed, then each has its command; of all done, none is named."""
    console = Console(file=io.StringIO(), width=100)
    flat, tree = (cell.run for cell in cells)
    print_sweep(
        cells,
        {
            flat: CellState("interrupted", "killed by SIGKILL", record=True),
            tree: CellState("failed", "why", record=True),
        },
        console,
    )
    print_sweep(cells, {flat: CellState("done"), tree: CellState("done")}, console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert f"seed 0 ({flat}) interrupted: killed by SIGKILL" in said
    assert f"seed 0 ({tree}) failed: why" in said
    assert said.count("1 unfinished: give the same command again") == 1
    assert said.count("1 failed: --retry-failed runs them again") == 1


@pytest.mark.parametrize("width", [40, 60])
def test_narrow_tables_fold_and_keep_every_column(cells: tuple[Cell, ...], width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    states = {cell.run: CellState("missing") for cell in cells}
    print_dry_run(cells, states, project(Path("none"), cells), console)
    print_sweep(cells, states, console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "…" not in said
    assert said.count("fl") >= 2
