"""However a run is stopped, going on gives the uninterrupted run's points, to the last bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import (
    FLAT_NFE,
    Make,
    Watcher,
    arguments,
    cli,
    cli_here,
    command,
    environment,
    run,
    same_images,
    same_points,
    sentence,
    settings,
    signalled,
    write_prompts,
)
from thrift import thrifty

from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError
from grpo_bench.registry import METHODS, load_plugin
from grpo_bench.store.run import RunStore, run_names
from grpo_bench.training.run import Outcome, resume, start

STEP = 2 * FLAT_NFE
# Evaluations at 0, 2, 4, 6, 7 and checkpoints between them, so that a kill may fall between a point and its checkpoint.
LONG = {
    "budget": {"iterations": 7.0},
    "evaluation": {"every": 2 * STEP},
    "training": {"checkpoint_every": 3, "updates": 2},
}
ALTERNATING = '''
import numpy as np
from grpo_bench import Credit, Method, chains, leaf_credit


class Alternating(Method):
    """A pair of chains whose credit changes its sign with every batch."""

    name = "alternating"

    def __init__(self, config):
        super().__init__(config)
        self.sign = 1

    def plan(self, iteration, rng, schedule):
        stochastic = np.arange(schedule.steps) < schedule.steps - 1
        return chains(schedule.sigmas, 2, stochastic)

    def credit(self, rollout):
        credit = leaf_credit(rollout, std="group", eps=0.0)
        self.sign = -self.sign
        return Credit(credit.advantage_NP * self.sign, credit.group_NP)
'''
MEMORY = """
    def state_dict(self):
        return {"sign": self.sign, "nested": {"list": [1, 2.5, "x"]}}

    def load_state_dict(self, state):
        assert state["nested"] == {"list": [1, 2.5, "x"]}
        self.sign = state["sign"]
"""


@pytest.fixture(autouse=True)
def no_plugins_left() -> Iterator[None]:
    """Plugins of one test are unknown to the next."""
    yield
    METHODS._plugins.clear()


def in_pieces(chosen: RunConfig, results: Path, *pieces: int) -> Outcome:
    """Stop after each of `pieces` iterations, then run to the end."""
    for piece in pieces:
        assert run(chosen, results, Watcher(stop_after=piece)).record.status == "interrupted"
    return run(chosen, results)


def forked(work: Callable[[], object]) -> int:
    """Do `work` in a child process, which costs no imports; its process id. It exits with 0, or 1 on an exception."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


linux = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")


