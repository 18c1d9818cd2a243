"""Standard output and error that may go away: a pipe that nobody reads any more, a disk that is full."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO


class OutputLost(Exception):
    """What was printed on standard output does not arrive; the message says why."""


class _Output(io.TextIOWrapper):
    """A stream whose loss is an error of its own, which no library takes for a file's."""

    def write(self, text: str) -> int:
        """Write, or raise OutputLost."""
        try:
            return super().write(text)
        except OSError as error:
            raise self._lost(error) from error

    def flush(self) -> None:
        """Flush, or raise OutputLost."""
        try:
            super().flush()
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> OutputLost:
        # What is still in the buffer must not fail again when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return OutputLost(f"standard output cannot be written ({error.strerror}); what was done is done")


class _Errors(_Output):
    """A stream whose loss is no error: a display that nobody sees must not end a run."""

    def write(self, text: str) -> int:
        """Write, if that can be done."""
        try:
            return super().write(text)
        except OutputLost:
            return len(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
        try:
            super().flush()
        except OutputLost:
            return


@contextmanager
def watched_streams() -> Iterator[None]:
    """Print through streams that know when they are lost, and that replace what a terminal's encoding cannot say.

    Raises:
        OutputLost: standard output is lost, at the latest when all of it is written out at the end.
    """
    out, err = _over(sys.stdout, _Output), _over(sys.stderr, _Errors)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            err.flush()
            out.flush()


def _over(stream: TextIO | None, kind: type[_Output]) -> TextIO:
    """A stream of this kind over the same file; the stream itself where it has none, such as a test's."""
    if stream is None:  # it was closed before this began
        return io.StringIO()
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return stream
    stream.flush()
    raw = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    # As Python's own: a terminal shows each line at once, and errors are never kept back.
    return kind(raw, stream.encoding, "replace", line_buffering=stream.isatty() or kind is _Errors)
