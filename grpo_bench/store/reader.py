"""Read every run of a folder of results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError
from grpo_bench.store.points import RUN_COLUMNS
from grpo_bench.store.run import RunStore, run_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from grpo_bench.store.record import RunRecord


@dataclass(frozen=True)
class Runs:
    """What a folder of results holds."""

    records: tuple[RunRecord, ...]
    """Every readable run, also one that ended before its first point: it must be counted and shown."""
    own_points: Mapping[str, pd.DataFrame]
    """By run, its points with its held-out scores (`heldout/NAME`); of a run without a point, nothing."""
    skipped: tuple[str, ...]
    """One sentence for each folder that is no whole run, and for each run whose held-out scores cannot be read."""
    configs: Mapping[str, str]
    """The text of config.toml by run; of a run without one, nothing."""
    prompt_scores: Mapping[str, pa.Table]
    """What each held-out prompt scored, by run; of a run made before that was stored, nothing."""

    @cached_property
    def points(self) -> pd.DataFrame:
        """The points of all runs, each row with its run's columns (RUN_COLUMNS)."""
        import pandas as pd

        frames = []
        for record in self.records:
            if (own := self.own_points.get(record.run)) is not None:
                columns = {column: [getattr(record, column)] * len(own) for column in RUN_COLUMNS}
                frames.append(pd.concat([pd.DataFrame(columns, index=own.index), own], axis=1))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(RUN_COLUMNS))


@dataclass(frozen=True)
class StoredRun:
    """One run as it was read."""

    record: RunRecord
    config: str | None
    points: pd.DataFrame
    prompt_scores: pa.Table | None


def read_runs(results: Path) -> Runs:
    """Read all runs in `results`, sorted by id; a damaged one is skipped, with the reason, and hides no other."""
    found: list[StoredRun] = []
    skipped: list[str] = []
    for name in run_names(results):
        store = RunStore(results / name)
        try:
            record, points, by_prompt = store.record, store.points(), store.prompt_table()
        except UserError as error:
            skipped.append(str(error))
            continue
        points = _with_held_out(store, points, skipped) if len(points) else points
        found.append(StoredRun(record, _config(store), points, by_prompt))
    return together(found, skipped)


def together(found: Iterable[StoredRun], skipped: Iterable[str] = ()) -> Runs:
    """Runs by their ids, whatever they were read from."""
    runs = list(found)
    points = {run.record.run: run.points for run in runs if len(run.points)}
    configs = {run.record.run: run.config for run in runs if run.config is not None}
    by_prompt = {run.record.run: run.prompt_scores for run in runs if run.prompt_scores is not None}
    return Runs(tuple(run.record for run in runs), points, tuple(skipped), configs, by_prompt)


def _config(store: RunStore) -> str | None:
    try:
        return store.config_toml()
    except UserError:
        return None


def _with_held_out(store: RunStore, points: pd.DataFrame, skipped: list[str]) -> pd.DataFrame:
    """The points and what was scored later; damaged scores are named in `skipped`, and the points stay without them."""
    import pandas as pd

    try:
        rows = store.held_out([int(iteration) for iteration in points["iteration"]])
    except UserError as error:
        skipped.append(str(error))
        return points
    if not any(rows):
        return points
    return pd.concat([points, pd.DataFrame(rows, index=points.index)], axis=1)
