"""`scores.parquet`: what rewards that a run never loaded say of its stored images, added later by `grpo-bench score`.

A row belongs to one point's iteration and to the digest of the images that were scored. So a run that is rewound and
resumed loses none of them, and a score is shown beside a point only while the point has the very images it was made of.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError

from grpo_bench.errors import UserError
from grpo_bench.store.points import VERSION_KEY, read_table
from grpo_bench.store.record import SCHEMA_VERSION, Name

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

PREFIX = "heldout/"
"""Of a held-out reward's columns; `reward/` is what the run itself scored."""
_PASSES_KEY = b"grpo_bench.passes"
_DAMAGED = "move it away and score the run again"

Key = tuple[int, str]
"""A point's iteration, and the digest of its images."""


class ScorePass(BaseModel):
    """One reward's scoring of some points: all that its numbers depend on beside the images and their prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: Name
    columns: tuple[str, ...]
    """The columns that it filled; its own, and those of its components."""
    settings: dict[str, JsonValue]
    """The reward's own settings, defaults included."""
    weights: dict[str, str]
    """sha256 of the weight files it read, by name; `unverified:` before that of a file which is not a published one."""
    source: str
    """sha256 of the plugin's source; empty for the engine's own."""
    versions: dict[str, JsonValue]
    """What `metering.environment.environment()` said."""
    device: str
    rules_version: int
    numerics_version: int
    scored: datetime
    prompts: int
    images: int
    """Images a point, of all prompts."""
    iterations: tuple[int, ...]
    """The points it scored."""


_PASSES = TypeAdapter(tuple[ScorePass, ...])


@dataclass(frozen=True)
class Scores:
    """The content of scores.parquet: columns by point, and where they come from."""

    values: Mapping[Key, Mapping[str, float]] = field(default_factory=dict)
    passes: tuple[ScorePass, ...] = ()

    @property
    def columns(self) -> list[str]:
        """All columns, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.values.values() for name in row))

    def origin(self, column: str) -> ScorePass | None:
        """The first pass that filled a column; None where there is no such column."""
        return next((one for one in self.passes if column in one.columns), None)

    def at(self, iteration: int, digest: str | None) -> Mapping[str, float]:
        """The scores of a point; where its images are gone, those that were made of them, if there is only one set."""
        if digest is not None:
            return self.values.get((iteration, digest), {})
        found = [row for (when, _), row in self.values.items() if when == iteration]
        return found[0] if len(found) == 1 else {}

    def extended(self, key: Key, scores: Mapping[str, float], by: ScorePass) -> Scores:
        """With a point's scores added by a pass, whose `columns` and `iterations` grow; what is there already stays."""
        old = self.values.get(key, {})
        new = {name: value for name, value in scores.items() if name not in old}
        passes = list(self.passes)
        same = [place for place, one in enumerate(passes) if one.reward == by.reward and one.scored == by.scored]
        before = passes[same[0]] if same else by
        grown = before.model_copy(
            update={
                "columns": tuple(dict.fromkeys([*before.columns, *new])),
                "iterations": tuple(dict.fromkeys([*before.iterations, key[0]])),
            }
        )
        if same:
            passes[same[0]] = grown
        else:
            passes.append(grown)
        return Scores({**self.values, key: {**old, **new}}, tuple(passes))


def encode(scores: Scores) -> bytes:
    """As a parquet file: `iteration`, `images` (the digest), one column a score, null where there is none."""
    import pyarrow as pa
    from pyarrow import parquet

    keys, rows = list(scores.values), list(scores.values.values())
    columns: dict[str, Sequence[int | str | float | None]] = {
        "iteration": [iteration for iteration, _ in keys],
        "images": [digest for _, digest in keys],
    }
    columns |= {name: [row.get(name) for row in rows] for name in scores.columns}
    table = pa.Table.from_pydict({name: pa.array(values) for name, values in columns.items()})
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), _PASSES_KEY: _PASSES.dump_json(scores.passes)}
    sink = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(metadata), sink)
    return sink.getvalue()


def read_scores(path: Path) -> Scores:
    """The scores of a file; no file, no scores.

    Raises:
        UserError: it is damaged, or a newer version wrote it.
    """
    try:
        table = read_table(path, mend=_DAMAGED)
    except FileNotFoundError:
        return Scores()
    return parse_scores(table, path)


def parse_scores(table: pa.Table, path: Path) -> Scores:
    """The scores of a file's table; `path` is only what an error calls it.

    Raises:
        UserError: it is damaged.
    """
    try:
        passes = _PASSES.validate_json((table.schema.metadata or {})[_PASSES_KEY])
        values: dict[Key, dict[str, float]] = {}
        for row in table.to_pylist():
            key = int(row.pop("iteration")), str(row.pop("images"))
            values[key] = {str(name): float(value) for name, value in row.items() if value is not None}
    except (ValidationError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged (it does not say what was scored): {_DAMAGED}.") from error
    return Scores(values, passes)
