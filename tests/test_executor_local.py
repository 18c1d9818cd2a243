"""Processes of this machine: their order and number, what each is told, how each end is told, and who outlives whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from executor_jobs import Heard, began, busy, carry_out, config, iterations, real, wait_until
from running import environment, run, same_points
from studies import write_study

from grpo_bench.errors import UserError
from grpo_bench.executors.base import Event, Job
from grpo_bench.executors.choose import make_executor
from grpo_bench.executors.local import LocalExecutor, cores, devices_of_torch
from grpo_bench.store.record import Status
from grpo_bench.store.run import RunStore

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A process whose parent was killed stays as a zombie until somebody asks for it.
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_jobs_start_in_order_and_never_more_than_asked_for(tmp_path: Path) -> None:
    # given five jobs of which every one ends as soon as it has begun
    jobs = [busy(tmp_path, f"job{number}") for number in range(5)]
    (tmp_path / "go").touch()

    heard = carry_out(LocalExecutor(2), jobs)

    assert [event.job for event in heard.events if event.kind == "started"] == jobs
    assert heard.most == 2
    assert [heard.kinds(job) for job in jobs] == [["started", "ended"]] * 5


@pytest.mark.slow
def test_how_each_ended_is_told_and_one_failure_stops_no_other(tmp_path: Path) -> None:
    # given one that fails with a hostile last line, and one that is done
    hostile = busy(tmp_path, "hostile", code=1, says="\x1b[31mRuntimeError: [red] no\u202e luck\n\n")
    fine = busy(tmp_path, "fine", code=0, says="a warning that nobody asked for")
    (tmp_path / "go").touch()

    heard = carry_out(LocalExecutor(1), [hostile, fine])

    assert heard.last(hostile).code == 1 and heard.last(hostile).message == "RuntimeError: [red] no\ufffd luck"
    assert heard.last(fine).code == 0 and heard.last(fine).message == ""


@pytest.mark.parametrize(("status", "code"), [("running", 1), ("done", 0)])
def test_an_exit_code_of_success_counts_only_for_a_run_that_has_ended(
    tmp_path: Path, status: Status, code: int
) -> None:
    """A plugin that calls os._exit(0) leaves a record that says `running`."""
    state = {("flat", 0): (status, "")}
    write_study(tmp_path / "results", {"flat": lambda seed, nfe: 0.5}, range(1), status=state, suite=False)
    ends = busy(tmp_path, "study-flat-s0", code=0)
    (tmp_path / "go").touch()

    last = carry_out(LocalExecutor(1), [ends]).last(ends)

    assert last.code == code
    assert ("before it was done" in last.message) == (code == 1)


def test_a_mistake_is_told_in_its_own_sentence(tmp_path: Path) -> None:
    broken = Job("broken", "workload = ", tmp_path / "results")
    nowhere = replace(broken, run="nowhere", cwd=tmp_path / "nowhere")

    heard = carry_out(LocalExecutor(2), [broken, nowhere])

    message = heard.last(broken).message
    assert message.startswith("config file ") and "cannot be read" in message and "grpo-bench:" not in message
    assert heard.last(nowhere).code == 2 and "nowhere could not be started: " in heard.last(nowhere).message


@pytest.mark.slow
def test_alone_it_is_timed_and_together_untimed_with_a_share_of_the_cores(tmp_path: Path) -> None:
    # given two jobs, and a third that must not be timed whatever happens
    (tmp_path / "go").touch()

    def told(jobs: int, name: str, **more: object) -> dict:
        carry_out(LocalExecutor(jobs), [busy(tmp_path, name, **more)])
        return began(tmp_path, name)[0]

    alone, never, shared, own = (
        told(1, "alone"),
        told(1, "never", timed=False),
        told(64, "shared"),
        told(2, "own", threads=3),
    )

    # then only the first has its seconds counted; a share is at least one thread, and what the job asks for wins
    assert "--untimed" not in alone["argv"]
    assert all("--untimed" in it["argv"] for it in (never, shared, own))
    assert alone["threads"] == os.environ.get("OMP_NUM_THREADS")
    assert shared["threads"] == str(max(1, cores() // 64))
    assert own["threads"] == "3"


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "timed"), [(("0", "GPU-b"), True), (("0",), False)])
def test_a_run_with_a_gpu_of_its_own_is_timed(tmp_path: Path, devices: tuple[str, ...], timed: bool) -> None:
    # given two at once on these GPUs
    jobs = [busy(tmp_path, name) for name in ("first", "second")]
    (tmp_path / "go").touch()

    carry_out(LocalExecutor(2, devices=devices), jobs)

    # then they are spread over them
    first, second = (began(tmp_path, job.run)[0] for job in jobs)
    assert [first["device"], second["device"]] == [devices[0], devices[-1]]
    assert ["--untimed" not in it["argv"] for it in (first, second)] == [timed, timed]


def test_gpus_that_torch_cannot_use_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_of_torch() == ()  # this test is not for a machine that has one
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices_of_torch() == ()


def test_it_runs_where_it_was_asked_for_whatever_lies_there(tmp_path: Path) -> None:
    # given a folder with a file that hides a module of the standard library
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "socket.py").write_text("raise RuntimeError('not this one')", encoding="utf-8")
    job = busy(tmp_path, "job", cwd=tmp_path / "there")
    (tmp_path / "go").touch()

    heard = carry_out(LocalExecutor(1), [job])

    assert heard.last(job).code == 3
    assert Path(began(tmp_path, "job")[0]["cwd"]) == tmp_path / "there"


@pytest.mark.slow
@posix
def test_a_killed_process_is_lost_and_the_others_go_on(tmp_path: Path) -> None:
    # given two at once, of which one is killed
    victim, other = busy(tmp_path, "victim"), busy(tmp_path, "other")

    def react(event: Event) -> None:
        if event.kind == "started" and event.job is other:
            wait_until(lambda: began(tmp_path, "victim"))
            os.kill(began(tmp_path, "victim")[0]["pid"], signal.SIGKILL)
        if event.kind == "lost":
            (tmp_path / "go").touch()

    heard = carry_out(LocalExecutor(2), [victim, other], react)

    assert heard.kinds(victim) == ["started", "lost"]
    assert "killed by SIGKILL" in heard.last(victim).message
    assert heard.kinds(other) == ["started", "ended"]


def stopped(heard: Heard, ready: Callable[[], object]) -> Callable[[], bool]:
    """`should_stop` that holds for good from the moment that `ready()` does."""

    def should_stop() -> bool:
        heard.stop = heard.stop or bool(ready())
        return heard.stop

    return should_stop


@pytest.mark.slow
@posix
def test_a_stopped_sweep_asks_its_runs_once_and_starts_no_more(tmp_path: Path) -> None:
    # given one that runs and one that waits; Ctrl-C in a terminal reaches the sweep only
    running, waiting = busy(tmp_path, "running"), busy(tmp_path, "waiting")
    heard = Heard()

    LocalExecutor(1).execute([running, waiting], heard.notify, stopped(heard, lambda: began(tmp_path, "running")))

    assert began(tmp_path, "running")[0]["group"] != os.getpgid(0)
    assert heard.kinds(running) == ["started", "ended"] and heard.last(running).code == 130
    assert heard.kinds(waiting) == []


@posix
def test_a_sweep_in_the_background_stops_its_runs_too(tmp_path: Path) -> None:
    # given a script's `grpo-bench sweep ... &`: a shell without job control lets it ignore Ctrl-C, which is inherited
    job, heard = busy(tmp_path, "job"), Heard()
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        LocalExecutor(1, grace=5).execute([job], heard.notify, stopped(heard, lambda: began(tmp_path, "job")))
    finally:
        signal.signal(signal.SIGINT, kept)

    assert heard.kinds(job) == ["started", "ended"] and heard.last(job).code == 130


@pytest.mark.slow
@posix
def test_a_run_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    job, heard = busy(tmp_path, "job", deaf=True), Heard()

    LocalExecutor(1, grace=0.3).execute([job], heard.notify, stopped(heard, lambda: began(tmp_path, "job")))

    assert heard.last(job).kind == "lost" and "did not stop when asked to" in heard.last(job).message
    assert gone(began(tmp_path, "job")[0]["pid"])


@posix
def test_an_error_of_the_listener_leaves_no_process(tmp_path: Path) -> None:
    job = busy(tmp_path, "job")

    def react(event: Event) -> None:
        wait_until(lambda: began(tmp_path, "job"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(LocalExecutor(1), [job], react)

    assert gone(began(tmp_path, "job")[0]["pid"])


@pytest.mark.slow
@posix
def test_no_run_outlives_a_killed_sweep(tmp_path: Path) -> None:
    # given a sweep in a process of its own, with a run that would wait for ever
    busy(tmp_path, "job", deaf=True)
    script = """
