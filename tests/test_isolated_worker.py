"""A reward's worker process: what it answers, and how every way of failing ends in one reason, in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from grpo_bench.errors import RewardFailed, UserError
from grpo_bench.isolated.process import Timeouts, Worker

ECHO = """
    def load(settings):
        return lambda images, prompts: [float(image.mean()) + len(p) for image, p in zip(images, prompts)]
"""

Start = Callable[..., Worker]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Start]:
    """Makes a worker around a script's text; it is closed after the test."""
    made: list[Worker] = []

    def start(script: str, *, start: float = 20.0, batch: float = 20.0, **settings: object) -> Worker:
        path = tmp_path / "scorer.py"
        path.write_text(textwrap.dedent(script), encoding="utf-8")
        made.append(Worker("echo", sys.executable, path, settings, Timeouts(start, batch)))
        return made[-1]

    yield start
    for one in made:
        one.close()


def pixels(*values: int) -> np.ndarray:
    """One grey image of 2x3 pixels a value."""
    return np.stack([np.full((2, 3, 3), value, dtype=np.uint8) for value in values])


def test_every_image_is_scored_with_its_own_prompt(worker: Start) -> None:
    # given the mean of the pixels plus the length of the prompt
    echo = worker(ECHO)

    # then the order is kept, an empty and a non-ASCII prompt are prompts, and floats arrive to the last bit
    assert echo.score(pixels(0, 10, 255), ["ab", "", "ü漢"]) == [2.0, 10.0, 257.0]
    assert worker(
        """
        def load(settings):
            return lambda images, prompts: [settings["value"]]
        """,
        value=0.1 + 0.2,
    ).score(pixels(0), [""]) == [0.1 + 0.2]


def test_the_weights_are_loaded_once(worker: Start) -> None:
    counted = worker(
        """
        loads = 0
        def load(settings):
            global loads
            loads += 1
            return lambda images, prompts: [loads] * len(prompts)
        """
    )
    assert [counted.score(pixels(0), ["a"]) for _ in range(3)] == [[1.0]] * 3


def test_prints_do_not_reach_the_frames(worker: Start) -> None:
    # given a scorer that writes a megabyte of anything to standard output and error, by Python and beneath it
    noisy = worker(
        """
        import os, sys
        print("loading" * 1000)
        def load(settings):
            def score(images, prompts):
                os.write(1, bytes(range(256)) * 2000)
                os.write(2, b"grpo" * 100000)
                print({"scores": [7]}, flush=True)
                return [1.0] * len(prompts)
            return score
        """
    )
    # then only its answer counts
    assert [noisy.score(pixels(1, 2), ["a", "b"]) for _ in range(2)] == [[1.0, 1.0]] * 2


def test_the_environment_is_the_workers_own(worker: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a PYTHONPATH of the engine's, and HF_HUB_OFFLINE
    monkeypatch.setenv("PYTHONPATH", "/nowhere/of/ours")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = worker(
        """
        import os, sys
        def load(settings):
            bad = [p for p in sys.path if "nowhere" in p or p.endswith("isolated")]
            return lambda images, prompts: [len(bad), os.environ["HF_HUB_OFFLINE"] == "1", len(os.listdir("."))]
        """
    )
    # then neither its paths nor the engine's folder are seen, offline stays offline, and it stands in an empty folder
    assert seen.score(pixels(0, 0, 0), ["a"] * 3) == [0, 1, 0]


def fails(worker: Worker, kind: type[Exception] = RewardFailed) -> str:
    """The reason with which a batch of two fails; the process must be gone then."""
    worker_pids: list[int] = []
    with pytest.raises(kind) as failure:
        if kind is RewardFailed:
            worker.start()
            assert worker.pid is not None
            worker_pids.append(worker.pid)
        worker.score(pixels(1, 2), ["a", "b"])
    assert worker.pid is None
    assert not [pid for pid in worker_pids if alive(pid)]
    message = str(failure.value)
    assert message.startswith("the worker of reward 'echo' ") and "\n" not in message
    return message


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


SCORING = """
    import os, signal, socket, sys, time
    def load(settings):
        def score(images, prompts):
{body}
        return score
"""


def scoring(*lines: str) -> str:
    """A scorer whose `score` runs these lines."""
    return textwrap.dedent(SCORING.replace("{body}", "\n".join(f"            {line}" for line in lines)))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["os.kill(os.getpid(), signal.SIGKILL)"], "was killed by SIGKILL"),
        (
            ["print('no more memory', file=sys.stderr)", "os._exit(3)"],
            "exit code 3 (it wrote last: no more memory)",
        ),
        (["return [1.0]"], "gave 1 scores for 2 images"),
        (["return [1.0, 2.0, 3.0]"], "gave 3 scores for 2 images"),
        (["return ['good', 'bad']"], "reported ValueError: could not convert string to float: 'good'"),
        (["raise RuntimeError('out of cheese')"], "reported RuntimeError: out of cheese"),
    ],
)
def test_a_worker_that_fails_says_why(worker: Start, lines: list[str], reason: str) -> None:
    assert reason in fails(worker(scoring(*lines)))


def test_a_worker_that_died_between_two_batches_is_noticed(worker: Start) -> None:
    # given a worker that scored a batch, and is then killed, as by a machine without memory
    echo = worker(ECHO)
    assert echo.score(pixels(1), ["a"]) == [2.0]
    assert echo.pid is not None
    os.kill(echo.pid, signal.SIGKILL)

    with pytest.raises(RewardFailed, match="was killed by SIGKILL"):
        echo.score(pixels(1), ["a"])


