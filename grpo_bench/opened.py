"""Which files a plugin opens while it is imported: names that it computes are in no text of its source.

An audit hook sees every opening of a file in this process (PEP 578). It keeps those that happen while a plugin is being
loaded and whose caller, past the standard library, lies in no installed library and not in the engine.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType


@dataclass
class _Watch:
    opened: dict[str, dict[str, None]] = field(default_factory=dict)
    """By the opening file's path, what it opened, in order."""
    loading: int = 0
    hooked: bool = False
    """A hook cannot be taken away again."""


_watch = _Watch()


@contextmanager
def watching() -> Iterator[None]:
    """Keep what plugins open in the block."""
    if not _watch.hooked:
        sys.addaudithook(_heard)
        _watch.hooked = True
    _watch.loading += 1
    try:
        yield
    finally:
        _watch.loading -= 1


def opened_by(source: Path) -> list[Path]:
    """The files that the code in `source` opened while plugins were loaded: no libraries; compiled code as source."""
    found: dict[Path, None] = {}
    for name in _watch.opened.get(os.path.realpath(source), {}):
        path = Path(name)
        if path.suffix == ".pyc":
            try:
                path = Path(importlib.util.source_from_cache(name))
            except ValueError:
                continue
        if path.is_file() and not _library(os.path.realpath(path)):
            found[path] = None
    return list(found)


def _heard(event: str, words: tuple[object, ...]) -> None:
    if not _watch.loading or event != "open" or not isinstance(words[0], str | bytes | os.PathLike):
        return
    caller = _caller(sys._getframe(1))
    if caller is not None:
        _watch.opened.setdefault(os.path.realpath(caller), {})[os.path.abspath(os.fsdecode(words[0]))] = None


def _caller(frame: FrameType | None) -> str | None:
    """The file of the first frame outside the standard library; None where that is a library's or the engine's."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith("<") and not name.startswith(_STANDARD):
            return None if _library(os.path.realpath(name)) else name
        frame = frame.f_back
    return None


def _library(path: str) -> bool:
    return path.startswith(_LIBRARIES)


def _folders(*names: str) -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    found = {folder for name in names for folder in (paths[name], os.path.realpath(paths[name]))}
    return tuple(f"{folder}{os.sep}" for folder in sorted(found))


_LIBRARIES = (
    *_folders("stdlib", "platstdlib", "purelib", "platlib"),
    f"{os.path.realpath(Path(__file__).parent)}{os.sep}", "/proc/", "/sys/",
)  # fmt: skip
_STANDARD = tuple(
    folder for folder in _folders("stdlib", "platstdlib") if not folder.rstrip(os.sep).endswith("site-packages")
)
