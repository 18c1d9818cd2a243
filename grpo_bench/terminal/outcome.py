"""How a run ended: one table for a person, one JSON object for a script; from the stored run alone."""

from __future__ import annotations

import math
import os
import shlex
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from rich.console import Group
from rich.table import Table
from rich.text import Text

from grpo_bench.metering.ledger import PHASES, ROLES
from grpo_bench.store.names import clean_text
from grpo_bench.terminal.text import NOTHING, Row, change, count, duration, plain, score, sparkline, value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from grpo_bench.store.record import RunRecord
    from grpo_bench.store.run import RunStore

WIDTH = 84
CURVE, GRID = "curve.png", "grid.png"
_COLOURS = {"done": "green", "diverged": "red", "failed": "red"}


class BaseFinal(TypedDict):
    """A score before and after training; None where nothing was measured."""

    base: float | None
    final: float | None


class OutcomeJson(TypedDict):
    """What `run --quiet` prints; `reason` only where the status is not `done`.

    `fresh` is false where nothing was computed, because the run had ended before: this is its stored result.
    """

    run: str
    status: str
    fresh: bool
    gold: BaseFinal
    proxy: BaseFinal
    nfe: dict[str, int]
    seconds: dict[str, float]
    reason: NotRequired[str]


def outcome_json(store: RunStore, *, fresh: bool) -> OutcomeJson:
    """The stored run as one JSON object: scores of its first and last point, what it spent up to the last.

    Raises:
        UserError: run.json or points.parquet is damaged.
    """
    record, rows = store.record, store.rows()
    last: Row = rows[-1] if rows else {}
    outcome: OutcomeJson = {
        "run": record.run,
        "status": record.status,
        "fresh": fresh,
        "gold": _base_final(rows, "gold"),
        "proxy": _base_final(rows, "proxy"),
        "nfe": {role: int(last.get(f"{role}_nfe") or 0) for role in ROLES},
        "seconds": {phase: float(last.get(f"{phase}_seconds") or 0.0) for phase in PHASES},
    }
    if record.status != "done":
        outcome["reason"] = clean_text(record.reason)
    return outcome


def print_outcome(store: RunStore, console: Console) -> None:
    """The stored run as a table: scores before and after, costs, times, files, and how to go on if it is not done.

    Raises:
        UserError: run.json or points.parquet is damaged.
    """
    record, rows = store.record, store.rows()
    console.print()
    console.print(_heading(record, rows[-1] if rows else {}, min(WIDTH, console.width)))
    console.print()
    if rows:
        console.print(_scores(record, rows))
        console.print()
        console.print(_costs(rows[-1], min(WIDTH, console.width), console))
        console.print()
    else:
        console.print(Text("  it ended before the first measurement\n"))
    for label, path in (("run", store.folder), ("curve", store.folder / CURVE), ("grid", store.folder / GRID)):
        if path.exists():
            # Neither wrapped nor cut: a path is there to be copied.
            console.print(Text.assemble((f"  {label:<7}", "dim"), shown_path(path)), soft_wrap=True)
    _print_way_on(store, record, console)


def resume_command(store: RunStore) -> str:
    """The command that goes on with a run, with its plugins; by its id where it lies in the default folder."""
    default = Path(os.environ.get("GRPO_BENCH_RESULTS") or Path("results", "runs"))
    here = store.folder.resolve().parent == default.resolve()
    command = f"grpo-bench run --resume {store.folder.name if here else shlex.quote(shown_path(store.folder))}"
    given = store.record.command
    plugins = [value for flag, value in pairwise(given) if flag == "--plugin"]
    plugins += [word.removeprefix("--plugin=") for word in given if word.startswith("--plugin=")]
    return " ".join([command, *(f"--plugin {shlex.quote(clean_text(plugin))}" for plugin in plugins)])


def _base_final(rows: Sequence[Row], name: str) -> BaseFinal:
    first, last = (value(rows[0], name), value(rows[-1], name)) if rows else (math.nan, math.nan)
    return {"base": first if math.isfinite(first) else None, "final": last if math.isfinite(last) else None}


def _heading(record: RunRecord, last: Row, width: int) -> Table:
    """Who it was on the left, how it ended on the right."""
    line = Table.grid(expand=True)
    line.add_column(ratio=1, overflow="fold")
    line.add_column(justify="right", no_wrap=True)
    seconds = math.fsum(value(last, f"{phase}_seconds") for phase in PHASES) if last else math.nan
    ended = Text(record.status, style=f"bold {_COLOURS.get(record.status, 'yellow')}")
    if math.isfinite(seconds):
        ended.append(f" in {duration(seconds)}", style="not bold")
    recipe = plain(f" ({record.recipe})" if record.recipe else "", limit=70)
    line.add_row(
        Text.assemble(
            "  ",
            plain(record.method, "bold cyan", 64),
            recipe,
            f" on {record.workload}, reward ",
            plain(record.reward, "bold", 60),
            f", seed {record.seed}",
        ),
        ended,
    )
    line.width = width
    return line


