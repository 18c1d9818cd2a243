"""Ray: its refusals, and a real cluster of two nodes of which one is killed."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from executor_jobs import Heard, config, iterations, real, wait_until
from running import environment, run, same_points

from grpo_bench.errors import UserError
from grpo_bench.executors.address import check_answers
from grpo_bench.executors.base import Event, Job
from grpo_bench.executors.ray import RayExecutor
from grpo_bench.store.run import RunStore, run_names

# Head and worker of a cluster of this machine, in a process of its own: it says the address, and kills the worker's
# node when it is told to. Nothing of it is written into the person's home.
CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster

small = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=small)
node = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
print(cluster.address, node.all_processes["raylet"][0].process.pid, flush=True)
for line in sys.stdin:
    cluster.remove_node(node, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """A server that says `answer` to everyone and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_an_unreachable_cluster_is_one_sentence_soon(tmp_path: Path) -> None:
    # given a port at which nothing listens
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()

    with pytest.raises(UserError, match=rf"no Ray cluster answers at 127\.0\.0\.1:{port} \(.*refused") as said:
        check_answers(f"127.0.0.1:{port}", "127.0.0.1")

    assert "\n" not in str(said.value) and time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("answer", "why"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "something else listens there"), (b"", "closed")]
)
def test_what_is_no_cluster_is_one_sentence(answer: bytes, why: str) -> None:
    with listening(answer) as port, pytest.raises(UserError, match=why):
        check_answers(f"127.0.0.1:{port}", "127.0.0.1")


@pytest.mark.parametrize("address", ["somewhere", "host:", ":6379", "host:99999", "ray://host"])
def test_what_is_no_address_is_one_sentence(address: str) -> None:
    with pytest.raises(UserError, match="a Ray address is HOST:PORT"):
        check_answers(address, "127.0.0.1")


def test_ray_that_is_not_installed_is_one_sentence(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["ray"] = None
from grpo_bench.errors import UserError
from grpo_bench.executors.ray import RayExecutor
try:
    RayExecutor().execute([], print, lambda: False)
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout == ("the ray executor needs Ray, which is not installed: pip install 'grpo-bench[ray]'\n")


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.skipif(sys.platform != "linux", reason="a cluster of two nodes on one machine")
def test_a_lost_node_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given two nodes with room for one run each, six runs, of which one is longer, and one that no node has room for
    for name, value in {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    results, long = tmp_path / "results", {"budget": {"iterations": 40.0}, "training": {"checkpoint_every": 1}}
    overs = [long if seed < 2 else {} for seed in range(6)]
    jobs = [real(results, seed, **over) for seed, over in enumerate(overs)]
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert cluster.stdout is not None and cluster.stdin is not None
        address, raylet = cluster.stdout.readline().split()
        heard, node = Heard(), int(raylet)

        def react(event: Event) -> None:
            # when the node at which one of the long runs is after its first checkpoint is killed, with its raylet
            if event.kind != "started" or [e.kind for e in heard.events].count("started") != 2:
                return
            (victim,) = [job for job in jobs[:2] if node in ancestors(process_of(heard, job))]
            wait_until(RunStore(results / victim.run).checkpoints.latest, seconds=100)
            assert cluster.stdin is not None and cluster.stdout is not None
            cluster.stdin.write("kill\n")
            cluster.stdin.flush()
            assert cluster.stdout.readline() == "killed\n"
            assert RunStore(results / victim.run).record.status == "running"

        heard.react = react
        RayExecutor(address).execute(jobs, heard.notify, lambda: False)

        with pytest.raises(UserError, match="no node of the Ray cluster has the 2 CPU that big reserves"):
            RayExecutor(address).execute([Job("big", "", results, threads=2)], heard.notify, lambda: False)
    finally:
        cluster.stdin.close()
        cluster.wait(timeout=60)

    # then exactly one was lost and taken up again, and all ended, once
    assert sorted(run_names(results)) == sorted(job.run for job in jobs)
    assert sorted(tuple(heard.kinds(job)) for job in jobs) == [("started", "ended")] * 5 + [
        ("started", "lost", "started", "ended")
    ]
    assert [heard.last(job).code for job in jobs] == [0] * 6
    for seed, (job, over) in enumerate(zip(jobs, overs, strict=True)):
        # and its points are those of a run in one go on this machine
        store = RunStore(results / job.run)
        assert store.record.status == "done"
        assert len(set(iterations(store))) == len(iterations(store))
        same_points(store, run(config(seed, **over), tmp_path / "whole").store)
    # and a run that reserved all of its node is timed
    assert all(RunStore(results / job.run).record.timed for job in jobs)


def process_of(heard: Heard, job: Job) -> int:
    """The process that works on a job."""
    return int(heard.last(job).where.split()[1])


def ancestors(pid: int) -> list[int]:
    """Who started a process, and who started that."""
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        found.append(pid)
    return found
