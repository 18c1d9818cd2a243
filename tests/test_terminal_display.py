"""The live display: one frame on a terminal, one line an evaluation elsewhere, nothing when quiet, and Ctrl-C."""

from __future__ import annotations

import io
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console
from run_folder import point, stored

from grpo_bench.terminal.display import RunDisplay
from grpo_bench.training.loop import Progress

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=90, force_terminal=terminal, force_interactive=terminal)


def written(display: RunDisplay) -> str:
    assert isinstance(display.console.file, io.StringIO)
    return display.console.file.getvalue()


def frame(display: RunDisplay) -> str:
    out = Console(file=io.StringIO(), width=90)
    out.print(display)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def progress(iteration: int, *, seconds: float = 2.0) -> Progress:
    """A budget of 6000 nfe, 1300 an iteration."""
    return Progress(iteration, 1300.0 * iteration, 6000.0, 0.4 + 0.01 * iteration, 1300, seconds)


def test_without_a_terminal_each_evaluation_is_one_line(tmp_path: Path) -> None:
    store = stored(tmp_path, [])
    with RunDisplay(console=console(terminal=False)) as display:
        display.loading()
        display.started("run", store.folder)
        display.evaluated(point(0, 0.4))
        for i in (1, 2):
            display.iteration(progress(i))
        display.evaluated(point(2, 0.45))
    first, second = written(display).splitlines()
    assert first == "tree: iteration 0, nfe 0 of 6,000, gold = proxy 0.4000"
    assert second.startswith("tree: iteration 2, nfe 2,600 of 6,000, gold = proxy 0.4500 (+0.0500), 650 NFE/s, ")


def test_quiet_shows_nothing(tmp_path: Path) -> None:
    store = stored(tmp_path, [])
    for terminal in (True, False):
        with RunDisplay(quiet=True, console=console(terminal=terminal)) as display:
            display.started("run", store.folder)
            display.evaluated(point(0, 0.4))
            display.iteration(progress(1))
        assert written(display) == ""


def test_a_frame_shows_budget_reward_scores_speed_and_time_left(tmp_path: Path) -> None:
    clock = Clock()
    display = RunDisplay(console=console(terminal=True), clock=clock)
    display.started("run", stored(tmp_path, []).folder)
    display.evaluated(point(0, 0.4, proxy=0.2))
    for i in (1, 2, 3):
        clock.now += 2.5
        display.iteration(progress(i))
    display.evaluated(point(3, 0.41, proxy=0.35))
    shown = frame(display)
    assert "training on shapes, iteration 3" in shown
    assert "65%, 3,900 of 6,000, 2,100 left" in shown
    assert "0.4300  ▁▅█" in shown
    assert "gold 0.4100 (+0.0100)  proxy 0.3500 (+0.1500)" in shown
    assert "650 NFE/s" in shown


def test_time_left_comes_from_the_share_of_the_budget_spent_and_counts_down(tmp_path: Path) -> None:
    clock = Clock()
    display = RunDisplay(quiet=True, clock=clock)
    display.started("run", stored(tmp_path, []).folder)
    assert math.isnan(display.seconds_left())
    clock.now += 2.0
    display.iteration(progress(1, seconds=2.0))
    # 1300 of 6000 took 2 s.
    assert display.seconds_left() == pytest.approx(2.0 * 4700 / 1300)
    clock.now += 1.0
    assert display.seconds_left() == pytest.approx(2.0 * 4700 / 1300 - 1)
    clock.now += 1e6
    assert display.seconds_left() == 0


def test_a_resumed_run_knows_its_base_and_does_not_count_old_iterations_as_new(tmp_path: Path) -> None:
    clock = Clock()
    display = RunDisplay(console=console(terminal=True), clock=clock)
    display.started("run", stored(tmp_path, [point(0, 0.4), point(2, 0.42)]).folder)
    assert "gold = proxy 0.4200 (+0.0200)" in frame(display)
    assert "2,600 of 6,000" in frame(display)
    clock.now += 2.0
    display.iteration(progress(3, seconds=2.0))
    assert display.seconds_left() == pytest.approx(2.0 * 2100 / 1300)


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    store = stored(tmp_path, [])
    name = "[blink]x[/blink]\\u001b[2J\\u0007"
    (store.folder / "config.toml").write_text(f'[method]\nname = "{name}"\n[reward]\nname = "{name}"\n')
    display = RunDisplay(console=console(terminal=False))
    display.started("run", store.folder)
    display.iteration(progress(1))
    display.evaluated(point(1, 0.4))
    for text in (frame(display), written(display)):
        assert "[blink]x[/blink]" in text
        assert not {"\x1b", "\x07"} & set(text)


def test_the_live_frame_comes_and_goes_and_log_lines_pass_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    handler = logging.StreamHandler()
    logger = logging.getLogger("grpo_bench")
    logger.addHandler(handler)
    try:
        with RunDisplay(console=Console(file=screen, width=90, force_terminal=True)) as display:
            display.started("run", stored(tmp_path, []).folder)
            assert handler.stream is not screen
            logger.warning("a log line")
            display.iteration(progress(1))
        assert handler.stream is screen
    finally:
        logger.removeHandler(handler)
    assert "a log line\n" in screen.getvalue()
    assert "training on" in screen.getvalue()
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1


def test_outside_the_main_thread_interrupts_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def watch() -> None:
        with RunDisplay(quiet=True):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [before]


INTERRUPTED = """
import os, signal, sys, time
from grpo_bench.terminal.display import RunDisplay

before = signal.getsignal(signal.SIGINT)
with RunDisplay(quiet=sys.argv[1] == "quiet") as display:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    print("stop" if display.should_stop() else "go", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    except KeyboardInterrupt:
        print("at once", flush=True)
print("restored" if signal.getsignal(signal.SIGINT) is before else "kept")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself on Windows")
@pytest.mark.parametrize("mode", ["quiet", "loud"])
def test_the_first_interrupt_asks_and_the_second_insists(mode: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", INTERRUPTED, mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)
    assert done.stdout.splitlines() == ["stop", "at once", "restored"], done.stderr
    notice = "stopping before the first iteration; press Ctrl-C again to stop at once\n"
    assert done.stderr == ("" if mode == "quiet" else notice)
