"""A worker as the engine sees it: started on demand, asked batch by batch, killed at the first sign of trouble."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from grpo_bench.errors import RewardFailed, UserError
from grpo_bench.isolated import worker
from grpo_bench.isolated.worker import BadFrame, Channel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_TAIL_BYTES = 8000
_HIDDEN = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
"""Variables that would show the worker packages of another environment."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a worker has to load, and to score one batch."""

    start: float
    batch: float


class Worker:
    """One process that scores for one reward; its weights stay loaded from batch to batch."""

    def __init__(
        self, name: str, python: str | Path, script: Path, settings: Mapping[str, object], timeouts: Timeouts
    ) -> None:
        self._name, self._python, self._script = name, str(python), script
        self._settings, self._timeouts = settings, timeouts
        self._running: _Running | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._running.process.pid if self._running else None

    def start(self) -> None:
        """Start the process and wait until its scorer is loaded; a running one is left alone.

        Raises:
            UserError: it cannot be started, or does not load within its time.
        """
        if self._running is not None:
            return
        self._running = running = _launch(self._name, self._python, self._script)
        try:
            self._exchange(running, self._settings, b"", self._timeouts.start, "load its scorer")
        except _Trouble as trouble:
            self._fail(UserError, f"could not be started: {trouble}", trouble)

    def score(self, images_BHWC: NDArray[np.uint8], prompts: Sequence[str]) -> list[float]:
        """One score an image.

        Raises:
            UserError: the worker cannot be started.
            RewardFailed: it died, hung, failed or answered nonsense; it is dead now.
        """
        self.start()
        assert self._running is not None
        head = {"shape": images_BHWC.shape, "prompts": list(prompts)}
        try:
            pixels = images_BHWC.tobytes()
            answer = self._exchange(self._running, head, pixels, self._timeouts.batch, "score a batch")
            scores = answer.get("scores")
            if not isinstance(scores, list):
                raise _Trouble(f"answered {str(answer)[:100]} and no scores")
            if len(scores) != len(prompts):
                raise _Trouble(f"gave {len(scores)} scores for {len(prompts)} images")
        except _Trouble as trouble:
            self._fail(RewardFailed, str(trouble), trouble)
        return [float(score) for score in scores]

    def close(self) -> None:
        """End the process, if it runs."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def _exchange(
        self, running: _Running, head: Mapping[str, object], payload: bytes, seconds: float, task: str
    ) -> dict[str, object]:
        """Send one frame and receive the answer, both within the time."""
        try:
            deadline = time.monotonic() + seconds
            running.channel.send(head, payload, timeout=seconds)
            answer, _ = running.channel.receive(timeout=deadline - time.monotonic(), largest=0)
        except TimeoutError:
            raise _Trouble(f"did not {task} within {seconds:g} s") from None
        except BadFrame as error:
            raise _Trouble(f"wrote garbage: {error}") from None
        except (EOFError, OSError):
            raise _Trouble(running.ending()) from None
        if "error" in answer:
            raise _Trouble(f"reported {str(answer['error'])[:300]}")
        return answer

    def _fail(self, kind: type[Exception], reason: str, cause: Exception) -> NoReturn:
        assert self._running is not None
        tail = self._running.tail()
        self.close()
        # For run.log; what is raised is the one sentence for a person.
        log.info("the worker of reward %r failed (%s); it wrote last:\n%s", self._name, reason, tail)
        said = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
        hint = f" (it wrote last: {said[:300]})" if said and said not in reason else ""
        raise kind(f"the worker of reward {self._name!r} {reason}{hint}") from cause


class _Trouble(Exception):
    """What a worker did wrong, as the rest of a sentence about it."""


class _Running:
    """A live process with its socket, the end of what it writes, and its working folder."""

    def __init__(
        self, process: subprocess.Popen[bytes], channel: Channel, folder: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.process, self.channel = process, channel
        self._tail = bytearray()
        assert process.stdout is not None
        self._drain = threading.Thread(target=_drain, args=(process.stdout, self._tail), daemon=True)
        self._drain.start()
        # Also called when the object is forgotten and when the interpreter ends.
        self.stop = weakref.finalize(self, _stop, process, channel, folder)

    def tail(self) -> str:
        """The last of what it wrote to standard output and error."""
        if self.process.poll() is not None:
            self._drain.join(timeout=1)
        return bytes(self._tail).decode("utf-8", errors="replace").replace("\0", "")

    def ending(self) -> str:
        """How a process ended that closed its socket."""
        try:
            code = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return "closed its socket"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def _launch(name: str, python: str, script: Path) -> _Running:
    if sys.platform == "win32":
        raise UserError(f"reward {name!r} runs in a process of its own, which needs Linux or macOS")
    if not script.is_file():
        raise UserError(f"the scorer {str(script)!r} of reward {name!r} does not exist; give the path of a .py file")
    ours, theirs = socket.socketpair()
    folder = tempfile.TemporaryDirectory(prefix=f"grpo-bench-{name}-")
    at_once = threading.current_thread() is threading.main_thread()
    words = [str(script.resolve()), str(theirs.fileno()), str(os.getpid()), str(int(at_once))]
    try:
        process = subprocess.Popen(
            [python, worker.__file__, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder.name,
            env=environment_variables(),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        folder.cleanup()
        raise UserError(f"the interpreter {python!r} of reward {name!r} cannot be run: {error.strerror}") from error
    finally:
        theirs.close()
    return _Running(process, Channel(ours), folder)


def environment_variables() -> dict[str, str]:
    """This process's variables, without what would mix its packages into another environment."""
    kept = {key: value for key, value in os.environ.items() if key not in _HIDDEN}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def _drain(stream: IO[bytes], tail: bytearray) -> None:
    """Read everything a worker writes, so that it never waits for us, and keep the end of it."""
    with suppress(OSError, ValueError):
        while chunk := os.read(stream.fileno(), 65536):
            tail += chunk
            del tail[:-_TAIL_BYTES]


def _stop(process: subprocess.Popen[bytes], channel: Channel, folder: tempfile.TemporaryDirectory[str]) -> None:
    channel.close()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # with whatever it started itself
    process.wait()
    folder.cleanup()
