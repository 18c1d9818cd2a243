"""Slurm by submitit, whose local executor plays the queue."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from executor_jobs import Heard, began, busy, carry_out, real, wait_until

from grpo_bench.errors import UserError
from grpo_bench.executors.base import Event, Job
from grpo_bench.executors.slurm import FOLDER, SlurmExecutor
from grpo_bench.store.run import RunStore, run_names


def test_a_wrong_option_is_one_sentence() -> None:
    with pytest.raises(UserError, match="no option 'partitoin' here; did you mean 'partition'"):
        SlurmExecutor({"partitoin": "gpu"})
    with pytest.raises(UserError, match="time is a whole number, such as time=60, not '1:00'"):
        SlurmExecutor({"time": "1:00"})


def test_a_machine_without_slurm_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UserError, match="needs Slurm, and this machine has no sbatch"):
        carry_out(SlurmExecutor({"partition": "gpu", "time": "60"}), [Job("run", "", tmp_path)])


def test_a_read_only_results_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file, not a folder", encoding="utf-8")

    with pytest.raises(UserError, match=r"Could not write Slurm's files"):
        carry_out(SlurmExecutor({}, cluster="local"), [Job("run", "", tmp_path / "results")])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_in_a_queue(tmp_path: Path) -> None:
    # given a real run, one that the person got wrong, and one whose process waits, which is preempted once
    results = tmp_path / "results"
    whole, wrong = real(results, 0), Job("wrong", "workload = ", results)
    moved = busy(tmp_path, "moved")

    def react(event: Event) -> None:
        if event.job is whole and event.kind == "ended":
            wait_until(lambda: began(tmp_path, "moved"))
            os.kill(began(tmp_path, "moved")[0]["parent"], signal.SIGUSR2)
            wait_until(lambda: len(began(tmp_path, "moved")) == 2)
            (tmp_path / "go").touch()

    heard = carry_out(SlurmExecutor({"time": "10"}, cluster="local"), [whole, wrong, moved], react)

    # then the run is done, and untimed since no queue says that it had its node to itself
    assert heard.last(whole).code == 0
    assert RunStore(results / whole.run).record.status == "done"
    assert RunStore(results / whole.run).record.timed is False
    # and the wrong one says why; the preempted one was stopped, queued again and ended by itself
    assert heard.last(wrong).code == 2 and "cannot be read" in heard.last(wrong).message
    assert heard.last(moved).code == 3
    assert len({said["parent"] for said in began(tmp_path, "moved")}) == 2
    # and what the queue leaves behind is not taken for a run
    assert run_names(results) == [whole.run] and (results / FOLDER).is_dir()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_stopped_sweep_stops_its_queue(tmp_path: Path) -> None:
    # given a run at work
    job, heard = real(tmp_path, 0, budget={"iterations": 100_000.0}), Heard()

    def should_stop() -> bool:
        heard.stop = heard.stop or "started" in heard.kinds(job)
        return heard.stop

    SlurmExecutor({"time": "10"}, cluster="local").execute([job], heard.notify, should_stop)

    assert heard.kinds(job) == ["started", "ended"] and heard.last(job).code == 130
    assert RunStore(tmp_path / job.run).record.status == "interrupted"
