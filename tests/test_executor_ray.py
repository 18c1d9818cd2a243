"""Ray: its refusals, and a real cluster of two nodes of which one is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from executor_jobs import Heard, iterations, real, wait_until
from running import environment, run, same_points

from grpo_bench.errors import UserError
from grpo_bench.executors.address import check_answers
from grpo_bench.executors.base import Event, Job
from grpo_bench.executors.ray import RayExecutor
from grpo_bench.store.run import RunStore, run_names
from grpo_bench.sweeping.cells import suite_cells
from grpo_bench.sweeping.suite import parse_suite
from grpo_bench.sweeping.sweep import Task, carry_out

# Head and worker of a cluster of this machine, in a process of its own: it says the address, and kills the worker's
# node when it is told to. Nothing of it is written into the person's home.
CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster

small = {"num_cpus": 5, "object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=small)
node = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
print(cluster.address, node.all_processes["raylet"][0].process.pid, flush=True)
for line in sys.stdin:
    cluster.remove_node(node, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""

ITERATIONS = 12
SUITE = f"""
name = "six"
workloads = ["gaussian"]
rewards = ["gaussian"]
seeds = 3
baseline = "flat"
budget.iterations = {ITERATIONS}
settings.training = {{ prompts = 2, checkpoint_every = 1 }}
settings.evaluation = {{ prompts = 2, images = 2, steps = 2 }}
[methods.flat]
[methods.tree]
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


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray writes a token into the person's home unless it is told that these clusters need none."""
    quiet = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    # Ray's workers stand back for whatever else runs, which on a machine that tests something else too takes minutes.
    for name, value in (quiet | {"RAY_worker_niceness": "0"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="a cluster of two nodes on one machine")
def test_a_lost_node_is_made_up_for(tmp_path: Path, quiet: None) -> None:
    # given a suite of six, and two nodes with room for five runs and for one
    results, heard = tmp_path / "results", Heard()
    cells = suite_cells(parse_suite(SUITE))
    assert len(cells) == 6
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert cluster.stdout is not None and cluster.stdin is not None
        address, raylet = cluster.stdout.readline().split()

        def react(event: Event) -> None:
            # when the second node is killed, once the run on it has its first checkpoint
            if event.kind != "started" or int(raylet) not in ancestors(process_of(event)):
                return
            wait_until(RunStore(event.job.folder).checkpoints.latest, seconds=100)
            assert cluster.stdin is not None and cluster.stdout is not None
            cluster.stdin.write("kill\n")
            cluster.stdin.flush()
            assert cluster.stdout.readline() == "killed\n"
            assert RunStore(event.job.folder).record.status == "running"

        heard.react = react
        states = carry_out(cells, Task(results), RayExecutor(address), heard.notify, lambda: False)

        # and a run for which no node has room is refused, and not waited with for ever
        with pytest.raises(UserError, match="no node of the Ray cluster has the 6 CPU that big reserves"):
            RayExecutor(address).execute([Job("big", "", results, threads=6)], heard.notify, lambda: False)
    finally:
        cluster.stdin.close()
        cluster.wait(timeout=60)

    # then one was lost and finished elsewhere, and every cell ended once
    assert sorted(run_names(results)) == sorted(cell.run for cell in cells)
    assert {state.kind for state in states.values()} == {"done"}
    told = [[event.kind for event in heard.events if event.job.run == cell.run] for cell in cells]
    assert sorted(told, key=len) == [["started", "ended"]] * 5 + [["started", "lost", "started", "ended"]]
    for cell in cells:
        # and its points are those of a run in one go on this machine; having shared its node, it was not timed
        store = RunStore(results / cell.run)
        assert iterations(store) == [0, ITERATIONS]
        same_points(store, run(cell.config, tmp_path / "whole").store)
        assert store.record.timed is False


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_cluster_started_here_survives_a_killed_worker_and_stops_when_asked(
    tmp_path: Path, quiet: None, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a run without an end
    job, heard = real(tmp_path / "results", 0, budget={"iterations": 100_000.0}), Heard()

    def react(event: Event) -> None:
        # when Ray's worker is killed, and the sweep is stopped once the run goes on
        if heard.kinds(job) == ["started"]:
            os.kill(ancestors(process_of(event))[0], signal.SIGKILL)
        heard.stop = heard.kinds(job) == ["started", "lost", "started"]

    heard.react = react
    RayExecutor().execute([job], heard.notify, lambda: heard.stop)

    # then the run was stopped as by Ctrl-C, and nothing was said where results belong
    assert capsys.readouterr().out == ""
    assert heard.kinds(job) == ["started", "lost", "started", "ended"] and heard.last(job).code == 130
    assert RunStore(job.folder).record.status == "interrupted"


def process_of(event: Event) -> int:
    """The process that works on a job."""
    return int(event.where.split()[1])


def ancestors(pid: int) -> list[int]:
    """Who started a process, and who started that; of one that has just ended, nobody."""
    found = []
    while pid > 1:
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except FileNotFoundError:
            break
        pid = int(status.rpartition(")")[2].split()[1])
        found.append(pid)
    return found
