"""Plugins' code, guarded: what it raises becomes a sentence that names it, and a process that it ends is told of.

Python cannot see `os._exit`, a signal or a crash inside C code. So a command does its work in a child process, and the
parent, which has loaded nothing, reads from a page of shared memory whether the child left by itself, and if not, whose
code it was in.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import NoReturn

from grpo_bench.errors import Diverged, PluginFailed, UserError, out_of_memory
from grpo_bench.isolated.worker import die_with
from grpo_bench.store.names import clean_text

_MEANT = (UserError, PluginFailed, Diverged)
"""What a plugin may raise for a person to read."""
_NOTE = 200
_page = mmap.mmap(-1, 1 + _NOTE)
"""Shared with the parent: how the process left (0: not yet, else its exit code + 1), and whose code it is in."""


@contextmanager
def calling(plugin: str, failed: str = "failed", kind: type[Exception] = PluginFailed) -> Iterator[None]:
    """Around the code of `plugin`, such as `reward 'hps'`; raises a `kind` instead of what no person should read.

    A process that the code has forked, and that comes back from it, ends here: the command goes on in one process.

    Raises:
        PluginFailed: the code raised anything, `SystemExit` too.
    """
    before, folder, process = _whose(), _folder(), os.getpid()
    _note(plugin)
    try:
        with redirect_stdout(sys.stderr):  # standard output is for results
            try:
                yield
            finally:
                if os.getpid() != process:
                    os._exit(0)
    except _MEANT:
        raise
    except KeyboardInterrupt as error:
        error.add_note(f"in {plugin}")
        raise
    except BaseException as error:
        if out_of_memory(error):
            raise
        raise kind(f"{plugin} {failed}: {_told(error)}") from error
    finally:
        _note(before)
        if folder and _folder() != folder:  # relative paths, the results' too, mean what they meant
            os.chdir(folder)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def interrupted_in(error: KeyboardInterrupt) -> str:
    """` in reward 'hps'` for an interrupt that came out of a plugin's code; empty for another."""
    notes = getattr(error, "__notes__", [])
    return f" {notes[0]}" if notes else ""


def _told(error: BaseException) -> str:
    """The error in one line, and the line of code that raised it."""
    try:
        said = clean_text(str(error), 300)
    except Exception:
        said = "an error that cannot be printed"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({Path(last[0].filename).name}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {said}{place}" if said else f"{type(error).__name__}{place}"


def supervised(work: Callable[[], NoReturn]) -> NoReturn:
    """Do `work`, which leaves by SystemExit, in a child process, and leave as it does, with a word where it has none.

    Ctrl-C reaches both from the terminal; sent to this process alone, it is passed on. The child ends with its parent.
    Where the system cannot tell the two apart, or starts no further process, the work is done here.
    """
    if not hasattr(signal, "sigwaitinfo"):
        work()
    mine = {signal.SIGINT, signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is inherited as ignored, no end of a child is told
    before, parent = signal.pthread_sigmask(signal.SIG_BLOCK, mine), os.getpid()
    try:
        child = os.fork()
    except OSError:
        child = 0
    if child:
        sys.exit(_watch(child, mine))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if os.getpid() != parent:
        die_with(parent, at_once=True)
    try:
        work()
    except BaseException as leaving:
        code = leaving.code if isinstance(leaving, SystemExit) else 1
        _page[0] = 1 + (code if isinstance(code, int) else 1) % 255
        raise


def _watch(child: int, mine: set[signal.Signals]) -> int:
    """Wait for the child's end; the exit code of this process."""
    while True:
        told = signal.sigwaitinfo(mine)
        if told.si_signo == signal.SIGINT:
            if told.si_code <= 0:  # by a process, and not by the terminal, whose Ctrl-C has reached the child too
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGINT)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return _code(os.waitstatus_to_exitcode(status))


def _code(left: int) -> int:
    """The exit code for a child that ended with `left` (negative: by that signal); says so where it could not."""
    if _page[0] and left >= 0:
        return (_page[0] - 1) or left  # what is registered for an interpreter's end may not turn a failure into success
    whose = f" in {_whose()}" if _whose() else ""
    if left >= 0:
        said = f"the process was ended with exit code {left}{whose} before it was done; a plugin must not end it"
    else:
        said = f"the process was killed by {signal.Signals(-left).name}{whose}, by somebody, a fault or want of memory"
    with suppress(OSError):
        print(f"grpo-bench: {said}; what was stored is kept", file=sys.stderr, flush=True)  # noqa: T201
    return 1 if left >= 0 else 128 - left


def _whose() -> str:
    return _page[1:].rstrip(b"\0").decode("utf-8", errors="ignore")


def _note(plugin: str) -> None:
    _page[1:] = clean_text(plugin).encode()[:_NOTE].ljust(_NOTE, b"\0")
