"""Checkpoints: folders that are either complete or not there, and a pointer to the last good one.

A save writes a hidden sibling, renames it, moves the pointer, and only then removes what came before: a crash between
any two of these leaves a checkpoint that `latest` accepts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from grpo_bench.errors import UserError
from grpo_bench.store.atomic import remove_folder, remove_leftovers, write_folder, write_text
from grpo_bench.store.record import SCHEMA_VERSION, check_schema

_log = logging.getLogger(__name__)
_MARKER = "complete.json"
_POINTER = "latest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every file was found as it was written."""

    iteration: int
    path: Path


class CheckpointStore:
    """The checkpoints in one folder; the process that saves must hold the run's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, iteration: int, write: Callable[[Path], None]) -> Checkpoint:
        """Let `write` fill a folder, then make it the latest checkpoint and remove the older ones.

        Raises:
            UserError: on a full or failing disk; the previous checkpoint is then still the latest. Whatever else
                `write` raises passes through, with the same promise.
        """
        remove_leftovers(self.folder)
        target = self._fresh(iteration)

        def build(folder: Path) -> None:
            write(folder)
            marker = {"schema_version": SCHEMA_VERSION, "iteration": iteration, "files": _digests(folder)}
            (folder / _MARKER).write_text(json.dumps(marker), encoding="utf-8")

        write_folder(target, build, "a checkpoint")
        write_text(self.folder / _POINTER, json.dumps({"latest": target.name}), "a checkpoint")
        for other in self._folders():
            if other != target:
                remove_folder(other)
        return Checkpoint(iteration, target)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, None when none was ever saved.

        Raises:
            UserError: when there are checkpoints but all are damaged, or a newer version wrote them.
        """
        candidates = self._candidates()
        for path in candidates:
            iteration = _verified(path)
            if iteration is not None:
                return Checkpoint(iteration, path)
            _log.warning("the checkpoint %s is damaged and is not used", path)
        if candidates:
            raise UserError(f"Every checkpoint in {self.folder} is damaged: start the run afresh with --again.")
        return None

    def _candidates(self) -> list[Path]:
        """The one that the pointer names, then the others, newest first."""
        folders = sorted(self._folders(), reverse=True)
        try:
            pointed = json.loads((self.folder / _POINTER).read_text(encoding="utf-8"))["latest"]
        except (OSError, ValueError, KeyError, TypeError):
            return folders
        return sorted(folders, key=lambda folder: folder.name != pointed)

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [item for item in self.folder.iterdir() if item.is_dir() and not item.name.startswith(".")]

    def _fresh(self, iteration: int) -> Path:
        """A name not in use: saving an iteration again must not touch what is still the last good one."""
        path, attempt = self.folder / f"{iteration:08d}", 1
        while path.exists():
            attempt += 1
            path = self.folder / f"{iteration:08d}-{attempt}"
        return path


def _digests(folder: Path) -> dict[str, str]:
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: _sha256(file) for name, file in files.items() if name != _MARKER}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified(path: Path) -> int | None:
    """The iteration of a whole checkpoint; None if a file is missing, changed or added."""
    try:
        marker = cast(dict[str, object], json.loads((path / _MARKER).read_text(encoding="utf-8")))
        check_schema(marker["schema_version"], path / _MARKER)
        whole = _digests(path) == marker["files"]
        iteration = marker["iteration"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return iteration if whole and isinstance(iteration, int) else None
