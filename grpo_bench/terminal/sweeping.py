"""A suite's cells as tables: what is there, what the rest will cost, and how a sweep ended."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from grpo_bench.sweeping.state import CellState
from grpo_bench.terminal.tables import stdout_console
from grpo_bench.terminal.text import NOTHING, count, duration, plain, score

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_bench.sweeping.cells import Cell
    from grpo_bench.sweeping.projection import Projection
    from grpo_bench.sweeping.tuning import Layout

WIDTH = 100
_STYLES = {"done": "green", "diverged": "magenta", "failed": "red", "damaged": "red", "missing": "dim"}
_WORDS = {"missing": "to run", "done": "cached", "diverged": "cached, diverged"}

States = Mapping[str, CellState]
Projections = Mapping[str, "Projection"]


class CellJson(TypedDict):
    """One cell of `grpo-bench sweep --json`; numbers that are not known are null."""

    label: str
    method: str
    recipe: str | None
    reward: str
    workload: str
    seed: int
    protocol: str
    part: str
    factor: float
    run: str
    status: str
    reason: str
    share: float | None
    gold: float | None
    timed: bool
    projected_nfe: NotRequired[float | None]
    projected_nfe_exact: NotRequired[bool]
    projected_seconds: NotRequired[float | None]
    projected_memory_bytes: NotRequired[float | None]
    projected_from: NotRequired[str]


def cells_json(cells: Sequence[Cell], states: States, projections: Projections | None = None) -> list[CellJson]:
    """Every cell as `--json` prints it; with projections for a dry run."""
    found: list[CellJson] = []
    for cell in cells:
        record, state = cell.record, states[cell.run]
        one: CellJson = {
            **record.model_dump(mode="json"),  # type: ignore[typeddict-item]
            "status": state.kind,
            "reason": state.reason,
            "share": _number(state.share),
            "gold": _number(state.gold),
            "timed": state.timed,
        }
        if projections is not None:
            cost = projections[cell.run]
            one["projected_nfe"], one["projected_nfe_exact"] = _number(cost.nfe), cost.exact
            one["projected_seconds"] = _number(cost.seconds)
            one["projected_memory_bytes"] = _number(cost.memory_bytes)
            one["projected_from"] = cost.source
        found.append(one)
    return found


def wide_console() -> Console:
    """Stdout; a pipe has no width, and what reads it wants whole words."""
    console = stdout_console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    return console


def print_dry_run(
    cells: Sequence[Cell],
    states: States,
    projections: Projections,
    console: Console,
    *,
    jobs: int = 1,
    retry_failed: bool = False,
) -> None:
    """Every cell with its state and cost, then the totals of what would run."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        record = cell.record
        heading = f"workload {record.workload}, reward {record.reward}, {record.protocol} protocol"
        groups.setdefault(heading, []).append(cell)
    for heading, members in groups.items():
        console.print(plain(heading, "bold"))
        table = _table()
        table.add_column("label", overflow="fold")
        table.add_column("method", overflow="fold")
        table.add_column("part", overflow="fold")
        table.add_column("seed", justify="right", overflow="fold")
        table.add_column("state", overflow="fold")
        for heading in ("NFE", "time", "MB"):
            table.add_column(heading, justify="right", overflow="fold")
        for cell in members:
            table.add_row(*_row(cell, states[cell.run], projections[cell.run]))
        console.print(table)
    _print_reasons(cells, states, console)
    problems = {projections[cell.run].problem: cell.record.label for cell in cells}
    for problem, label in problems.items():
        if problem:
            console.print(plain(f"{label} cannot be planned: {problem}", "red"), soft_wrap=True)
    _print_counts(cells, states, console)
    kinds = ("missing", "interrupted", "running", *(("failed",) if retry_failed else ()))
    left = [cell for cell in cells if states[cell.run].kind in kinds]
    if left:
        _print_totals(left, states, projections, console, jobs)


