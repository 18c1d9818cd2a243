"""The live display of a sweep on stderr; without a terminal, a line for each run that ends; Ctrl-C as a request."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grpo_bench.sweeping.state import CellState, cell_state, refused
from grpo_bench.terminal.sweeping import part_name
from grpo_bench.terminal.text import NOTHING, duration, plain, score

if TYPE_CHECKING:
    from grpo_bench.executors.base import Event
    from grpo_bench.sweeping.cells import Cell

LOOK_EVERY = 2.0
"""Seconds between two readings of the running runs' points."""
SHOWN = 12
"""Running runs that are shown by name."""
NOTICE = "stopping: the running ones save and end, and the same command goes on; press Ctrl-C again to stop at once"
AT_ONCE = "stopped at once: the same command goes on from the last checkpoints"


class SweepDisplay:
    """Hears of a sweep's events and shows them; a context manager that takes over Ctrl-C.

    Args:
        cells: all cells of the suite.
        left: how many of them are to run.
        quiet: show nothing; Ctrl-C works all the same.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        left: int,
        results: Path,
        *,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(
            stderr=True, highlight=False, force_interactive=None if sys.stderr.isatty() else False
        )
        self._cells = {cell.run: cell for cell in cells}
        self._cached, self._left = len(cells) - left, left
        # By run: one that was lost, or held by somebody else, begins again and ends a second time.
        self._ended: set[str] = set()
        self._results, self._quiet, self._clock = results, quiet, clock
        self._running: dict[str, str] = {}
        self._shares: tuple[float, dict[str, CellState]] = (-math.inf, {})
        self._began, self._stopping = clock(), False
        self._live: Live | None = None
        self._handler: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> SweepDisplay:
        """Start drawing and take over Ctrl-C."""
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupted)
        if not self._quiet and self.console.is_interactive:
            self._live = Live(
                get_renderable=self._frame,
                console=self.console,
                transient=True,
                redirect_stdout=False,
                refresh_per_second=2,
            )
            self._live.start()
        elif not self._quiet:
            self._say(Text(f"{self._left} cells to run, {self._cached} of {len(self._cells)} are there"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop drawing and give Ctrl-C back."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if isinstance(error, KeyboardInterrupt):
            self._say(Text(AT_ONCE))
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def should_stop(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._stopping

    def heard(self, event: Event) -> None:
        """Take in an executor's event."""
        run = event.job.run
        if event.kind == "started":
            self._running[run] = event.where
            self._ended.discard(run)
            return
        self._running.pop(run, None)
        self._ended.add(run)
        self._say(self._line(event))

    def seconds_left(self) -> float:
        """From the mean time between two ends so far; NaN before the first."""
        ended = len(self._ended)
        return (self._clock() - self._began) / ended * max(0, self._left - ended) if ended else math.nan

    def _line(self, event: Event) -> Text:
        cell = self._cells[event.job.run]
        state = cell_state(self._results, cell)
        said = "lost" if event.kind == "lost" else "refused" if refused(state, event) else state.kind
        line = Text.assemble(
            f"{self._cached + len(self._ended)}/{len(self._cells)} ",
            self._name(cell),
            f": {said}",
            f", {self._gold(state)}",
        )
        if event.message:
            line.append(" (").append_text(plain(event.message, limit=300)).append(")")
        return line.append(f"; {len(self._running)} running, {duration(self.seconds_left())} left")

    def _say(self, line: Text) -> None:
        if not self._quiet:
            (self._live.console if self._live is not None else self.console).print(line, soft_wrap=True)

    def _frame(self) -> Group:
        bar = Table.grid(padding=(0, 1))
        done, looked = self._cached + len(self._ended), self._looked()
        bar.add_row(
            ProgressBar(len(self._cells), done, width=30),
            Text(
                f"{done} of {len(self._cells)} cells, {len(self._running)} running, "
                f"{max(0, self._left - done + self._cached - len(self._running))} waiting, "
                f"{duration(self.seconds_left())} left"
            ),
        )
        rows = Table.grid(padding=(0, 2))
        for run, (where, state) in looked.items():
            share = f"{state.share:.0%}" if math.isfinite(state.share) else "starting"
            rows.add_row(self._name(self._cells[run]), share, self._gold(state), plain(where, "dim", 60))
        return Group(bar, rows, Text(NOTICE, style="yellow") if self._stopping else Text())

    def _looked(self) -> dict[str, tuple[str, CellState]]:
        """Where the first running runs are, and their states, read now and then; called by the drawing thread too."""
        now, shown = self._clock(), dict(islice(self._running.copy().items(), SHOWN))
        read_at, states = self._shares
        if now - read_at > LOOK_EVERY or set(shown) - set(states):
            states = {run: cell_state(self._results, self._cells[run]) for run in shown}
            self._shares = now, states
        return {run: (where, states[run]) for run, where in shown.items()}

    @staticmethod
    def _name(cell: Cell) -> Text:
        if cell.record.part == "base":
            return Text(part_name(cell), style="bold")
        part = "" if cell.record.part == "main" else f", {part_name(cell)}"
        return plain(f"{cell.record.label}{part}, seed {cell.record.seed}", "bold", 100)

    @staticmethod
    def _gold(state: CellState) -> str:
        return f"gold {score(state.gold)}" if math.isfinite(state.gold) else f"gold {NOTHING}"

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = True
        if self._live is None and not self._quiet:
            # The interrupted code may be inside a print to the same stream, which cannot be entered twice.
            with suppress(OSError, ValueError, AttributeError):
                os.write(self.console.file.fileno(), f"{NOTICE}\n".encode())
