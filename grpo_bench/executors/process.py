"""One run in a process of its own: started, asked to stop, killed, and how it ended.

A process ends with the one that started it: after `kill -9` of a sweep no run writes on for long, and what it did
until then is in its folder. It leads a process group, so that Ctrl-C in a terminal does not reach it: who started it
passes that on, once.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from grpo_bench.errors import UserError
from grpo_bench.executors.base import Job
from grpo_bench.isolated.worker import die_with
from grpo_bench.store.names import clean_text
from grpo_bench.store.record import read_record
from grpo_bench.store.run import CONFIG, LOCK, RECORD

PARENT = "GRPO_BENCH_PARENT"
"""The variable that names the process a run ends with."""
COMMAND = "GRPO_BENCH_COMMAND"
"""The variable with the command that a run's record keeps: its own has a config file that is gone when it ends."""
GRACE = 60.0
"""Seconds a run has to finish its iteration when it is asked to stop."""
PATIENCE = 30.0
"""Seconds to wait on a cluster for who holds a run's folder: the process of a lost worker ends within one or two."""
INTERRUPTED = 130
_TAIL_BYTES = 1 << 16
_EVERY = 0.1


@dataclass(frozen=True)
class Outcome:
    """How a process ended; `code` is None when it was killed."""

    code: int | None
    message: str = ""
    where: str = ""


class Running:
    """A run's process."""

    def __init__(self, job: Job, *, timed: bool, threads: int | None = None, device: str | None = None) -> None:
        """Start it, on all of the machine's threads and devices unless told otherwise.

        Raises:
            UserError: the machine starts no further process, or has no room for its files.
        """
        self.job = job
        self._asked: float | None = None
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="grpo-bench-", ignore_cleanup_errors=True)
            config, self._stderr = Path(self._folder.name, "config.toml"), Path(self._folder.name, "stderr")
            config.write_text(job.config_toml, encoding="utf-8")
            with self._stderr.open("wb") as stderr:
                self._process = subprocess.Popen(
                    command(job, config, timed=timed),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    cwd=job.cwd,
                    env=_variables(threads, device) | {COMMAND: recorded(job, timed=timed)},
                    start_new_session=True,
                )
        except OSError as error:
            raise UserError(f"the run {job.run} could not be started: {error}") from error
        self.where = f"process {self._process.pid} on {socket.gethostname()}"

    def poll(self) -> Outcome | None:
        """How it ended, or None while it goes on."""
        code = self._process.poll()
        return None if code is None else self._ended(code)

    def interrupt(self) -> None:
        """Ask it to end after its iteration; asking again does nothing, since a second time would mean at once."""
        if self._asked is None:
            self._asked = time.monotonic()
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT if sys.platform != "win32" else signal.SIGTERM)

    def asked_for(self) -> float:
        """Seconds since it was asked to end; 0 before."""
        return 0.0 if self._asked is None else time.monotonic() - self._asked

    def kill(self) -> Outcome:
        """End it now, with whatever it started itself."""
        with suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._ended(self._process.wait())

    def stop(self, grace: float) -> Outcome:
        """`interrupt`, wait, and `kill` when it has not ended after `grace` seconds."""
        self.interrupt()
        with suppress(subprocess.TimeoutExpired):
            return self._ended(self._process.wait(timeout=grace))
        return self.kill()

    def _ended(self, code: int) -> Outcome:
        said = _tail(self._stderr)
        self._folder.cleanup()
        if self._asked is not None and (code == -signal.SIGINT or said.startswith("Aborted")):
            return Outcome(INTERRUPTED, "stopped before its first iteration", self.where)
        if code == 0 and _status(self.job) == "running":
            return Outcome(1, "its process was ended with exit code 0 before it was done", self.where)
        if code >= 0:
            return Outcome(code, _message(self.job, code, said), self.where)
        name = signal.Signals(-code).name
        if self._asked is not None and code == -signal.SIGKILL:
            return Outcome(None, f"did not stop when asked to, and was killed ({name})", self.where)
        return Outcome(None, f"killed by {name}, by somebody or for want of memory", self.where)