def print_choices(layout: Layout, console: Console) -> None:
    """What each label's trials have chosen, and how many reported runs wait for a choice; nothing for a shared rate."""
    if layout.choices:
        table = _table()
        table.add_column("label", overflow="fold")
        table.add_column("tuned", overflow="fold")
        for heading in ("chosen", "best tried", "by proxy"):
            table.add_column(heading, justify="right", overflow="fold")
        for choice in layout.choices:
            said = [
                "none" if one is None else f"x{one:.3g}" for one in (choice.factor, choice.best, choice.proxy_factor)
            ]
            table.add_row(plain(choice.label, "bold cyan", 64), plain(choice.setting), *map(Text, said))
        console.print(table)
        for choice in layout.choices:
            if not choice.bracketed:
                console.print(plain(f"{choice.label}: {choice.reason}", "yellow"), soft_wrap=True)
    if layout.waiting:
        runs = f"{layout.waiting} reported {'run' if layout.waiting == 1 else 'runs'}"
        console.print(plain(f"{runs} follow at the rates that the trials choose; see them then"), soft_wrap=True)


def _row(cell: Cell, state: CellState, cost: Projection) -> list[Text]:
    record = cell.record
    nfe = f"{'' if cost.exact else '~'}{count(cost.nfe)}" if math.isfinite(cost.nfe) else "unknown"
    return [
        plain(record.label, "bold cyan", 64),
        plain(record.method, limit=64),
        Text(part_name(cell)),
        Text(str(record.seed)),
        _state(state),
        Text(nfe),
        Text(_known(duration(cost.seconds))),
        Text(_known(count(cost.memory_bytes / 1e6))),
    ]


def part_name(cell: Cell) -> str:
    """`main`, a base cell with its evaluation's seed, or a tuning cell's multiple of the learning rate."""
    if cell.record.part == "base":
        return f"base {cell.config.evaluation.seed}"
    if cell.record.part == "main":
        return "main"
    return f"{cell.record.setting.rpartition('.')[2] or 'rate'} x{cell.record.factor:.2g}"


def _state(state: CellState) -> Text:
    text = _WORDS.get(state.kind, state.kind)
    if state.kind == "interrupted":
        text = f"interrupted at {_share(state)}"
    elif state.kind == "running":
        text = f"running, {_share(state)}"
    return Text(text, style=_STYLES.get(state.kind, "yellow"))


def _share(state: CellState) -> str:
    return f"{state.share:.0%}" if math.isfinite(state.share) else "0%"


def _known(text: str) -> str:
    return "unknown" if text == NOTHING else text


def _megabytes(amount: float) -> str:
    return f"{amount / 1e6:,.0f} MB" if math.isfinite(amount) else NOTHING


def _print_reasons(cells: Sequence[Cell], states: States, console: Console) -> None:
    """What diverged, failed, is damaged or was lost, each with its reason on a line of its own."""
    for cell in cells:
        state = states[cell.run]
        asked_to = state.kind == "interrupted" and state.reason.startswith("stopped")
        if state.kind in ("failed", "damaged", "diverged") or (state.reason and state.kind != "done" and not asked_to):
            name = plain(f"{cell.record.label}, seed {cell.record.seed} ({cell.run})", "bold", 160)
            said = plain(f"{state.kind}: {state.reason or 'no reason is stored'}", _STYLES.get(state.kind, "yellow"))
            console.print(Text.assemble(name, " ", said), soft_wrap=True)


def _print_counts(cells: Sequence[Cell], states: States, console: Console) -> None:
    kinds = Counter(states[cell.run].kind for cell in cells)
    said = ", ".join(f"{kinds[kind]} {kind}" for kind in dict.fromkeys(states[cell.run].kind for cell in cells))
    console.print(Text(f"{len(cells)} cells: {said}"), soft_wrap=True)
    untimed = sum(not states[cell.run].timed for cell in cells)
    if untimed:
        note = f"{untimed} of the runs there are untimed (they shared their machine): no plot over seconds uses them"
        console.print(Text(note, style="dim"), soft_wrap=True)