@pytest.mark.parametrize(
    "over",
    thrifty(
        [
            {},
            {"method": {"name": "tree", "branching": 2, "window": 2}},
            {"method": {"name": "mix", "group": 2, "window": 1}},
            {"model": {"trainable": "lora", "lora_rank": 2, "lora_alpha": 8}},
            {"objective": {"beta": 0.05}},
            {"training": {**LONG["training"], "ema_decay": 0.9, "ema_every": 2}},
        ],
        1,
        5,
        ids=["flat", "tree", "mix", "lora", "reference", "average"],
    ),
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(make: Make, tmp_path: Path, over: dict) -> None:
    # given a run in one go
    chosen = make(**{**LONG, "budget": {"iterations": 5.0}, **over})
    whole = run(chosen, tmp_path / "whole")
    assert whole.store.rows()[-1]["base_distance"] > 0

    # when the same run is stopped after one iteration and after two more
    pieces = in_pieces(chosen, tmp_path / "pieces", 1, 2)

    # then points and images are the same
    assert pieces.record.status == "done" and pieces.record.reason == ""
    same_points(whole.store, pieces.store)
    same_images(whole.store, pieces.store)


@pytest.mark.slow
@pytest.mark.parametrize("remembers", [True, False])
def test_a_methods_state_survives(make: Make, tmp_path: Path, remembers: bool) -> None:
    # given a method whose credit depends on how often it was asked, and that saves this or forgets it
    (tmp_path / "mine.py").write_text(ALTERNATING + (MEMORY if remembers else ""), encoding="utf-8")
    load_plugin(str(tmp_path / "mine.py"))
    chosen = make(method={"name": "alternating"}, budget={"iterations": 4.0})

    whole, pieces = run(chosen, tmp_path / "whole"), in_pieces(chosen, tmp_path / "pieces", 1)

    # then the saved state is what makes the difference
    a, b = whole.store.rows()[-1]["base_distance"], pieces.store.rows()[-1]["base_distance"]
    assert (a == b) is remembers


@pytest.mark.slow
@linux
def test_killed_at_five_random_moments(make: Make, tmp_path: Path) -> None:
    # given a run in one go, and how long it takes
    chosen = make(**LONG)
    began = time.monotonic()
    whole = run(chosen, tmp_path / "whole")
    length = time.monotonic() - began

    # when the same run is killed five times at random moments, each time going on from where it was
    moments, killed = random.Random(4), 0
    for _ in range(5):
        child = forked(lambda: start(chosen, tmp_path / "killed", Watcher()))
        time.sleep(moments.uniform(0.02, 0.7) * length)
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    done = run(chosen, tmp_path / "killed")

    # then its points and images are those of the whole run, and no temporary file is left
    assert killed >= 1
    assert done.record.status == "done"
    same_points(whole.store, done.store)
    same_images(whole.store, done.store)
    assert not list(done.store.folder.rglob("*.tmp"))


@pytest.mark.slow
@linux
@pytest.mark.parametrize("size", thrifty([200, 3_000, 200_000], 1))
def test_a_full_disk_loses_nothing(make: Make, tmp_path: Path, size: int) -> None:
    # given a run stopped after three iterations, and a disk that takes no file larger than `size` from then on
    chosen = make(**LONG)
    whole = run(chosen, tmp_path / "whole")
    stopped = run(chosen, tmp_path / "full", Watcher(stop_after=3))
    before = stopped.store.rows()
    said = tmp_path / "said"

    def go_on() -> None:
        import resource  # not on Windows

        with said.open("w", encoding="utf-8") as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            try:
                start(chosen, tmp_path / "full", Watcher())
            except UserError as error:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                file.write(str(error))

    # when it goes on
    os.waitpid(forked(go_on), 0)

    # then it says so in a sentence, every file it had is whole, and with space again it ends as the whole run
    text = said.read_text(encoding="utf-8")
    assert text.startswith("Could not write") and "everything saved before is intact" in text and "\n" not in text
    store = RunStore.open(stopped.record.run, tmp_path / "full")
    assert store.rows()[: len(before)] == before
    assert store.checkpoints.latest() is not None
    same_points(whole.store, run(chosen, tmp_path / "full").store)


@pytest.mark.slow
@linux
def test_a_really_full_disk(make: Make, tmp_path: Path) -> None:
    # given a disk that holds a checkpoint with an optimiser's moments, but not also the one before it (a third of it)
    whole = run(make(**LONG), tmp_path / "whole")
    kept = whole.store.checkpoints.latest()
    assert kept is not None
    size = int(1.2 * sum(file.stat().st_size for file in kept.path.rglob("*") if file.is_file()))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        chosen = make(**LONG)
        with pytest.raises(UserError, match=r"no space is left on the disk; free some and go on \(everything saved"):
            run(chosen, disk)
        (name,) = run_names(disk)
        store = RunStore(disk / name)
        assert store.rows() and store.checkpoints.latest() is not None

        # when there is space again
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)

        # then the run goes on to the end
        same_points(whole.store, run(chosen, disk).store)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_processes_on_one_run(make: Make, results: Path) -> None:
    # given a run that this process holds
    stopped = run(make(), results, Watcher(stop_after=1))
    with stopped.store.lock():
        # when another wants to go on with it, then it is told who holds it
        said = sentence(cli_here("run", "--resume", stopped.record.run))
    assert f"is being written by process {os.getpid()} on " in said

    # and afterwards it may
    assert resume(stopped.store, Watcher()).record.status == "done"


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
def test_a_truncated_points_file_is_rebuilt(make: Make, tmp_path: Path, finished: bool) -> None:
    # given a run whose points file is cut
    chosen = make(**LONG)
    whole = run(chosen, tmp_path / "whole")
    cut = run(chosen, tmp_path / "cut", Watcher(stop_after=None if finished else 3))
    path = cut.store.folder / "points.parquet"
    path.write_bytes(path.read_bytes()[:-100])

    # then reading it is one sentence that says what to do
    store = RunStore.open(cut.record.run, tmp_path / "cut")
    with pytest.raises(UserError, match=f"is damaged .*grpo-bench run --resume {cut.record.run}"):
        store.rows()

    # and doing that brings the points back
    same_points(whole.store, resume(store, Watcher()).store)


