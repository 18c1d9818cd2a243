"""Which files a plugin opens while it is imported or made: names that it computes are in no text of its source.

An audit hook sees every opening of a file in this process (PEP 578). It keeps those for reading that happen while a
plugin is being loaded, or an object of its class made, and whose caller, past the standard library, lies in no
installed library and not in the engine.
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
    opened: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)
    """By what was made (empty: an import) and the opening file's path, what it opened, in order."""
    making: list[str] = field(default_factory=list)
    """What is being made or loaded, the innermost last."""
    hooked: bool = False
    """A hook cannot be taken away again."""


_watch = _Watch()


def making(kind: type, settings: object) -> str:
    """A name for the objects of a class with these settings: what one opens, all of them are taken to open.

    A class may read a file once for all its objects, and which file may depend on the settings.
    """
    return f"{kind.__module__}.{kind.__qualname__} {settings!r}"


@contextmanager
def watching(made: str = "") -> Iterator[None]:
    """Keep what plugins open in the block, as opened by their import, or by objects named `made` (`making`)."""
    if not _watch.hooked:
        sys.addaudithook(_heard)
        _watch.hooked = True
    _watch.making.append(made)
    try:
        yield
    finally:
        _watch.making.pop()


def opened_by(source: Path, made: str = "") -> list[Path]:
    """The files that the code in `source` opened while plugins were loaded, and while `made` was made: no libraries.

    Compiled code stands for its source.
    """
    found: dict[Path, None] = {}
    caller = os.path.realpath(source)
    for name in {**_watch.opened.get(("", caller), {}), **_watch.opened.get((made, caller), {})}:
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
    if not _watch.making or event != "open" or not isinstance(words[0], str | bytes | os.PathLike):
        return
    _, mode, flags = words
    if (isinstance(mode, str) and mode[:1] in "wax") or (
        isinstance(flags, int) and flags & os.O_ACCMODE == os.O_WRONLY
    ):
        return
    caller = _caller(sys._getframe(1))
    if caller is not None:
        _watch.opened.setdefault((_watch.making[-1], os.path.realpath(caller)), {})[
            os.path.abspath(os.fsdecode(words[0]))
        ] = None


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