def _print_totals(left: Sequence[Cell], states: States, projections: Projections, console: Console, jobs: int) -> None:
    shares = [1 - state.share if math.isfinite(state.share) else 1.0 for state in (states[cell.run] for cell in left)]
    costs = [projections[cell.run] for cell in left]
    nfe = sum(share * cost.nfe for share, cost in zip(shares, costs, strict=True))
    exact = all(cost.exact for cost in costs) and all(states[cell.run].kind == "missing" for cell in left)
    evaluations = f"{'' if exact else 'about '}{count(nfe)} NFE" if math.isfinite(nfe) else "NFE unknown"
    known = [share * cost.seconds for share, cost in zip(shares, costs, strict=True) if math.isfinite(cost.seconds)]
    unknown = len(costs) - len(known)
    line = f"to run: {len(left)} cells, {evaluations}"
    if known:
        several = max(sum(known) / jobs, *known)
        line += f", {duration(sum(known))} one after another"
        line += f" (about {duration(several)} with {jobs} jobs, if as fast)" if jobs > 1 else ""
    memory = [cost.memory_bytes for cost in costs if math.isfinite(cost.memory_bytes)]
    line += f", at most {_megabytes(max(memory))} a run" if memory else ""
    if unknown:
        line += f"; time and memory of {unknown} of them unknown, no run of their like is finished here"
    console.print(Text(line, style="bold"), soft_wrap=True)
    like = {cell.record.label: projections[cell.run].source for cell in left}
    sources = ", ".join(f"{label}: {source}" for label, source in like.items() if source != "unknown")
    if sources:
        note = f"time and memory are medians over finished runs in this folder ({sources})"
        console.print(plain(note, "dim", 1000), soft_wrap=True)


def print_sweep(cells: Sequence[Cell], states: States, console: Console) -> None:
    """How a sweep ended: a line for each label and part with its counts and its mean gold, then the reasons."""
    groups: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in cells:
        part = "base" if cell.record.part == "base" else part_name(cell)
        key = (cell.record.workload, cell.record.reward, cell.record.label, part)
        groups.setdefault(key, []).append(cell)
    several = len({key[:2] for key in groups}) > 1
    table = _table()
    for heading in [*(("workload", "reward") if several else ()), "label", "part"]:
        table.add_column(heading, overflow="fold")
    for heading in ("done", "diverged", "failed", "unfinished", "gold, mean", "runs"):
        table.add_column(heading, justify="right", overflow="fold")
    for (workload, reward, label, part), members in groups.items():
        kinds = Counter(states[cell.run].kind for cell in members)
        gold = [states[cell.run].gold for cell in members if states[cell.run].kind == "done"]
        counts = [kinds["done"], kinds["diverged"], kinds["failed"] + kinds["damaged"]]
        counts.append(len(members) - sum(counts))
        table.add_row(
            *([plain(workload), plain(reward)] if several else []),
            plain(label, "bold cyan", 64),
            Text(part),
            *(Text(str(number) if number else NOTHING) for number in counts),
            Text(score(statistics.fmean(gold) if gold else math.nan)),
            Text(str(len(gold))),
        )
    console.print(table)
    _print_reasons(cells, states, console)
    _print_next([states[cell.run] for cell in cells], console)


def _print_next(states: Sequence[CellState], console: Console) -> None:
    """What the person can do about cells without a result."""
    # What was refused before it had a folder is not among them: it is mended by what its reason says.
    failed = sum(state.kind == "failed" and state.record for state in states)
    unfinished = sum(state.kind in ("missing", "interrupted", "running") for state in states)
    if unfinished:
        console.print(Text(f"{unfinished} unfinished: give the same command again, and it goes on"), soft_wrap=True)
    if failed:
        console.print(Text(f"{failed} failed: --retry-failed runs them again"), soft_wrap=True)


def _table() -> Table:
    """As narrow as its content allows; a terminal that is narrower folds it."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _number(number: float) -> float | None:
    return number if math.isfinite(number) else None
