"""A reader, a kill or a full disk finds the old file whole or the new file whole, and never a leftover that counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_bench.errors import UserError
from grpo_bench.store.atomic import output_file, remove_folder, remove_leftovers, write_bytes, write_folder, write_text

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
posix = pytest.mark.skipif(sys.platform == "win32", reason="resource limits and SIGKILL are POSIX")

# Writes the file over and over: a letter repeated, 200 kB to 1 MB, so that a torn file shows as mixed or short
WRITER = """
import sys
from pathlib import Path
from grpo_bench.store.atomic import write_text
for turn in range(10**9):
    letter = chr(97 + turn % 26)
    write_text(Path(sys.argv[1]), f"{(200 + 31 * (turn % 26)) * 1000:07d}" + letter * ((200 + 31 * (turn % 26)) * 1000))
"""

# Tries to write 1 MB where the system allows 100 kB a file; python ignores SIGXFSZ, so that write() fails with EFBIG
LIMITED = """
import resource, sys
from pathlib import Path
from grpo_bench.errors import UserError
from grpo_bench.store import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
path = Path(sys.argv[1])
def build(folder):
    (folder / "first").write_bytes(b"fits")
    (folder / "second").write_bytes(bytes(1_000_000))
try:
    if sys.argv[2] == "folder":
        atomic.write_folder(path, build, "a checkpoint")
    else:
        atomic.write_bytes(path, bytes(1_000_000), "the points")
except UserError as error:
    print(error)
"""


def is_whole(content: str) -> bool:
    body = content[7:]
    return len(body) == int(content[:7]) and body == body[0] * len(body)


def limited(path: Path, kind: str) -> str:
    command = [sys.executable, "-c", LIMITED, str(path), kind]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


@posix
def test_a_reader_sees_a_whole_file_while_writers_are_killed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen: set[str] = set()
    for lifetime in (0.05, 0.11, 0.17, 0.23, 0.31):
        # given a writer in its loop
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], env=ENVIRONMENT) as writer:
            before = path.stat().st_mtime_ns if path.exists() else None
            while not path.exists() or path.stat().st_mtime_ns == before:
                time.sleep(0.005)
            # when it is read all the time, and killed at some moment
            end = time.monotonic() + lifetime
            while time.monotonic() < end:
                content = path.read_text(encoding="utf-8")
                assert is_whole(content), f"torn: {len(content)} characters, {set(content[7:])}"
                seen.add(content[7])
            writer.send_signal(signal.SIGKILL)
        # then what it left is whole
        assert is_whole(path.read_text(encoding="utf-8"))
    assert len(seen) > 1, "the file did not change while it was read"
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


@posix
def test_a_disk_that_refuses_leaves_the_old_file_and_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "points.parquet"
    write_text(path, "old")
    message = limited(path, "file")
    assert message.startswith(f"Could not write the points to {path}: the file would exceed the allowed file size")
    assert message.count("\n") == 1
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == [path.name]


@posix
def test_a_disk_that_refuses_leaves_no_half_folder(tmp_path: Path) -> None:
    message = limited(tmp_path / "00000001", "folder")
    assert message.startswith(f"Could not write a checkpoint to {tmp_path / '00000001'}: ")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_disk_is_named_as_such(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        with open("/dev/full", "wb") as file:
            file.write(bytes(1_000_000))

    with pytest.raises(UserError, match="no space is left on the disk; free some and go on"):
        write_folder(tmp_path / "run", build)
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_and_a_taken_name_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Could not write the points to .*: No such file or directory"):
        write_bytes(tmp_path / "gone" / "points.parquet", b"", "the points")
    taken = tmp_path / "taken"
    write_folder(taken, lambda folder: write_text(folder / "old", "old"))
    with pytest.raises(UserError, match="Could not write a folder"):
        write_folder(taken, lambda folder: write_text(folder / "new", "new"))
    assert os.listdir(taken) == ["old"]
    assert os.listdir(tmp_path) == ["taken"]


def test_an_error_of_the_builder_passes_and_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        write_text(folder / "half", "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "run", build)
    assert os.listdir(tmp_path) == []


def test_a_removed_folder_is_gone_with_its_content(tmp_path: Path) -> None:
    write_folder(tmp_path / "run", lambda folder: write_text(folder / "file", "text"))
    remove_folder(tmp_path / "run")
    assert os.listdir(tmp_path) == []
    with pytest.raises(UserError, match="Could not remove"):
        remove_folder(tmp_path / "run")


@posix
def test_a_file_that_somebody_asked_for_is_written_through_a_link_and_over_no_device(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target.html", tmp_path / "link.html", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    os.mkfifo(pipe)

    assert output_file(link) == target.resolve()
    assert output_file(tmp_path / "new.html") == (tmp_path / "new.html").resolve()
    for path in (pipe, tmp_path, Path(os.devnull)):
        with pytest.raises(UserError, match="is no file"):
            output_file(path)


def test_no_file_is_written_into_a_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")

    for name in ("run.json", "points.parquet", "new.html"):
        with pytest.raises(UserError, match="lies in a run's folder"):
            output_file(tmp_path / name)
