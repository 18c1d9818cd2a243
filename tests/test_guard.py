"""A process that a plugin ends is told of, with a code that is no success; any other leaves as it does."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from running import cli, environment

from grpo_bench.errors import Diverged, PluginFailed, UserError
from grpo_bench.guard import calling, interrupted_in

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no watched processes on this system")

PROGRAM = """
import atexit, ctypes, os, posix, signal, sys, time
from grpo_bench.guard import calling, supervised

def work():
    {body}

supervised(work)
"""


def start(body: str) -> subprocess.Popen[str]:
    """A watched program of these statements."""
    program = PROGRAM.format(body="\n    ".join(body.strip().splitlines()))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program], env=environment(), **pipes)  # type: ignore[call-overload,no-any-return]


def ended(body: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a watched program."""
    process = start(body)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("deed", "code", "said"),
    [
        ("os._exit(0)", 1, "ended with exit code 0"),
        ("os._exit(7)", 1, "ended with exit code 7"),
        ("posix._exit(0)", 1, "ended with exit code 0"),
        ("ctypes.CDLL(None)._exit(0)", 1, "ended with exit code 0"),
        ("os.execv('/bin/sh', ['sh', '-c', 'exit 0'])", 1, "ended with exit code 0"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "killed by SIGTERM"),
        ("ctypes.string_at(0)", 139, "killed by SIGSEGV"),
    ],
)
def test_an_end_that_python_cannot_see_is_one_sentence_and_no_success(deed: str, code: int, said: str) -> None:
    left, out, err = ended(f"with calling(\"reward 'x'\"):\n    {deed}")

    assert (left, out) == (code, "")
    (line,) = err.splitlines()
    assert line.startswith("grpo-bench: ")
    assert said in line
    assert "in reward 'x'" in line


def test_outside_a_plugin_none_is_blamed() -> None:
    left, _, err = ended("with calling(\"reward 'x'\"):\n    pass\nos._exit(0)")

    assert left == 1
    assert "reward" not in err


@pytest.mark.parametrize(
    ("leave", "code"), [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("sys.exit(130)", 130), ("sys.exit('words')", 1)]
)
def test_a_program_that_leaves_by_itself_leaves_as_it_does(leave: str, code: int) -> None:
    left, out, err = ended(f"print('done')\n{leave}")

    assert (left, out) == (code, "done\n")
    assert err == ("words\n" if "words" in leave else "")


def test_an_error_that_nobody_catches_is_a_traceback_and_code_1() -> None:
    left, _, err = ended("raise RuntimeError('a bug')")

    assert left == 1
    assert err.endswith("RuntimeError: a bug\n")


@pytest.mark.parametrize("code", [1, 2, 3])
def test_what_is_done_at_the_interpreters_end_makes_no_success_of_a_failure(code: int) -> None:
    assert ended(f"atexit.register(os._exit, 0)\nsys.exit({code})")[0] == code


WAIT = """
print(os.getpid(), flush=True)
for _ in range(600):
    time.sleep(0.05)
"""


@pytest.mark.parametrize("target", ["program", "work"])
def test_an_interrupt_sent_to_either_process_arrives_once(target: str) -> None:
    process = start(f"seen = []\nsignal.signal(signal.SIGINT, lambda *_: seen.append(1))\n{WAIT.strip()}\n"
                    "    if seen:\n        time.sleep(0.2)\n        sys.exit(40 + len(seen))")  # fmt: skip
    assert process.stdout is not None
    child = int(process.stdout.readline())

    os.kill(process.pid if target == "program" else child, signal.SIGINT)

    process.communicate(timeout=30)
    assert process.returncode == 41


def test_ctrl_c_in_a_terminal_arrives_once() -> None:
    waiting = f"seen = []\nsignal.signal(signal.SIGINT, lambda *_: seen.append(1))\n{WAIT.strip()}\n"
    ends = "    if seen:\n        time.sleep(0.2)\n        os.write(1, b'seen %d' % len(seen))\n        sys.exit(0)"
    program = PROGRAM.format(body="\n    ".join((waiting + ends).strip().splitlines()))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-c", program], environment())
    said = b""
    while not said.strip().isdigit():
        said += os.read(terminal, 100)

    os.write(terminal, b"\x03")

    with suppress(OSError):  # what Linux says of a terminal whose last process has ended
        while part := os.read(terminal, 100):
            said += part
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert said.endswith(b"seen 1")


def alive(pid: int) -> bool:
    """Whether the process lives; a zombie, which nobody has waited for, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_work_ends_with_the_program(number: signal.Signals) -> None:
    process = start(WAIT)
    assert process.stdout is not None
    child = int(process.stdout.readline())

    process.send_signal(number)

    process.communicate(timeout=30)
    assert process.returncode == -number
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


@pytest.mark.parametrize("deed", ["os._exit(0)", "sys.exit(0)", "raise SystemExit", "raise MemoryError('no\\x1b[31m')"])
@pytest.mark.parametrize("command", ["list", "check"])
def test_a_plugin_that_ends_the_program_as_it_is_imported(tmp_path: Path, command: str, deed: str) -> None:
    (tmp_path / "mine.py").write_text(f"import os, sys\n{deed}\n", encoding="utf-8")

    done = cli(command, *(["rewards"] if command == "list" else []), "--plugin", "mine.py", cwd=tmp_path)

    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith("grpo-bench: ")
    assert "plugin 'mine.py'" in done.stderr or "memory" in done.stderr


@pytest.mark.parametrize(
    "error",
    [ValueError("\x1b[31mred\x1b[0m\nline"), SystemExit(0), GeneratorExit(), StopIteration(3), AssertionError()],
)
def test_what_a_plugin_raises_becomes_one_sentence_that_names_it(error: BaseException) -> None:
    with pytest.raises(PluginFailed) as caught, calling("method 'm'"):
        raise error

    said = str(caught.value)
    assert said.startswith(f"method 'm' failed: {type(error).__name__}")
    assert "test_guard.py, line" in said
    assert not {"\x1b", "\n"} & set(said)
    assert caught.value.__cause__ is error


def test_an_error_whose_text_raises_is_told_too() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(PluginFailed, match="failed: Odd"), calling("method 'm'"):
        raise Odd


@pytest.mark.parametrize("kind", [UserError, Diverged, MemoryError, PluginFailed])
def test_what_is_meant_for_a_person_passes(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^as it is$"), calling("method 'm'"):
        raise kind("as it is")


def test_an_interrupt_passes_and_says_where_it_came() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, calling("reward 'r'"):
        raise KeyboardInterrupt

    assert interrupted_in(caught.value) == " in reward 'r'"
    assert interrupted_in(KeyboardInterrupt()) == ""


@pytest.mark.parametrize("deed", ["pass", "sys.exit(0)", "raise ValueError('x')", "sys.exit(3)"])
def test_a_process_that_a_plugin_forks_never_goes_on_as_the_command(deed: str) -> None:
    left, out, err = ended(
        f"""
with calling("reward 'x'"):
    if os.fork() == 0:
        {deed}
    else:
        os.wait()
print("one line", flush=True)
sys.exit(0)"""
    )

    assert (left, out, err) == (0, "one line\n", "")
