"""The process in a reward's own environment, and the frames that it and the engine exchange.

It runs as a script under an interpreter that knows nothing of this package: only the standard library is imported
here, and numpy when it serves. Its standard output and error are free for anybody's prints; frames have a
socket of their own. A frame is a magic word, the lengths of a header and of a payload, the header (a JSON object), and
the payload.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

MAGIC = b"grpo"
_PREFIX = struct.Struct(">4sIQ")
_LARGEST_HEAD = 64 << 20

Score = Callable[[object, Sequence[str]], Sequence[float]]


class BadFrame(Exception):
    """What came is not a frame: somebody else writes to the socket, or the two sides are of different versions."""


class Channel:
    """Frames over a connected socket. A time-out covers a whole frame, however slowly it trickles."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, head: Mapping[str, object], payload: bytes = b"", *, timeout: float | None = None) -> None:
        """Send one frame within `timeout` seconds (None: wait for ever).

        Raises:
            TimeoutError: the other side does not read.
            OSError: it is gone.
        """
        encoded = json.dumps(head).encode()
        deadline = _deadline(timeout)
        for part in (_PREFIX.pack(MAGIC, len(encoded), len(payload)) + encoded, payload):
            self._connection.settimeout(_left(deadline))
            self._connection.sendall(part)

    def receive(self, *, timeout: float | None = None, largest: int = 1 << 40) -> tuple[dict[str, object], bytearray]:
        """The next frame's header and payload, of at most `largest` bytes.

        Raises:
            TimeoutError: it is not complete within `timeout` seconds.
            EOFError: the other side closed the socket.
            BadFrame: something else came.
        """
        deadline = _deadline(timeout)
        prefix = self._read(_PREFIX.size, deadline)
        magic, head_size, payload_size = _PREFIX.unpack(prefix)
        if magic != MAGIC or head_size > _LARGEST_HEAD or payload_size > largest:
            raise BadFrame(f"{bytes(prefix)!r} is not the beginning of a frame")
        try:
            head = json.loads(self._read(head_size, deadline))
        except ValueError as error:
            raise BadFrame(f"a frame's header is not JSON: {error}") from None
        if not isinstance(head, dict):
            raise BadFrame(f"a frame's header is not a JSON object but {type(head).__name__}")
        return head, self._read(payload_size, deadline)

    def close(self) -> None:
        """Close the socket; the other side meets the end of it."""
        self._connection.close()

    def _read(self, size: int, deadline: float | None) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            self._connection.settimeout(_left(deadline))
            count = self._connection.recv_into(rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return data


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(deadline: float | None) -> float | None:
    """Seconds until then. Not 0, which a socket takes for 'do not wait at all'."""
    return None if deadline is None else max(deadline - time.monotonic(), 1e-6)


def serve(channel: Channel, script: str) -> None:
    """Load the scorer, say so, and score batch after batch until the engine closes the socket."""
    try:
        head, _ = channel.receive()
        import numpy  # noqa: F401 (now, and not in the time of the first batch)

        score = load_scorer(script, head)
    except EOFError:
        return
    except BaseException as error:
        _report(channel, error)
        raise SystemExit(1) from None
    channel.send({"ready": True})
    while True:
        try:
            head, pixels = channel.receive()
        except EOFError:
            return
        try:
            channel.send({"scores": _scores(score, head, pixels)})
        except Exception as error:
            _report(channel, error)


def load_scorer(script: str, settings: Mapping[str, object]) -> Score:
    """Run the script as a module, its folder importable as for any script, and call its `load(settings)`."""
    module = run_script(script)
    load: Callable[[Mapping[str, object]], Score] = module.load
    return load(settings)


def run_script(script: str) -> types.ModuleType:
    """The script as a module. Compiled here and not imported, so that nothing is written beside it."""
    sys.path.insert(0, os.path.dirname(script))
    module = types.ModuleType("scorer")
    module.__file__ = script
    sys.modules["scorer"] = module
    with open(script, encoding="utf-8") as file:
        exec(compile(file.read(), script, "exec"), module.__dict__)
    return module


def _scores(score: Score, head: Mapping[str, object], pixels: bytearray) -> list[float]:
    import numpy as np

    images_BHWC = np.frombuffer(pixels, dtype=np.uint8).reshape(head["shape"])  # type: ignore[call-overload]
    prompts: list[str] = head["prompts"]  # type: ignore[assignment]
    return [float(value) for value in score(images_BHWC, prompts)]


def _report(channel: Channel, error: BaseException) -> None:
    """The traceback into the log, its last line to the engine."""
    traceback.print_exception(type(error), error, error.__traceback__)
    with suppress(OSError):
        channel.send({"error": traceback.format_exception_only(type(error), error)[-1].strip()})


def die_with(parent: int, *, at_once: bool) -> None:
    """End this process when its parent ends, even in the midst of a batch, where no end of the socket is noticed.

    Linux kills it `at_once`. That ties it to the *thread* that started it, so it is asked for by a main thread only;
    everywhere else a thread looks once in half a second whether the parent is still the same.
    """
    if at_once and sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            set_parent_death_signal = 1
            ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str]) -> None:
    """`worker.py SCRIPT` tries whether the script can be loaded; with SOCKET PARENT AT_ONCE it serves."""
    del sys.path[0]  # this file's folder, whose names must not hide the environment's own
    script, *rest = arguments
    if not rest:
        run_script(script)
        return
    descriptor, parent, at_once = (int(word) for word in rest)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which ends its worker when it is done
    os.set_inheritable(descriptor, False)
    die_with(parent, at_once=bool(at_once))
    serve(Channel(socket.socket(fileno=descriptor)), script)


if __name__ == "__main__":
    main(sys.argv[1:])