import sys
from pathlib import Path
from executor_jobs import Heard
from grpo_bench.executors.base import Job
from grpo_bench.executors.local import LocalExecutor
here = Path(sys.argv[1])
job = Job("job", "", here / "results", plugins=(str(here / "job.py"),))
LocalExecutor(2).execute([job], Heard().notify, lambda: False)
"""
    here = os.pathsep.join([str(Path(__file__).parent), environment()["PYTHONPATH"]])
    sweep = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment(PYTHONPATH=here))
    wait_until(lambda: began(tmp_path, "job") or sweep.poll() is not None)

    # when that is killed
    sweep.kill()
    sweep.wait()

    # then the run ends too, within a second or two
    pid = began(tmp_path, "job")[0]["pid"]
    wait_until(lambda: gone(pid), seconds=10)


def test_a_wrong_choice_is_one_sentence() -> None:
    with pytest.raises(UserError, match="no executor is named 'rya'; did you mean 'ray'"):
        make_executor("rya")
    with pytest.raises(UserError, match="--jobs is a number of runs at once, from 1 up, not 0"):
        make_executor("local", jobs=0)
    with pytest.raises(UserError, match="--gpus is for ray and slurm"):
        make_executor("local", gpus=1)
    for name, given in (("ray", {"jobs": 2}), ("local", {"address": "a:1"}), ("ray", {"options": {"partition": "x"}})):
        with pytest.raises(UserError, match=r" (is|are) for the "):
            make_executor(name, **given)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(600)
@posix
def test_a_run_killed_midway_is_finished_by_the_same_command(tmp_path: Path) -> None:
    # given three runs, of which one is held by this process, and one is killed after its first checkpoint
    results = tmp_path / "results"
    long = {"budget": {"iterations": 60.0}, "training": {"checkpoint_every": 1}}
    victim, other = real(results, 0, **long), real(results, 1)
    third = real(results, 2)
    held = RunStore.create(results, third.run, third.config_toml, _record(third))

    def react(event: Event) -> None:
        if event.kind == "started" and event.job is victim:
            wait_until(RunStore(results / victim.run).checkpoints.latest, seconds=100)
            os.kill(int(event.where.split()[1]), signal.SIGKILL)

    with held.lock():
        heard = carry_out(LocalExecutor(2), [victim, other, real(results, 2)], react)

    # then it is lost, the held one says who holds it, and the third is done and untimed
    assert heard.last(victim).kind == "lost"
    refused = [event for event in heard.events if event.job.run == held.folder.name][-1]
    assert refused.code == 2 and f"is being written by process {os.getpid()} on " in refused.message
    assert heard.last(other).code == 0
    assert RunStore(results / other.run).record.timed is False

    # and when the same is asked for again, it goes on, and its points are those of a run in one go
    again = carry_out(LocalExecutor(2), [victim, other])
    assert again.last(victim).code == 0 and again.last(other).code == 0
    assert iterations(RunStore(results / other.run)) == [0, 3]
    same_points(RunStore(results / victim.run), run(config(0, **long), tmp_path / "whole").store)


def _record(job: Job):  # noqa: ANN202
    from grpo_bench.store.record import RunRecord

    return RunRecord(
        run=job.run, method="flat", reward="gaussian", workload="gaussian", seed=2, tier="analytic",
        rules_version=1, numerics_version=1, device="cpu",
    )  # fmt: skip