def test_a_score_that_is_no_number_arrives_as_it_is(worker: Start) -> None:
    # so that the engine says which image it was, and ends the run as diverged
    odd = worker(scoring("return [float('nan'), float('-inf')]"))
    assert [str(score) for score in odd.score(pixels(1, 2), ["a", "b"])] == ["nan", "-inf"]


def test_a_worker_that_hangs_is_killed_in_time(worker: Start) -> None:
    # given a scorer that never returns, and half a second
    hanging = worker(scoring("time.sleep(600)"), batch=0.5)
    hanging.start()

    started = time.monotonic()
    assert "did not score a batch within 0.5 s" in fails(hanging)
    assert time.monotonic() - started < 2


def test_a_worker_that_does_not_read_is_killed_in_time(worker: Start) -> None:
    # given a scorer that hangs, and a batch far larger than the socket holds behind a first one
    slow = worker(scoring("time.sleep(0.1) if len(prompts) == 2 else time.sleep(600)", "return [0.0] * 2"), batch=1.0)
    slow.start()
    assert slow.score(pixels(1, 2), ["a", "b"]) == [0.0, 0.0]
    with pytest.raises(RewardFailed, match="within 1 s"):
        slow.score(np.zeros((1, 3000, 3000, 3), dtype=np.uint8), ["a"])


@pytest.mark.parametrize(
    "garbage", ["b'hello, world, hello'", r"b'grpo' + b'\xff' * 12", r"b'grpo\0\0\0\2' + b'\0' * 8 + b'[]'"]
)
def test_garbage_on_the_socket_is_refused(worker: Start, garbage: str) -> None:
    # given a scorer that finds the frames' own socket and writes to it
    writes = scoring(
        "for fd in range(3, 50):",
        "    try: socket.socket(fileno=os.dup(fd)).sendall(" + garbage + ")",
        "    except OSError: pass",
        "time.sleep(600)",
    )
    assert "wrote garbage: " in fails(worker(writes))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import no_such_package", "reported ModuleNotFoundError: No module named 'no_such_package'"),
        ("def load(settings): raise OSError('no such weights')", "reported OSError: no such weights"),
        ("import os; os._exit(5)", "ended with exit code 5"),
        ("x = 1", "reported AttributeError: module 'scorer' has no attribute 'load'"),
        ("import sys; sys.exit('wrong machine')", "reported SystemExit: wrong machine"),
    ],
)
def test_a_worker_that_cannot_start_is_a_user_error(worker: Start, script: str, reason: str) -> None:
    assert f"could not be started: {reason}" in fails(worker(script), UserError)


def test_a_start_that_takes_too_long_ends_in_time(worker: Start) -> None:
    sleepy = worker("import time; time.sleep(600)", start=0.5)
    assert "did not load its scorer within 0.5 s" in fails(sleepy, UserError)


def test_an_interpreter_that_does_not_exist_is_named(tmp_path: Path) -> None:
    (tmp_path / "scorer.py").write_text("", encoding="utf-8")
    missing = Worker("echo", tmp_path / "python", tmp_path / "scorer.py", {}, Timeouts(5, 5))
    with pytest.raises(UserError, match=r"the interpreter '.*python' of reward 'echo' cannot be run"):
        missing.start()


PARENT = """
import sys, threading, numpy as np
from pathlib import Path
from grpo_bench.isolated.process import Timeouts, Worker
worker = Worker("echo", sys.executable, Path(sys.argv[1]), {}, Timeouts(20, 600))
if sys.argv[2] == "thread":
    thread = threading.Thread(target=worker.start)
    thread.start()
    thread.join()
worker.start()
print(worker.pid, flush=True)
worker.score(np.zeros((1, 1, 1, 3), dtype=np.uint8), ["a"])
"""


HOLDS_THE_INTERPRETER = "__import__('ctypes').PyDLL(None).sleep(600)"


@pytest.mark.parametrize(
    ("hold", "starter"),
    [
        ("[0 for _ in iter(int, 1)]", "main"),
        # Linux ends it although no other thread of it can run.
        pytest.param(HOLDS_THE_INTERPRETER, "main", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux")),
        # The end of the thread that started it is not the end of the run; here it looks for its parent by itself.
        ("time.sleep(600)", "thread"),
    ],
)
def test_a_worker_dies_with_its_parent(tmp_path: Path, hold: str, starter: str) -> None:
    # given a run whose worker is in the midst of a batch
    script, begun = tmp_path / "scorer.py", tmp_path / "begun"
    script.write_text(scoring(f"open({str(begun)!r}, 'w').close()", hold), encoding="utf-8")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, script, starter], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    limit = time.monotonic() + 20
    while not begun.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    assert begun.exists() and alive(pid)

    # when the run is killed
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    # then the worker goes too
    limit = time.monotonic() + 2.5
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not alive(pid)


def test_a_forgotten_worker_ends(worker: Start, tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    script.write_text(textwrap.dedent(ECHO), encoding="utf-8")
    forgotten = Worker("echo", sys.executable, script, {}, Timeouts(20, 20))
    forgotten.start()
    pid = forgotten.pid
    assert pid is not None and alive(pid)

    del forgotten
    assert not alive(pid)


def test_interrupts_are_the_engines(worker: Start) -> None:
    # given Ctrl-C, which a terminal sends to every process in the foreground
    echo = worker(ECHO)
    echo.start()
    assert echo.pid is not None
    os.kill(echo.pid, signal.SIGINT)

    # then the batch is finished all the same
    assert echo.score(pixels(4), ["a"]) == [5.0]
