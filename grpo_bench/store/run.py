"""`RunStore`: the folder of one run, its only output."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError, nearest
from grpo_bench.store.atomic import remove_folder, remove_leftovers, saving, write_bytes, write_folder, write_text
from grpo_bench.store.checkpoints import Checkpoint, CheckpointStore
from grpo_bench.store.images import load_images, save_images, stored_digest
from grpo_bench.store.names import NAME_PATTERN, check_name, clean_text, parse_json
from grpo_bench.store.points import Row, Value, encode, read_points, read_rows
from grpo_bench.store.prompt_scores import encode as encode_prompt_scores
from grpo_bench.store.prompt_scores import read_prompt_scores, with_scores
from grpo_bench.store.record import RunRecord, read_record
from grpo_bench.store.scores import Scores, read_scores
from grpo_bench.store.scores import encode as encode_scores

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

CONFIG, RECORD, POINTS, SCORES = "config.toml", "run.json", "points.parquet", "scores.parquet"
PROMPT_SCORES = "prompt_scores.parquet"
PLOTS = "plots"
"""Where a folder's plots are drawn unless told otherwise: the one folder in it that is no run."""
LOCK, HOLDER = "run.lock", "holder.json"


class RunStore:
    """Write and read one run's folder.

    Every file in it is replaced in one step, so that a reader needs no lock; whoever writes holds `lock()`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = CheckpointStore(folder / "checkpoint")
        self._rows: list[dict[str, Value]] | None = None

    @classmethod
    def create(cls, results: Path, run_id: str, config_toml: str, record: RunRecord) -> RunStore:
        """Make the folder `results/run_id` with config.toml and run.json in it, all in one step.

        Raises:
            UserError: for a bad name, when the run exists already, or when the disk refuses.
        """
        folder = results / check_name(run_id, "run")
        with saving("the run's folder", folder):
            exists = folder.exists()
        if exists:
            raise UserError(f"The run {run_id} exists already in {results}: use --resume {run_id}, or --again.")

        def build(temporary: Path) -> None:
            (temporary / CONFIG).write_bytes(config_toml.encode())
            (temporary / RECORD).write_bytes(record.model_dump_json(indent=2).encode())

        write_folder(folder, build, "the run's folder")
        return cls(folder)

    @classmethod
    def open(cls, run: str | Path, results: Path) -> RunStore:
        """Find a run by its folder's path or by its id in `results`.

        Raises:
            UserError: when there is none (offering the nearest id), or its folder is half deleted.
        """
        folder = _find(run, results)
        if folder is not None:
            read_record(folder / RECORD)
            return cls(folder.resolve())
        known = run_names(results)
        hint = nearest(str(run), known) if known else "it holds none"
        raise UserError(f"There is no run {clean_text(str(run), 80)!r} in {results}: {hint}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing; a killed holder's lock is free at once, and its temporary files are removed.

        Raises:
            UserError: when another process holds it, naming that process.
        """
        from filelock import FileLock, Timeout

        lock, holder = FileLock(self.folder / LOCK), self.folder / HOLDER
        with saving("the run's lock", self.folder):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                writer = holder_of(self.folder) or "another process"
                raise UserError(
                    f"The run {self.folder.name} is being written by {writer}: wait for it, or stop it first."
                ) from None
        try:
            for folder in (self.folder, self.images, self.checkpoints.folder):
                remove_leftovers(folder)
            write_text(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), "the run's lock")
            yield
        finally:
            with suppress(OSError):
                holder.unlink()
            lock.release()

    def discard(self) -> None:
        """Delete the run; raises UserError while another process writes it."""
        with self.lock():
            pass
        remove_folder(self.folder)

    @property
    def run_log(self) -> Path:
        """The log of everything that wrote this run, appended to."""
        return self.folder / "run.log"

    @property
    def images(self) -> Path:
        """The folder of the evaluation images."""
        return self.folder / "images"

    @property
    def record(self) -> RunRecord:
        """run.json as it stands on the disk; raises UserError when it is missing or damaged."""
        return read_record(self.folder / RECORD)

    def save_record(self, record: RunRecord) -> None:
        """Replace run.json; raises UserError when the disk refuses, and the old one then stands."""
        write_text(self.folder / RECORD, record.model_dump_json(indent=2), "the run's record")

    def config_toml(self) -> str:
        """The resolved configuration; raises UserError when it is missing."""
        path = self.folder / CONFIG
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.folder} is not a whole run, its {CONFIG} cannot be read: start it anew.") from error

    def append_point(self, row: Row) -> None:
        """Add one evaluation and replace points.parquet.

        Raises:
            UserError: when the disk refuses; the file and the rows are then as before.
            ValueError: when its iteration is not past the last one.
        """
        rows = self.rows()
        if rows and _iteration(row) <= _iteration(rows[-1]):
            raise ValueError(f"a point at iteration {row['iteration']} after one at {rows[-1]['iteration']}.")
        self._replace_rows([*rows, dict(row)])

    def rows(self) -> list[dict[str, Value]]:
        """All points in order, integers as integers; raises UserError when points.parquet is damaged."""
        if self._rows is None:
            self._rows = read_rows(self.folder / POINTS)
        return list(self._rows)

    def points(self) -> pd.DataFrame:
        """points.parquet as it stands on the disk, empty before the first point; raises UserError when damaged."""
        import pandas as pd

        try:
            table = read_points(self.folder / POINTS)
        except FileNotFoundError:
            return pd.DataFrame()
        # What to_pandas gives, in a third of the time: all columns hold numbers, and ten thousand runs are read.
        return pd.DataFrame({name: table[name].to_numpy() for name in table.column_names})

    def add_prompt_scores(self, iteration: int, noise: int, scores: Mapping[str, NDArray[np.float64]]) -> None:
        """Add what each prompt scored in one evaluation, (P,) by reward; of the same evaluation the latest stands.

        Raises:
            UserError: the file is damaged, or the disk refuses; it is then as before.
        """
        path = self.folder / PROMPT_SCORES
        table = with_scores(read_prompt_scores(path), iteration, noise, scores)
        write_bytes(path, encode_prompt_scores(table), "the prompts' scores")

    def prompt_table(self) -> pa.Table | None:
        """prompt_scores.parquet, None where there is none or nothing in it; raises UserError when damaged."""
        table = read_prompt_scores(self.folder / PROMPT_SCORES)
        return table if table is not None and table.num_rows else None

    def prompt_scores(self) -> pd.DataFrame:
        """The same as a frame, which is empty where there is none; raises as `prompt_table`."""
        import pandas as pd

        table = self.prompt_table()
        if table is None:
            return pd.DataFrame()
        frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
        return frame

    def scores(self) -> Scores:
        """What `grpo-bench score` added, as it stands on the disk; raises UserError when damaged."""
        return read_scores(self.folder / SCORES)

    def save_scores(self, scores: Scores) -> None:
        """Replace scores.parquet; raises UserError when the disk refuses, and the old one then stands."""
        write_bytes(self.folder / SCORES, encode_scores(scores), "the scores")

    def held_out(self, iterations: Sequence[int]) -> list[dict[str, float]]:
        """The added scores of the points at these iterations; empty for one whose images are not those scored.

        Raises:
            UserError: the scores are damaged.
        """
        scores = self.scores()
        if not scores.values:
            return [{} for _ in iterations]
        return [dict(scores.at(when, stored_digest(self.images / point_name(when)))) for when in iterations]

    def truncate_points(self, iteration: int) -> None:
        """Drop the points after `iteration`; raises UserError when the file is damaged or the disk refuses."""
        self._replace_rows([row for row in self.rows() if _iteration(row) <= iteration])

    def save_checkpoint(self, iteration: int, write: Callable[[Path], None]) -> Checkpoint:
        """`CheckpointStore.save`, with the points so far inside, so that a damaged points.parquet can be rebuilt."""
        rows, by_prompt = self.rows(), read_prompt_scores(self.folder / PROMPT_SCORES)

        def build(folder: Path) -> None:
            write(folder)
            (folder / POINTS).write_bytes(encode(rows))
            if by_prompt is not None:
                (folder / PROMPT_SCORES).write_bytes(encode_prompt_scores(by_prompt))

        return self.checkpoints.save(iteration, build)

    def rewind(self) -> Checkpoint | None:
        """Go back to the latest checkpoint: its points and prompts' scores replace those here, whatever their state.

        Returns:
            The checkpoint to load, or None when there is none and the run starts from the beginning.

        Raises:
            UserError: when all checkpoints are damaged, or the disk refuses.
        """
        checkpoint = self.checkpoints.latest()
        self._replace_rows(read_rows(checkpoint.path / POINTS) if checkpoint else [])
        by_prompt = read_prompt_scores(checkpoint.path / PROMPT_SCORES) if checkpoint else None
        self._replace(
            PROMPT_SCORES, None if by_prompt is None else encode_prompt_scores(by_prompt), "the prompts' scores"
        )
        return checkpoint

    def save_images(self, name: str, images: NDArray[np.uint8], columns: int, fps: float = 0.0) -> Path:
        """`store.images.save_images` into this run's folder."""
        return save_images(self.images, name, images, columns, fps)

    def load_images(self, name: str) -> NDArray[np.uint8]:
        """`store.images.load_images` of a set stored under that name."""
        return load_images(self.images / check_name(name, "image set"))

    def save_prompts(self, prompts: Sequence[str]) -> None:
        """Write `images/prompts.json`: what the images were drawn for, in order, unchanged."""
        with saving("the prompts", self.images):
            self.images.mkdir(exist_ok=True)
        write_text(self.images / "prompts.json", json.dumps(list(prompts), ensure_ascii=True), "the prompts")

    def load_prompts(self) -> list[str]:
        """The prompts that `save_prompts` wrote; raises UserError when they are missing or damaged."""
        path = self.images / "prompts.json"
        try:
            prompts = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is missing or damaged ({clean_text(str(error), 100)}).") from error
        if not isinstance(prompts, list):
            raise UserError(f"{path} is damaged: it is not a list.")
        return [str(prompt) for prompt in prompts]

    def _replace_rows(self, rows: list[dict[str, Value]]) -> None:
        self._replace(POINTS, encode(rows) if rows else None, "the points")
        self._rows = rows

    def _replace(self, name: str, data: bytes | None, what: str) -> None:
        """Write the file anew, or remove it where there is nothing to write."""
        path = self.folder / name
        if data is not None:
            write_bytes(path, data, what)
            return
        with saving(what, path):
            path.unlink(missing_ok=True)


