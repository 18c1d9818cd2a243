"""The one live display of a run, on stderr; one line an evaluation where stderr is no terminal; Ctrl-C as a request."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from grpo_bench.builtin import PREFERENCE
from grpo_bench.errors import UserError
from grpo_bench.store.names import clean_text
from grpo_bench.terminal.text import Row, change, count, duration, plain, score, sparkline, spent, value

if TYPE_CHECKING:
    from rich.progress import TaskID

    from grpo_bench.evaluation.evaluator import Evaluation
    from grpo_bench.training.loop import Progress

SPEED_WINDOW = 10
"""Iterations over which the shown speed is averaged."""
SPARKS = 32


class RunDisplay:
    """Observes a run for a person; implements the trainer's `Observer` and is a context manager.

    The first Ctrl-C asks the run to stop after its iteration, the second raises KeyboardInterrupt. The old handler
    comes back on exit; outside the main thread, where Python allows no handler, Ctrl-C is left alone.

    Args:
        quiet: show nothing; Ctrl-C works all the same.
        console: where to draw, default stderr.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or _stderr()
        self._quiet, self._clock = quiet, clock
        self._method, self._reward, self._kind, self._budget = plain("run"), plain("the reward"), "budget", math.nan
        self._base: Row | None = None
        self._latest: Row | None = None
        self._last: Progress | None = None
        self._rewards: list[float] = []
        self._speeds: list[tuple[int, float]] = []
        self._start: tuple[float, float] | None = None
        self._reported = math.nan
        self._stopping = False
        self._handler: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = None
        self._spinner = Spinner("dots", Text("starting"), style="cyan")
        self._live: Live | None = None

    def loading(self) -> None:
        """Say that the libraries and the model are being loaded and the base measured."""
        self._spinner.update(text=Text("loading the model and measuring the base"))

    def started(self, run: str, folder: Path) -> None:
        """Learn from the run's folder what runs, and what it scored before where it is resumed.

        Raises:
            UserError: the folder's config.toml is damaged.
        """
        from grpo_bench.store.run import RunStore
        from grpo_bench.training.run import stored_config

        store = RunStore(folder)
        config = stored_config(store)
        self._method, self._reward = plain(config.method.name, "bold", 40), plain(config.reward.name, "bold", 40)
        self._kind, self._budget = config.budget_kind, config.budget_amount
        # Damaged points are rebuilt by the resume that follows.
        with suppress(UserError):
            rows = store.rows()
            self._base = next((row for row in rows if row.get("iteration") == 0), None)
            self._latest = rows[-1] if rows else None

    def __enter__(self) -> RunDisplay:
        """Start drawing and take over Ctrl-C."""
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupted)
        if not self._quiet and self.console.is_interactive:
            # What stdout gets is a result and must not be sent to stderr; the table printed there replaces this frame.
            self._live = Live(
                self, console=self.console, transient=sys.stdout.isatty(), redirect_stdout=False, refresh_per_second=4
            )
            stderr = sys.stderr
            self._live.start()
            _move_logs(stderr, sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop drawing and give Ctrl-C back."""
        if self._live is not None:
            drawn = sys.stderr
            self._live.stop()
            self._live = None
            _move_logs(drawn, sys.stderr)
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def iteration(self, progress: Progress) -> None:
        """Take in one finished iteration."""
        now = self._clock()
        if self._start is None:
            # A resumed run's iterations before this one are taken to have cost what this one did.
            self._start = now - progress.seconds, progress.spent * (1 - 1 / progress.iteration)
        self._last, self._reported = progress, now
        self._rewards.append(progress.reward)
        self._speeds.append((progress.nfe, progress.seconds))

    def evaluated(self, row: Row, evaluation: Evaluation | None = None) -> None:
        """Take in one evaluation; without a terminal, print it as a line."""
        if row.get("iteration") == 0:
            self._base = row
        self._latest = row
        self._spinner.update(text=Text("the first iteration"))
        if not self._quiet and self._live is None:
            self.console.print(self._line(row), soft_wrap=True)

    def should_stop(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._stopping

    def seconds_left(self) -> float:
        """Estimated from the share of the budget spent since the display began; NaN before the first iteration."""
        if self._last is None or self._start is None:
            return math.nan
        began, before = self._start
        used = self._last.spent - before
        if used <= 0 or not math.isfinite(self._budget):
            return math.nan
        remaining = max(0.0, self._budget - self._last.spent)
        return max(0.0, (self._reported - began) * remaining / used - (self._clock() - self._reported))

    def __rich__(self) -> Table:
        """The frame as it is now; the live display asks for it four times a second."""
        frame = Table.grid(padding=(0, 2))
        frame.add_column(style="dim", no_wrap=True)
        frame.add_column(no_wrap=True)
        if self._last is None:
            frame.add_row(self._method, self._spinner)
        else:
            frame.add_row(
                self._method, Text.assemble("training on ", self._reward, f", iteration {self._last.iteration:,}")
            )
        if math.isfinite(self._budget):
            frame.add_row(Text(self._kind), self._budget_bar())
        if self._rewards:
            frame.add_row("reward", Text.assemble(score(self._rewards[-1]), "  ", self._sparks()))
        if self._latest is not None:
            frame.add_row("held out", self._held_out(self._latest))
        if self._last is not None:
            frame.add_row("speed", Text(f"{self._speed()}, {duration(self.seconds_left())} left"))
        if self._stopping:
            frame.add_row("", Text(self._notice(), style="bold yellow"))
        return frame

    def _budget_bar(self) -> Table:
        done = self._spent()
        share = min(1.0, done / self._budget) if self._budget > 0 else 1.0
        line = Table.grid(padding=(0, 2))
        line.add_row(
            ProgressBar(total=1.0, completed=share, width=SPARKS, complete_style="cyan", finished_style="cyan"),
            Text(f"{share:.0%}, {count(done)} of {count(self._budget)}, {count(max(0.0, self._budget - done))} left"),
        )
        return line

    def _sparks(self) -> Text:
        return Text(sparkline(list(self._rewards), SPARKS), style="cyan")

    def _held_out(self, row: Row) -> Text:
        """Gold and proxy of a point, each with its change since the base; one of them where they are the same."""
        same = value(row, "gold") == value(row, "proxy")
        text = Text()
        for name, label in (("gold", "gold = proxy"),) if same else (("gold", "gold"), ("proxy", "proxy")):
            delta = value(row, name) - value(self._base, name) if self._base is not None else math.nan
            text.append(f"{'  ' if text else ''}{label} {score(value(row, name))}")
            if math.isfinite(delta) and row is not self._base:
                text.append(f" ({change(delta)})", style="green" if delta > 0 else "")
        return text

    def _line(self, row: Row) -> Text:
        """An evaluation as one line of a log."""
        done = spent(row, self._kind)
        line = Text.assemble(
            self._method,
            f": iteration {count(value(row, 'iteration'))}, {self._budget_text(done)}",
            self._held_out(row),
        )
        if self._last is not None:
            line.append(f", {self._speed()}, {duration(self.seconds_left())} left")
        return line

    def _budget_text(self, done: float) -> str:
        if not math.isfinite(self._budget):
            return ""
        return f"{self._kind} {count(done)} of {count(self._budget)}, "

    def _speed(self) -> str:
        recent = self._speeds[-SPEED_WINDOW:]
        seconds = sum(seconds for _, seconds in recent)
        return f"{count(sum(nfe for nfe, _ in recent) / seconds if seconds > 0 else math.nan)} NFE/s"

    def _spent(self) -> float:
        """The newest known position on the budget's axis."""
        if self._last is not None:
            return self._last.spent
        return spent(self._latest, self._kind) if self._latest is not None else 0.0

    def _notice(self) -> str:
        when = "before the first iteration" if self._last is None else "after this iteration"
        return f"stopping {when}; press Ctrl-C again to stop at once"

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = True
        if self._live is None and not self._quiet:
            # The interrupted code may be inside a print to the same stream, which cannot be entered twice.
            with suppress(OSError, ValueError, AttributeError):
                os.write(self.console.file.fileno(), f"{self._notice()}\n".encode())


def _move_logs(source: TextIO, target: TextIO) -> None:
    """Let log lines for stderr pass through the live display, which writes them above its frame, and back again."""
    for handler in logging.getLogger("grpo_bench").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is source:
            handler.setStream(target)


def show_pretraining(model: str, output: Path, *, steps: int | None, seed: int) -> dict[str, object]:
    """Make a shipped model again with a progress bar on stderr; its model card's numbers.

    Raises:
        UserError: `output` exists, or `steps` is not positive.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from grpo_bench.workloads.pretraining.designs import design
    from grpo_bench.workloads.pretraining.making import pretrain
    from grpo_bench.workloads.shapes import preference

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=_stderr(), redirect_stdout=False) as bar:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(clean_text(phase), total=total)
            bar.update(tasks[phase], completed=done)

        if model == PREFERENCE:
            return asdict(preference.pretrain(output, steps=steps, seed=seed, progress=report))
        return dict(pretrain(design(model), output, steps=steps, seed=seed, progress=report))


def _stderr() -> Console:
    """A console on stderr that draws only on a real terminal, also where FORCE_COLOR makes rich believe in one."""
    return Console(stderr=True, highlight=False, force_interactive=None if sys.stderr.isatty() else False)
