"""What executors decide without starting anything: room on nodes, reservations, who is alone, and what is told when."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from executor_jobs import Heard

from grpo_bench.errors import UserError
from grpo_bench.executors.address import check_answers
from grpo_bench.executors.base import Job
from grpo_bench.executors.choose import make_executor
from grpo_bench.executors.process import Outcome, command, recorded
from grpo_bench.executors.ray import _check_room, _resources
from grpo_bench.executors.slurm import SlurmExecutor, _alone, _reservation
from grpo_bench.executors.watch import Watch


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job("a-run", "", tmp_path / "results")


# Ray


def cluster(*nodes: tuple[dict[str, float], bool]) -> SimpleNamespace:
    """A cluster's nodes as Ray lists them: what each has, and whether it lives."""
    listed = [{"Resources": has, "Alive": alive} for has, alive in nodes]
    return SimpleNamespace(nodes=lambda: listed)


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({}, True),
        ({"threads": 4}, True),
        ({"threads": 5}, False),
        ({"gpus": 1}, True),
        ({"threads": 4, "gpus": 1}, False),  # one node has the one, and another the other
        ({"threads": 2, "gpus": 1, "memory_bytes": 100}, True),
        ({"memory_bytes": 101}, False),
        ({"threads": 8}, False),  # its node is gone
    ],
)
def test_one_living_node_must_have_all_that_a_run_reserves(job: Job, asked: dict[str, int], fits: bool) -> None:
    ray = cluster(({"CPU": 4.0}, True), ({"CPU": 2.0, "GPU": 1.0, "memory": 100.0}, True), ({"CPU": 64.0}, False))
    wants = replace(job, **asked)  # type: ignore[arg-type]

    if fits:
        _check_room(ray, [job, wants])  # type: ignore[arg-type]
        return
    with pytest.raises(UserError, match=r"no node of the Ray cluster has the .* that a-run reserves"):
        _check_room(ray, [job, wants])  # type: ignore[arg-type]


def test_a_ray_task_reserves_what_the_job_says_and_is_done_again_when_lost(job: Job) -> None:
    plain = _resources(job)
    assert (plain["num_cpus"], plain["num_gpus"], plain["retry_exceptions"], "memory" in plain) == (1, 0, False, False)
    assert plain["max_retries"] == 3
    large = _resources(replace(job, threads=4, gpus=0.5, memory_bytes=7))
    assert (large["num_cpus"], large["num_gpus"], large["memory"]) == (4, 0.5, 7)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 for its own")
def test_localhost_is_also_this_machines_own_address() -> None:
    """Given a cluster that listens at the machine's address only, then localhost finds it, as Ray itself does."""
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"\0\0\0\4\0\0\0\0\0")

        threading.Thread(target=serve, daemon=True).start()
        check_answers(f"localhost:{port}", "127.0.0.2")