def point_name(iteration: int) -> str:
    """The name of the image set of the point after `iteration` iterations."""
    return f"point-{iteration:06d}"


def run_names(results: Path) -> list[str]:
    """The ids of the runs in a folder of results, sorted; an unfinished temporary folder is not one."""
    if not _is_folder(results):
        return []
    folders = (item for item in results.iterdir() if item.is_dir())
    return sorted(item.name for item in folders if item.name != PLOTS and not item.name.startswith("."))


def _find(run: str | Path, results: Path) -> Path | None:
    """The folder meant by an id or a path, whole or not; a bare word is a path only where run.json lies in it."""
    if re.fullmatch(NAME_PATTERN, str(run)) and _is_folder(results / run):
        return results / run
    path = Path(run)
    if _is_folder(path) and (len(path.parts) > 1 or (path / RECORD).exists()):
        return path
    return None


def _is_folder(path: Path) -> bool:
    """`is_dir` that also answers for a name the system cannot hold (a null byte, thousands of characters)."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _iteration(row: Row) -> int:
    value = row["iteration"]
    if value is None or math.isnan(value) or value != int(value):
        raise ValueError(f"a point's iteration is a whole number, got {value!r}.")
    return int(value)


def holder_of(folder: Path) -> str | None:
    """Who writes the run in `folder`, for people; None where nobody does. One that was killed stands till the next."""
    try:
        known = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {int(known['pid'])} on {clean_text(str(known['host']), 60)}"
    except (OSError, ValueError, KeyError, TypeError):
        return None