def run_job(
    job: Job, *, timed: bool, threads: int | None, should_stop: Callable[[], bool], grace: float = GRACE
) -> Outcome:
    """Carry out one job on a cluster's node and wait for its end; it is asked to stop once `should_stop()`.

    Whatever is raised while it waits (a cancelled task) stops the run first. A folder held by another process is waited
    for a while, and then told of.
    """
    wait_for_holder(job, PATIENCE)
    running = Running(job, timed=timed, threads=threads)
    try:
        return wait(running, should_stop, grace)
    except BaseException:
        running.stop(grace)
        raise


def wait(running: Running, should_stop: Callable[[], bool] = lambda: False, grace: float = GRACE) -> Outcome:
    """Its end, looked for ten times a second; it is asked to stop once `should_stop()`, and killed `grace` s later."""
    while (outcome := running.poll()) is None:
        time.sleep(_EVERY)
        if should_stop():
            return running.stop(grace)
    return outcome


def wait_for_holder(job: Job, patience: float) -> None:
    """Until nobody holds the run's folder, or `patience` seconds; the run itself then says who does."""
    from filelock import FileLock, Timeout

    lock = job.folder / LOCK
    if patience > 0 and lock.exists():
        with suppress(Timeout, OSError), FileLock(lock).acquire(timeout=patience, poll_interval=_EVERY):
            pass


def command(job: Job, config: Path, *, timed: bool) -> list[str]:
    """`grpo-bench run`, as this interpreter runs it wherever it stands (-P: the working folder hides no module)."""
    words = [sys.executable, "-P", "-m", "grpo_bench", "run", "--quiet", "--config", str(config)]
    return [*words, "--results", str(job.folder.parent), *_options(job, timed=timed)]


def recorded(job: Job, *, timed: bool) -> str:
    """The command that makes this run again, from inside its folder."""
    return shlex.join(["grpo-bench", "run", "--config", CONFIG, *_options(job, timed=timed)])


def _options(job: Job, *, timed: bool) -> list[str]:
    plugins = [word for plugin in job.plugins for word in ("--plugin", plugin)]
    return plugins if timed else [*plugins, "--untimed"]


def end_with_parent() -> bool:
    """In a process that an executor started: end when that ends, and True. In any other: nothing, and False."""
    parent = os.environ.pop(PARENT, "")
    if parent.isdecimal() and sys.platform != "win32":  # there a launcher stands between the two
        # Slurm's warning goes to every process of a job, and is for the one that submitit waits in.
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        # Who started it asks it to stop by Ctrl-C's signal. Ray blocks that in everything that it starts here, a script
        # ignores it in what it leaves in the background, and both are inherited.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # A watching thread, and not the kernel's signal: that comes when the *thread* ends that started the process.
        die_with(int(parent), at_once=False)
    return bool(parent)


def _variables(threads: int | None, device: str | None) -> dict[str, str]:
    variables = os.environ | {PARENT: str(os.getpid())}
    if threads is not None:
        variables["OMP_NUM_THREADS"] = str(threads)
    if device is not None:
        variables["CUDA_VISIBLE_DEVICES"] = device
    return variables


def _tail(path: Path) -> str:
    """The last line written to a file that says something."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _status(job: Job) -> str:
    """What its record says, empty where it says nothing."""
    try:
        return read_record(job.folder / RECORD).status
    except UserError:
        return ""


def _message(job: Job, code: int, said: str) -> str:
    """Why it ended so: its own sentence, else what its record says, else the last it wrote."""
    if code == 0:
        return ""
    if not said.startswith("grpo-bench: "):
        with suppress(UserError):
            record = read_record(job.folder / RECORD)
            if record.status in ("failed", "diverged", "interrupted"):
                said = record.reason
    return clean_text(said.removeprefix("grpo-bench: "))
