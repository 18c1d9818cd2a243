"""Whether a Ray cluster answers at an address: Ray itself tries for two minutes and then ends the process."""

from __future__ import annotations

import os
import socket

from grpo_bench.errors import UserError

SECONDS = 5.0
# A client of HTTP/2, which gRPC speaks, begins with this and an empty SETTINGS frame (RFC 9113, 3.4 and 4.1).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_SETTINGS = 4


def check_answers(address: str, own: str) -> None:
    """`address`: HOST:PORT or ray://HOST:PORT. `own`: this machine's address, which Ray takes for localhost.

    Raises:
        UserError: nothing answers there within some seconds, or what does is no gRPC server.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"a Ray address is HOST:PORT, such as 10.0.0.1:6379, not {address!r}")
    hosts = list(dict.fromkeys([host, own] if host in ("localhost", "127.0.0.1") else [host]))
    for number, candidate in enumerate(hosts, 1):
        try:
            with socket.create_connection((candidate, int(port)), timeout=SECONDS) as connection:
                if os.environ.get("RAY_USE_TLS", "0") in ("0", ""):
                    _shake_hands(connection)
            return
        except OSError as error:
            if number == len(hosts):
                raise UserError(
                    f"no Ray cluster answers at {address} ({error}): start one with `ray start --head`, or leave the "
                    "address out to start one here"
                ) from error


def _shake_hands(connection: socket.socket) -> None:
    """Raises OSError unless the other side answers as HTTP/2 does: a frame's nine bytes, and its type is SETTINGS."""
    connection.settimeout(SECONDS)
    connection.sendall(_PREFACE)
    frame = b""
    while len(frame) < 9:
        chunk = connection.recv(9 - len(frame))
        if not chunk:
            raise OSError("it closed the connection")
        frame += chunk
    if frame[3] != _SETTINGS:
        raise OSError("something else listens there")
