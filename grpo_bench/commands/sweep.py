"""`grpo-bench sweep`: all runs of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_bench.commands.options import Device, Plugins, Results, load_plugins, print_json, results_folder
from grpo_bench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grpo_bench.executors.base import Executor
    from grpo_bench.sweeping.cells import Cell
    from grpo_bench.sweeping.state import CellState
    from grpo_bench.sweeping.suite import Suite
    from grpo_bench.sweeping.sweep import Task
    from grpo_bench.sweeping.tuning import Layout

EXIT_UNFINISHED = 1


def sweep(
    suite: Annotated[str, typer.Argument(help="A suite's TOML file, or the name of a shipped one.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every cell and its cost; run nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once; more than one marks them untimed.")] = 1,
    executor: Annotated[str, typer.Option(help="Where runs are carried out: local, ray or slurm.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; default: one started here.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for slurm. Repeatable.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each run.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each run on a cluster.")] = 0,
    device: Device = None,
    results: Results = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again.")] = False,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="Print the cells as one JSON line only.")] = False,
) -> None:
    """Carry out a suite: what is done is kept, what was interrupted goes on, what failed is shown with its reason.

    Exit code 0 when every cell ended (done or diverged), 1 otherwise.
    """
    from grpo_bench.executors.choose import make_executor
    from grpo_bench.sweeping.suite import find_suite, load_suite, on_device
    from grpo_bench.terminal.waiting import waiting

    load_plugins(plugin)
    chosen = make_executor(executor, jobs=jobs, address=address, gpus=gpus, options=_options(option))
    folder = results_folder(results)
    read = load_suite(find_suite(suite))
    read = on_device(read, device or ("auto" if executor == "local" else "cuda" if gpus else "cpu"), asked=bool(device))
    with waiting("resolving the suite", quiet=json):
        from grpo_bench.sweeping.state import ENDED, cell_state
        from grpo_bench.sweeping.tuning import lay_out

        layout = lay_out(read, folder)
        states: Mapping[str, CellState] = {cell.run: cell_state(folder, cell) for cell in layout.cells}
    if dry_run:
        _dry_run(read, layout, states, folder, jobs=jobs, retry_failed=retry_failed, json=json)
        return
    from grpo_bench.sweeping.sweep import Task

    task = Task(folder, tuple(plugin or ()), threads, gpus)
    layout, states = _carry_out(read, layout, states, task, chosen, retry_failed=retry_failed, json=json)
    _print(read, layout, states, folder, json=json)
    if layout.waiting or any(state.kind not in ENDED for state in states.values()):
        raise typer.Exit(EXIT_UNFINISHED)


def _dry_run(
    suite: Suite,
    layout: Layout,
    states: Mapping[str, CellState],
    folder: Path,
    *,
    jobs: int,
    retry_failed: bool,
    json: bool,
) -> None:
    """Print what there is and what the rest will cost; nothing is written."""
    from grpo_bench.sweeping.projection import project
    from grpo_bench.terminal.sweeping import cells_json, print_choices, print_dry_run, wide_console
    from grpo_bench.terminal.waiting import waiting

    with waiting("planning every cell", quiet=json):
        projections = project(folder, layout.cells)
    if json:
        print_json(_json(suite, layout, folder) | {"cells": cells_json(layout.cells, states, projections)})
    else:
        console = wide_console()
        print_dry_run(layout.cells, states, projections, console, jobs=jobs, retry_failed=retry_failed)
        print_choices(layout, console)


def _carry_out(
    suite: Suite,
    layout: Layout,
    states: Mapping[str, CellState],
    task: Task,
    executor: Executor,
    *,
    retry_failed: bool,
    json: bool,
) -> tuple[Layout, Mapping[str, CellState]]:
    """The runs and states at the end. Where nothing is left to do, nothing is written: any folder can be looked at.

    A tuned suite takes several rounds: what its trials gained says which runs come next.
    """
    from grpo_bench.sweeping.cells import suite_record
    from grpo_bench.sweeping.state import cell_state
    from grpo_bench.sweeping.sweep import announce, carry_out, only_one, settled, wanted
    from grpo_bench.sweeping.tuning import lay_out
    from grpo_bench.terminal.sweep_display import SweepDisplay

    tried: set[str] = set()

    def left() -> list[Cell]:
        return [c for c in layout.cells if c.run not in tried and wanted(states[c.run], retry_failed=retry_failed)]

    if not left() and settled(task.results, suite_record(suite, layout.cells, layout.choices)):
        return layout, states
    with only_one(task.results, suite.name):
        stopped = False
        while not stopped:
            warning = announce(task.results, suite_record(suite, layout.cells, layout.choices))
            if warning:
                typer.echo(f"grpo-bench: {warning}", err=True)
            if not left():
                break
            with SweepDisplay(layout.cells, len(left()), task.results, quiet=json) as display:
                carried = carry_out(
                    layout.cells, task, executor, display.heard, display.should_stop, retry_failed=retry_failed
                )
                stopped = display.should_stop()
            tried |= {cell.run for cell in layout.cells}
            layout = lay_out(suite, task.results)
            states = {cell.run: carried.get(cell.run) or cell_state(task.results, cell) for cell in layout.cells}
    return layout, states


def _print(suite: Suite, layout: Layout, states: Mapping[str, CellState], folder: Path, *, json: bool) -> None:
    from grpo_bench.terminal.sweeping import cells_json, print_choices, print_sweep, wide_console

    if json:
        print_json(_json(suite, layout, folder) | {"cells": cells_json(layout.cells, states)})
    else:
        console = wide_console()
        print_sweep(layout.cells, states, console)
        print_choices(layout, console)
        typer.echo(f"results: {folder}")


def _json(suite: Suite, layout: Layout, folder: Path) -> dict[str, object]:
    choices = [choice.model_dump(mode="json") for choice in layout.choices]
    return {"suite": suite.name, "results": str(folder), "choices": choices, "waiting": layout.waiting}


def _options(assignments: list[str] | None) -> dict[str, str]:
    """`KEY=VALUE` flags as a table."""
    found = {}
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            raise UserError(f"--option takes KEY=VALUE, such as partition=gpu, not {assignment!r}")
        found[key] = value
    return found