def test_with_tls_nothing_is_said_to_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a server that says nothing until it is spoken to in TLS, then that it listens is enough."""
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_answers(f"127.0.0.1:{server.getsockname()[1]}", "127.0.0.1")


def test_port_zero_is_no_address() -> None:
    with pytest.raises(UserError, match="a Ray address is HOST:PORT"):
        check_answers("127.0.0.1:0", "127.0.0.1")


# Slurm


def test_a_slurm_job_reserves_what_the_job_says(job: Job) -> None:
    assert _reservation(job) == {"nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1}
    assert _reservation(replace(job, threads=4, gpus=0.5, memory_bytes=2_000_000_000)) == {
        "nodes": 1, "tasks_per_node": 1, "cpus_per_task": 4, "gpus_per_node": 1, "mem_gb": 2.0,
    }  # fmt: skip


def test_a_run_is_alone_on_a_gpu_of_its_own_or_on_all_of_its_nodes_cpus(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpus = os.cpu_count() or 1
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    assert not _alone(job)
    assert not _alone(replace(job, gpus=0.5))
    assert _alone(replace(job, gpus=1))
    for granted, alone in ((cpus - 1, False), (cpus, True)):
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(granted))
        assert _alone(job) is alone


@pytest.mark.parametrize("value", ["0", "-5", "1.5", ""])
def test_a_time_in_slurm_is_a_whole_number_above_zero(value: str) -> None:
    with pytest.raises(UserError, match="time is a whole number, such as time=60"):
        SlurmExecutor({"time": value})


def test_options_of_slurm_are_for_no_other_executor() -> None:
    for name in ("local", "ray"):
        with pytest.raises(UserError, match=f"options are for the slurm executor, not for {name}: partition"):
            make_executor(name, options={"partition": "gpu"})
    with pytest.raises(UserError, match="an address is for the ray executor, not for slurm"):
        make_executor("slurm", address="a:1")
    with pytest.raises(UserError, match="--jobs is for the local executor, not for slurm"):
        make_executor("slurm", jobs=2)


# Processes


def test_a_run_is_told_all_that_its_job_says(job: Job, tmp_path: Path) -> None:
    words = command(replace(job, plugins=("one.py", "two")), tmp_path / "config.toml", timed=False)

    assert words[words.index("-m") : words.index("-m") + 3] == ["-m", "grpo_bench", "run"]
    for flag, value in (("--config", tmp_path / "config.toml"), ("--results", tmp_path / "results")):
        assert words[words.index(flag) + 1] == str(value)
    assert [words[place + 1] for place, word in enumerate(words) if word == "--plugin"] == ["one.py", "two"]
    assert "--untimed" in words and "--quiet" in words
    assert "--untimed" not in command(job, tmp_path / "config.toml", timed=True)


def test_the_recorded_command_makes_the_run_again_from_inside_its_folder(job: Job) -> None:
    assert recorded(job, timed=True) == "grpo-bench run --config config.toml"
    own = replace(job, plugins=("my plugin.py",))
    assert recorded(own, timed=False) == "grpo-bench run --config config.toml --plugin 'my plugin.py' --untimed"


# Watching another machine's runs by their folders


def hold(job: Job, pid: int) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "holder.json").write_text(json.dumps({"host": "node", "pid": pid}), encoding="utf-8")


def told(heard: Heard) -> list[tuple[str, str, int | None]]:
    return [(event.kind, event.where, event.code) for event in heard.events]


def test_a_beginning_is_told_once_and_a_second_one_as_a_loss_first(job: Job) -> None:
    heard = Heard()
    watch = Watch([job], heard.notify)

    watch.look([job])
    assert told(heard) == [] and not watch.has_begun(job)
    hold(job, 1)
    watch.look([job])
    watch.look([job])
    assert watch.has_begun(job)
    hold(job, 2)
    watch.ended(job, Outcome(0))

    assert told(heard) == [
        ("started", "process 1 on node", None),
        ("lost", "process 1 on node", None),
        ("started", "process 2 on node", None),
        ("ended", "process 2 on node", 0),
    ]


def test_who_held_a_folder_before_is_not_who_begins(job: Job) -> None:
    hold(job, 1)
    heard = Heard()
    watch = Watch([job], heard.notify)

    watch.look([job])
    watch.dropped(job)

    assert told(heard) == []


def test_a_job_that_had_begun_and_is_taken_back_was_stopped(job: Job) -> None:
    heard = Heard()
    watch = Watch([job], heard.notify)
    hold(job, 1)

    watch.dropped(job)

    assert [event.kind for event in heard.events] == ["started", "ended"]
    assert heard.last(job).code == 130


def test_a_run_that_ended_well_but_elsewhere_says_that_the_folder_is_not_shared(job: Job) -> None:
    (job.cwd / job.results).mkdir()
    heard = Heard()

    Watch([job], heard.notify).ended(job, Outcome(0))

    assert heard.last(job).code == 1
    assert "the nodes and this machine must share that folder" in heard.last(job).message


def test_a_process_that_was_killed_is_lost_and_not_ended(job: Job) -> None:
    heard = Heard()

    Watch([job], heard.notify).ended(job, Outcome(None, "killed", "process 9 on node"))

    assert told(heard) == [("lost", "process 9 on node", None)]
