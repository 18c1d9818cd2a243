"""Writing so that a reader, a crash or a full disk finds the old file whole or the new file whole, never a part.

Data goes to a temporary sibling, is flushed to the disk, and takes the name in one step (`os.replace`).
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from grpo_bench.errors import UserError

_REASONS = {
    errno.ENOSPC: "no space is left on the disk; free some and go on",
    errno.EDQUOT: "the disk quota is used up; free some space and go on",
    errno.EFBIG: "the file would exceed the allowed file size; raise the limit (ulimit -f) and go on",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.EACCES: "writing there is not permitted; choose another folder",
    errno.EPERM: "writing there is not permitted; choose another folder",
}


@contextmanager
def saving(what: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a UserError that says what was being written where, and what still stands."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or type(error).__name__)
        raise UserError(f"Could not write {what} to {path}: {reason} (everything saved before is intact).") from error


@contextmanager
def exclusively(lock: Path, what: str, path: Path, refused: str) -> Iterator[None]:
    """Hold a lock file, made with its folder, without waiting; a killed process's hold ends with it.

    `what` and `path` name it where the disk refuses.

    Raises:
        UserError: `refused`, where another process holds it.
    """
    from filelock import FileLock, Timeout

    with saving(what, path):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        try:
            held.acquire(timeout=0)
        except Timeout:
            raise UserError(refused) from None
    try:
        yield
    finally:
        held.release()


def write_bytes(path: Path, data: bytes, what: str = "a file") -> None:
    """Replace the file `path` by `data` in one step; `what` names the content in an error.

    Raises:
        UserError: on a full, read-only or failing disk; the old file is then whole and no temporary one is left.
    """
    temporary = _sibling(path)
    with saving(what, path):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def output_file(path: Path) -> Path:
    """Where a file that somebody asked for is written: the file itself, where `path` is a link to it.

    Raises:
        UserError: it is a folder, a device or a pipe, or lies in a run's folder, whose files are the run.
    """
    file = Path(os.path.realpath(path))
    if file.exists() and not file.is_file():
        raise UserError(f"{path} is no file, and nothing is written over it; give the path of a file")
    if (file.parent / "run.json").exists():
        raise UserError(f"{path} lies in a run's folder, whose files are the run's own; write it elsewhere")
    return file


def write_text(path: Path, text: str, what: str = "a file") -> None:
    """`write_bytes` of UTF-8, newlines as they are."""
    write_bytes(path, text.encode("utf-8"), what)


def write_folder(path: Path, build: Callable[[Path], None], what: str = "a folder") -> None:
    """Let `build` fill a temporary folder, then give it the name `path`, which must not exist yet (or be empty).

    Raises:
        UserError: on an OSError of `build` or the disk, or when a folder of that name exists; nothing is left behind.
            Any other exception of `build` passes through, and nothing is left behind either.
    """
    temporary = _sibling(path)
    with saving(what, path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            build(temporary)
            for item in [*temporary.rglob("*"), temporary]:
                sync(item)
            replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Take the folder out of sight in one step, then delete it: a reader never meets half of it."""
    hidden = _sibling(path)
    try:
        replace(path, hidden)
    except OSError as error:
        raise UserError(f"Could not remove {path}: {error.strerror}.") from error
    shutil.rmtree(hidden, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of a killed writer; only for the process that holds the folder's lock."""
    for item in folder.glob(".*.tmp"):
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        else:
            with suppress(OSError):
                item.unlink()


def replace(source: Path, target: Path) -> None:
    """`os.replace`, and the new name itself flushed to the disk; patient on Windows, where a reader blocks it."""
    for delay in (0.01, 0.05, 0.2, 1.0) if sys.platform == "win32" else ():
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(delay)
    os.replace(source, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk; a system that cannot flush folders is left in peace."""
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:
            raise
    finally:
        os.close(handle)


def _sibling(path: Path) -> Path:
    """A fresh temporary name in the same folder, so that the last step is a rename and not a copy."""
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
