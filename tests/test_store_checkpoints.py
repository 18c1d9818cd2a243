"""A checkpoint is complete or it is not there; the last good one survives whatever happens to the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_bench.errors import UserError
from grpo_bench.store.checkpoints import CheckpointStore

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}

# Saves one checkpoint after another, each with its number in every byte of two files
SAVER = """
import sys
from pathlib import Path
from grpo_bench.store.checkpoints import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]))
latest = store.latest()
for number in range(latest.iteration + 1 if latest else 1, 10**9):
    def write(folder):
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(bytes([number % 256]) * 300_000)
        (folder / "optimizer").write_bytes(bytes([number % 256]) * 100_000)
    store.save(number, write)
"""


def writer(content: bytes) -> WriteModel:
    return WriteModel(content)


class WriteModel:
    """Writes a model in a subfolder and its optimiser beside it."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __call__(self, folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(self.content)
        (folder / "optimizer").write_bytes(b"moments of " + self.content)


def test_the_latest_checkpoint_is_the_only_one_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    assert store.latest() is None
    store.save(3, writer(b"three"))
    saved = store.save(12, writer(b"twelve"))
    assert store.latest() == saved
    assert saved.iteration == 12
    assert (saved.path / "model" / "weights").read_bytes() == b"twelve"
    assert sorted(os.listdir(store.folder)) == ["00000012", "latest.json"]


def test_an_interrupted_save_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    saved = store.save(3, writer(b"three"))

    def interrupted(folder: Path) -> None:
        writer(b"four")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(4, interrupted)
    assert store.latest() == saved
    assert sorted(os.listdir(tmp_path)) == ["00000003", "latest.json"]


def test_saving_an_iteration_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(3, writer(b"first"))
    again = store.save(3, writer(b"second"))
    assert store.latest() == again
    assert (again.path / "model" / "weights").read_bytes() == b"second"
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "added", "unmarked"])
def test_a_damaged_checkpoint_is_never_taken_for_a_whole_one(damage: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    weights = store.save(3, writer(b"three")).path / "model" / "weights"
    if damage == "truncated":
        weights.write_bytes(b"thr")
    elif damage == "changed":
        weights.write_bytes(b"threE")
    elif damage == "missing":
        weights.unlink()
    elif damage == "added":
        (weights.parent / "more").touch()
    else:
        (tmp_path / "00000003" / "complete.json").unlink()
    with pytest.raises(UserError, match=r"Every checkpoint .* is damaged: start the run afresh with --again"):
        store.latest()


def test_a_crash_between_rename_and_pointer_leaves_the_older_one_in_charge(tmp_path: Path) -> None:
    # given the state on the disk after the rename of 4 and before the pointer moved
    store = CheckpointStore(tmp_path)
    other = CheckpointStore(tmp_path / "other")
    old = store.save(3, writer(b"three"))
    os.replace(other.save(4, writer(b"four")).path, tmp_path / "00000004")
    (tmp_path / "other" / "latest.json").unlink()
    (tmp_path / "other").rmdir()
    assert store.latest() == old
    # when the old one is damaged, then the new one serves
    (old.path / "optimizer").unlink()
    latest = store.latest()
    assert latest is not None
    assert latest.iteration == 4


@pytest.mark.parametrize("pointer", ["", "[]", "{}", '{"latest": "../.."}', '{"latest": 7}'])
def test_a_damaged_pointer_does_not_hide_a_whole_checkpoint(pointer: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    saved = store.save(3, writer(b"three"))
    (tmp_path / "latest.json").write_text(pointer, encoding="utf-8")
    assert store.latest() == saved


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_checkpoint_is_whole_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    reached = 0
    for lifetime in (0.01, 0.037, 0.071, 0.1, 0.15, 0.2):
        # given a process that saves one after another, when it is killed
        with subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], env=ENVIRONMENT) as saver:
            before = set(os.listdir(tmp_path))
            while not set(os.listdir(tmp_path)) - before:
                time.sleep(0.002)
            time.sleep(lifetime)
            saver.send_signal(signal.SIGKILL)
        # then the latest is whole, each file of it from the same save, and none was lost
        latest = store.latest()
        if latest is None:
            assert reached == 0
            continue
        assert latest.iteration >= reached
        reached = latest.iteration
        assert (latest.path / "model" / "weights").read_bytes() == bytes([reached % 256]) * 300_000
        assert (latest.path / "optimizer").read_bytes() == bytes([reached % 256]) * 100_000
    assert reached > 0, "nothing was saved before the kills"
