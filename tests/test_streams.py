"""Output that nobody reads, or that a full disk refuses: one line and a code for every command, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import cli_here, command, environment
from studies import write_study
from thrift import thrifty

from grpo_bench.bundles.write import write_bundle
from grpo_bench.store.run import RunStore

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")


def lost(args: tuple[str, ...], cwd: Path, stream: str, kind: str) -> subprocess.CompletedProcess[bytes]:
    """The command with one of its streams into a pipe that nobody reads, or on to a full disk."""
    if kind == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        unread, target = os.pipe()
        os.close(unread)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: target}
    try:
        return subprocess.run(command(*args), cwd=cwd, env=environment(), timeout=60, check=False, **streams)  # type: ignore[call-overload,no-any-return]
    finally:
        os.close(target)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results and their bundle."""
    folder = tmp_path_factory.mktemp("place")
    write_study(folder / "runs", {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.6}, range(2), every=32_000)
    write_bundle(folder / "runs", folder / "runs.zip", "none")
    return folder


COMMANDS = [
    ("--help",),
    ("--version",),
    ("list", "recipes"),
    ("plan", "flat", "--json"),
    ("compare", "runs/study-flat-s0", "runs/study-tree-s0"),
    ("verify", "runs.zip"),
    ("verify", "runs.zip", "--json"),
    ("pareto", "runs"),
    ("claims", "runs"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "kind"),
    thrifty(
        [(args, kind) for args in COMMANDS for kind in ("pipe", "full")],
        *(0, 5, 10),
        ids=[f"{' '.join(args)}-{kind}" for args in COMMANDS for kind in ("pipe", "full")],
    ),
)
def test_standard_output_that_is_lost_is_one_line_and_a_code(place: Path, args: tuple[str, ...], kind: str) -> None:
    done = lost(args, place, "stdout", kind)

    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("grpo-bench: standard output cannot be written (")


@pytest.mark.parametrize("kind", thrifty(["pipe", "full"], 0))
@pytest.mark.parametrize("args", [("list", "recipes"), ("plan", "nobody")], ids=" ".join)
def test_standard_error_that_is_lost_changes_no_result(place: Path, args: tuple[str, ...], kind: str) -> None:
    done, heard = lost(args, place, "stderr", kind), subprocess.run(
        command(*args), cwd=place, env=environment(), capture_output=True, timeout=60, check=False
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (heard.returncode, heard.stdout)


def test_a_closed_standard_output_is_no_traceback(place: Path) -> None:
    script = f"exec '{sys.executable}' -c 'from grpo_bench.cli import main; main()' list recipes >&-"

    done = subprocess.run(["sh", "-c", script], cwd=place, env=environment(), capture_output=True, check=False)

    assert b"Traceback" not in done.stderr


def folder_for(name: str) -> Callable[[RunStore], None]:
    """Puts a folder where a picture should be written."""

    def spoil(store: RunStore) -> None:
        (store.folder / name).unlink()
        (store.folder / name).mkdir()

    return spoil


def without_images(store: RunStore) -> None:
    (store.images / "prompts.json").unlink()


@pytest.mark.parametrize("spoil", thrifty([folder_for("curve.png"), folder_for("grid.png"), without_images], 0))
@pytest.mark.parametrize("quiet", thrifty([[], ["--quiet"]], 0))
def test_a_finished_run_whose_pictures_cannot_be_drawn_prints_its_result(
    tmp_path: Path, spoil: Callable[[RunStore], None], quiet: list[str]
) -> None:
    words = ["run", "--workload", "gaussian", "--budget", "iterations=1", "--results", str(tmp_path), *quiet]
    assert "pictures" not in cli_here(*words).stderr
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    spoil(RunStore(folder))

    done = cli_here(*words)

    assert done.returncode == 0
    assert folder.name in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if "pictures" in line]
    assert line.startswith("grpo-bench: its pictures cannot be drawn: ")
