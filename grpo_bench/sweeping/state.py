"""How far a cell is, from its run's folder alone."""

from __future__ import annotations

import json
import math
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grpo_bench.errors import UserError
from grpo_bench.executors.base import Event
from grpo_bench.executors.process import INTERRUPTED
from grpo_bench.metering.ledger import PHASES
from grpo_bench.store.names import clean_text
from grpo_bench.store.record import RunRecord
from grpo_bench.store.run import RECORD, RunStore
from grpo_bench.sweeping.cells import Cell
from grpo_bench.terminal.text import Row, spent, value

Kind = Literal["missing", "running", "interrupted", "failed", "damaged", "done", "diverged"]

ENDED: tuple[Kind, ...] = ("done", "diverged")
"""A cell in one of these has its result; a run that diverged is one."""


@dataclass(frozen=True)
class CellState:
    """What a run's folder says; NaN where it says nothing."""

    kind: Kind
    reason: str = ""
    """Why it failed, diverged or is damaged."""
    share: float = math.nan
    """Of the budget, at its last point."""
    gold: float = math.nan
    """At its last point."""
    nfe: float = math.nan
    seconds: float = math.nan
    """Of all phases together: setup, evaluation and writing too."""
    memory_bytes: float = math.nan
    timed: bool = True
    record: bool = False
    """Whether its run.json is whole, so that the same command goes on with it."""


def refused(state: CellState, last: Event) -> bool:
    """Whether a run ended without a folder; one that was asked to stop may, and is no failure."""
    return state.kind == "missing" and last.kind == "ended" and last.code != INTERRUPTED


def cell_state(results: Path, cell: Cell) -> CellState:
    """The state of a cell's run in a folder of results; nothing is locked or written."""
    folder = results / cell.run
    store = RunStore(folder)
    if not folder.is_dir():
        return CellState("missing")
    try:
        record = store.record
    except UserError as error:
        return CellState("damaged", str(error))
    if record.run != cell.run:
        return CellState("damaged", f"{folder} holds another run, {record.run}: move it away")
    try:
        rows = store.rows()
        if record.status == "done" and not rows:
            raise UserError(f"{folder} has no points.parquet: the same command rebuilds it from the last checkpoint.")
    except UserError as error:
        return CellState("damaged", str(error), timed=record.timed, record=True)
    last = rows[-1] if rows else {}
    return CellState(
        _kind(folder, record),
        reason=clean_text(record.reason),
        share=_share(last, cell),
        gold=value(last, "gold"),
        nfe=value(last, "nfe"),
        seconds=total_seconds(last),
        memory_bytes=value(last, "peak_memory_bytes"),
        timed=record.timed,
        record=True,
    )


def total_seconds(row: Row) -> float:
    """Of all phases up to a point, also those that no budget counts."""
    return sum(value(row, f"{phase}_seconds") for phase in PHASES)


def _kind(folder: Path, record: RunRecord) -> Kind:
    if record.status in ("done", "diverged", "failed"):
        return record.status
    return "running" if held(folder) else "interrupted"


def _share(last: Row, cell: Cell) -> float:
    """Of the budget; an evaluation of the base has no budget, and is all there at its first point."""
    budget = cell.config.budget_amount
    if not budget:
        return 1.0 if last else 0.0
    return min(1.0, spent(last, cell.config.budget_kind) / budget) if last else 0.0


def held(folder: Path) -> bool:
    """Whether a living process says that it writes the run; a killed one's word is worth nothing on its own machine."""
    try:
        known = json.loads((folder / "holder.json").read_text(encoding="utf-8"))
        if str(known["host"]) != socket.gethostname():
            return True
        os.kill(int(known["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def busy(results: Path, run: str) -> bool:
    """Whether another process holds the run, asked of the lock itself."""
    from filelock import FileLock, Timeout

    folder = results / run
    if not (folder / RECORD).exists():
        return False
    try:
        with FileLock(folder / "run.lock").acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