def _scores(record: RunRecord, rows: Sequence[Row]) -> Table:
    """Held-out scores of the base and of the last point, with the course between them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=26)
    for _ in range(3):
        table.add_column(justify="right", min_width=9, no_wrap=True)
    table.add_column(no_wrap=True)
    headings = ("  held out", "base", "final", "change", "")
    table.add_row(*(Text(heading, style="dim") for heading in headings))
    for label, name in _measures(record, rows):
        numbers = [value(row, name) for row in rows]
        first, last = numbers[0], numbers[-1] if len(rows) > 1 else math.nan
        delta = last - first
        rose = name != "diversity" and math.isfinite(delta) and delta != 0
        table.add_row(
            Text.assemble("  ", label),
            score(first),
            score(last),
            Text(change(delta), style=("green" if delta > 0 else "red") if rose else ""),
            Text(sparkline(numbers, 16) if len(rows) > 1 else "", style="cyan"),
            style="bold" if name == "gold" else "",
        )
    return table


def _measures(record: RunRecord, rows: Sequence[Row]) -> list[tuple[Text, str]]:
    """What to show as (label, column): gold and proxy once where they are the same, then the rewards that differ."""
    rewards = list(dict.fromkeys(name for row in rows for name in row if name.startswith("reward/")))
    proxy = plain(f"proxy ({record.reward})", limit=40)
    if record.gold_is_proxy:
        shown = [(plain(f"gold = proxy ({record.reward})", limit=40), "gold")]
    else:
        gold = next((name.removeprefix("reward/") for name in rewards if _same(rows, name, "gold")), "")
        shown = [(plain(f"gold ({gold})" if gold else "gold", limit=40), "gold"), (proxy, "proxy")]
    for name in rewards:
        if not any(_same(rows, name, column) for _, column in shown):
            shown.append((plain(name.removeprefix("reward/"), limit=40), name))
    if any(math.isfinite(value(row, "diversity")) for row in rows):
        shown.append((Text("diversity"), "diversity"))
    return shown


def _same(rows: Sequence[Row], one: str, other: str) -> bool:
    return all(row.get(one) == row.get(other) for row in rows)


def _costs(last: Row, width: int, console: Console) -> Table:
    """Evaluations by role, the other counters, and seconds by phase, side by side where the width allows it."""
    roles = [(role, count(value(last, f"{role}_nfe"))) for role in ROLES if role != "setup"]
    axis = [("budget nfe", count(value(last, "nfe")))]
    counters = [
        ("iterations", "iteration"),
        ("updates", "updates"),
        ("images", "images"),
        ("reward calls", "reward_calls"),
        ("trained edges", "trained_edges"),
    ]
    spent = [(label, count(value(last, name))) for label, name in counters]
    memory = value(last, "peak_memory_bytes") / 1e9
    spent.append(("peak memory", f"{memory:.2f} GB" if memory > 0 else NOTHING))
    phases = [(phase, value(last, f"{phase}_seconds")) for phase in PHASES]
    total = [("budget seconds", f"{value(last, 'seconds'):.1f}")]
    blocks = [
        _block("NFE by role", roles + axis, bold="budget nfe"),
        _block("spent on training", spent),
        _block("seconds by phase", _columns(phases) + total, bold="budget seconds"),
    ]
    unlimited = console.options.update(max_width=1000)
    for gap in (4, 1):
        line = Table.grid(padding=(0, gap))
        line.add_row(*blocks)
        if console.measure(line, options=unlimited).maximum <= width:
            return line
    below = Table.grid()
    for block in blocks:
        below.add_row(block)
    return below


def _columns(phases: Sequence[tuple[str, float]]) -> list[tuple[str, str]]:
    return [(phase, f"{seconds:.1f}") for phase, seconds in phases if seconds >= 0.05 or not math.isfinite(seconds)]


def _block(title: str, lines: Sequence[tuple[str, str]], bold: str = "") -> Group:
    block = Table.grid(padding=(0, 2))
    block.add_column(no_wrap=True)
    block.add_column(justify="right", no_wrap=True)
    for label, number in lines:
        block.add_row(f"  {label}", number, style="bold" if label == bold else "")
    return Group(Text(f"  {title}", style="dim"), block)


def _print_way_on(store: RunStore, record: RunRecord, console: Console) -> None:
    if record.status == "done":
        return
    said = {"running": "it is still running, or was killed"}.get(record.status, record.reason or "no reason was stored")
    console.print()
    if record.status == "diverged" and store.rows():
        console.print(Text("  the last good checkpoint is kept; the same settings lead to the same end"))
    if record.status != "diverged":
        console.print(Text.assemble("  resume with  ", (resume_command(store), "bold")), soft_wrap=True)
    console.print(
        Text.assemble("  ", (record.status, f"bold {_COLOURS.get(record.status, 'yellow')}"), ": ", plain(said))
    )


def shown_path(path: Path) -> str:
    """Relative to the current folder where it lies below it."""
    path, here = path.resolve(), Path.cwd()
    return clean_text(str(path.relative_to(here) if path.is_relative_to(here) else path), 4096)