def test_a_damaged_checkpoint_is_refused(make: Make, results: Path) -> None:
    stopped = run(make(), results, Watcher(stop_after=1))
    kept = stopped.store.checkpoints.latest()
    assert kept is not None
    (kept.path / "state.json").write_text("{}", encoding="utf-8")

    with pytest.raises(UserError, match=r"Every checkpoint in .* is damaged: start the run afresh with --again"):
        resume(stopped.store, Watcher())
    assert run(make(), results, again=True).record.status == "done"


def test_changed_weights_are_not_resumed(make: Make, results: Path, tmp_path: Path) -> None:
    from tiny import make as make_model

    model = tmp_path / "model"
    make_model(model)
    stopped = run(make(model={"path": str(model)}), results, Watcher(stop_after=1))
    make_model(model, seed=1)

    with pytest.raises(UserError, match="cannot be resumed: its base weights"):
        resume(stopped.store, Watcher())


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(
    make: Make, results: Path, tmp_path: Path, tiny_model: Path
) -> None:
    # given a run from the command line, long enough to be interrupted in its second iteration
    long = {"budget": {"iterations": 20.0}}
    whole = run(make(**long), tmp_path / "whole")
    chosen = arguments(settings(tiny_model, write_prompts(tmp_path), **long))
    log = results / whole.record.run / "run.log"

    def second_iteration() -> bool:
        return log.exists() and "iteration 2:" in log.read_text(encoding="utf-8")

    # when Ctrl-C is pressed
    code, out, err = signalled(["run", *chosen], signal.SIGINT, second_iteration, tmp_path)

    # then it ends with the shell's code, says how to resume, and shows no traceback
    assert code == 130
    assert f"grpo-bench run --resume {whole.record.run}" in out and "Traceback" not in out + err
    store = RunStore.open(whole.record.run, results)
    assert store.record.status == "interrupted" and 0 < len(store.rows()) < 3

    # and doing that gives the points of the run that was not interrupted
    done = cli("run", "--resume", whole.record.run, "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    same_points(whole.store, RunStore.open(whole.record.run, results))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_five_random_moments_through_the_command_line(
    make: Make, results: Path, tmp_path: Path, tiny_model: Path
) -> None:
    # given a run in one go
    whole = run(make(**LONG), tmp_path / "whole")
    name = whole.record.run
    first = ["run", *arguments(settings(tiny_model, write_prompts(tmp_path), **LONG))]
    moments = random.Random(11)

    # when it is killed five times, at random moments from the making of its folder on
    for attempt in range(5):
        args = first if attempt == 0 else ["run", "--resume", name]
        process = subprocess.Popen(command(*args, "--quiet"), cwd=tmp_path, env=environment())
        try:
            if attempt == 0:
                while not (results / name / "run.json").exists():
                    assert process.poll() is None
                    time.sleep(0.005)
            else:
                time.sleep(moments.uniform(1.0, 4.0))
            time.sleep(moments.uniform(0.0, 0.8))
        finally:
            process.kill()
            process.wait()

    # then going on gives the same points
    done = cli("run", "--resume", name, "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    same_points(whole.store, RunStore.open(name, results))
