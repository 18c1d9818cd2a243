"""`kill -9` of a sweep at three random moments, then the same command: the table of an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal
from running import command, environment, same_points
from small_suite import small_suite

from grpo_bench.errors import UserError
from grpo_bench.store.run import RunStore, run_names
from grpo_bench.store.suite import read_suite

SUITE = small_suite(
    "killed", seeds=2, nfe=24000,
    settings="settings.evaluation.every = 4000\nsettings.training.checkpoint_every = 2",
)  # fmt: skip


def arguments(suite: Path, results: Path) -> list[str]:
    return command("sweep", str(suite), "--results", str(results), "--jobs", "2")


def points(results: Path) -> list[int]:
    """Points of each run there."""
    counts = []
    for name in run_names(results):
        try:
            counts.append(len(RunStore(results / name).rows()))
        except UserError:
            counts.append(0)
    return counts


def ended(results: Path) -> int:
    return sum(RunStore(results / name).record.status == "done" for name in run_names(results))


def kill_when(moment: Callable[[], bool], args: list[str], cwd: Path, *, group: bool) -> None:
    """Start a sweep and kill it with signal 9 as soon as `moment()` holds, and its process group or only itself."""
    process = subprocess.Popen(
        args, cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while not moment():
            assert process.poll() is None, "the sweep ended before it was killed"
            time.sleep(0.01)
        assert process.poll() is None, "the sweep ended before it was killed"
    finally:
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def after(condition: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """True `seconds` after `condition()` was first seen to hold."""
    seen: list[float] = []

    def holds() -> bool:
        if not seen and condition():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= seconds

    return holds


def carry_out(suite: Path, results: Path) -> str:
    """What the sweep printed when it was left alone to its end."""
    done = subprocess.run(
        arguments(suite, results), cwd=suite.parent, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(results), "RESULTS")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_sweep_killed_three_times_gives_the_uninterrupted_table(tmp_path: Path) -> None:
    """Given kills early, amid the runs (of the parent only) and late, when it is given again, then all is equal."""
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE, encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    table = carry_out(suite, whole)

    moments = random.SystemRandom()
    early = after(killed.is_dir, moments.uniform(0, 6))
    kill_when(early, arguments(suite, killed), tmp_path, group=True)
    before = sum(points(killed))
    amid = after(lambda: sum(points(killed)) >= before + 2, moments.uniform(0, 1))
    kill_when(amid, arguments(suite, killed), tmp_path, group=False)
    late = after(lambda: ended(killed) >= 1, moments.uniform(0, 3))
    kill_when(late, arguments(suite, killed), tmp_path, group=True)

    assert carry_out(suite, killed) == table
    same_results(killed, whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tuned_sweep_killed_five_times_chooses_and_reports_the_same(tmp_path: Path) -> None:
    """Given kills in the first trials, between trials, at the selection, at the first report and before the end."""
    suite = tmp_path / "suite.toml"
    settings = 'protocol = "tuned"\ntuning.seeds = [300]\nsettings.evaluation = { prompts = 4, noises = 2 }'
    suite.write_text(small_suite("killed", settings=settings), encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    table = carry_out(suite, whole)
    record = read_suite(whole / "killed.suite.json")
    trials = [cell for cell in record.cells if cell.part == "tuning"]
    assert {choice.label for choice in record.choices} == {"flat", "tree"} and len(trials) >= 6

    moments = random.SystemRandom()
    reports = [cell.run for cell in record.cells if cell.part == "main"]
    for happened, within in (
        (lambda: bool(run_names(killed)), 2.0),
        (lambda: ended(killed) >= 2, 1.0),
        (lambda: ended(killed) >= len(trials) - 1, 1.0),
        (lambda: any((killed / run).exists() for run in reports), 0.3),
        (lambda: ended(killed) > len(trials), 0.0),
    ):
        kill_when(after(happened, moments.uniform(0, within)), arguments(suite, killed), tmp_path, group=True)

    assert carry_out(suite, killed) == table
    same_results(killed, whole)


def same_results(killed: Path, whole: Path) -> None:
    """The same runs, points and prompts' scores, and the same suite file, choices included."""
    assert run_names(killed) == run_names(whole)
    for name in run_names(whole):
        one, other = RunStore(killed / name), RunStore(whole / name)
        same_points(one, other)
        assert_frame_equal(one.prompt_scores(), other.prompt_scores())
    assert (killed / "killed.suite.json").read_bytes() == (whole / "killed.suite.json").read_bytes()
