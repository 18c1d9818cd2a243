"""The figures of a bundle's files, from bytes in memory: what `write` states and `verify` computes again."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, cast

from pydantic import JsonValue

from grpo_bench.analysis.study import Study, studies_of
from grpo_bench.analysis.summary import summarise, to_json
from grpo_bench.bundles.layout import Limits, RunFigures, place_of
from grpo_bench.errors import UserError
from grpo_bench.store.names import clean_text
from grpo_bench.store.points import parse_table
from grpo_bench.store.reader import RUN_COLUMNS, StoredRun, together
from grpo_bench.store.record import parse_record
from grpo_bench.store.run import CONFIG, POINTS, RECORD
from grpo_bench.store.suite import SUFFIX, SuiteRecord, parse_suite

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = 2_000
"""The most columns that a run's points may have."""


@dataclass(frozen=True)
class Content:
    """What a bundle's files say, without its manifest."""

    studies: tuple[Study, ...]
    runs: dict[str, RunFigures]
    """By `FOLDER/RUN`."""
    views: dict[str, dict[str, JsonValue]]
    """By `FOLDER/STUDY/VIEW`."""
    rules_versions: tuple[int, ...]


def content_of(files: Mapping[str, bytes], limits: Limits | None = None) -> Content:
    """Every figure of a bundle's files, given by entry name; pictures and held-out scores make none.

    Raises:
        UserError: a file is missing, damaged, too large, or of another run than its name says; or the runs may not be
            compared.
    """
    limits = limits or Limits()
    runs: dict[str, dict[str, dict[str, bytes]]] = {}
    suites: dict[str, list[SuiteRecord]] = {}
    for name, data in sorted(files.items()):
        place = place_of(name)
        if place is not None and place.kind == "run":
            runs.setdefault(place.folder, {}).setdefault(place.run, {})[place.file] = data
        elif place is not None and place.kind == "suite":
            suites.setdefault(place.folder, []).append(_suite(data, name))
    found: list[Study] = []
    figures: dict[str, RunFigures] = {}
    versions: set[int] = set()
    left = limits.numbers
    for folder in sorted(runs.keys() | suites.keys()):
        stored = []
        for run, own in runs.get(folder, {}).items():
            one = read_run(own, f"{folder}/{run}", limits, most=left)
            if one.record.run != run:
                raise UserError(f"{folder}/{run} holds another run's {RECORD} ({one.record.run})")
            left -= one.points.size
            stored.append(one)
            figures[f"{folder}/{run}"] = _means(one.points)
            versions.add(one.record.rules_version)
        found += studies_of(Path(folder), together(stored), suites.get(folder, []))
    views = {
        f"{study.folder.name}/{study.name}/{view.name}": cast("dict[str, JsonValue]", to_json(summarise(view)))
        for study in found
        for view in study.views
    }
    return Content(tuple(found), figures, views, tuple(sorted(versions)))


def read_run(
    files: Mapping[str, bytes], name: str, limits: Limits | None = None, *, most: int | None = None
) -> StoredRun:
    """One run from its files' bytes; `name` is what an error calls it, `most` how many numbers its points may hold.

    Raises:
        UserError: a file is missing, damaged or too large.
    """
    import pandas as pd

    limits = limits or Limits()
    absent = [file for file in (RECORD, CONFIG) if file not in files]
    if absent:
        raise UserError(f"{name} is not a whole run, it has no {absent[0]}")
    record = parse_record(_text(files[RECORD], f"{name}/{RECORD}"), Path(name, RECORD))
    config = _text(files[CONFIG], f"{name}/{CONFIG}")
    if POINTS not in files:
        return StoredRun(record, config, pd.DataFrame())
    return StoredRun(
        record, config, _points(files[POINTS], f"{name}/{POINTS}", limits, limits.numbers if most is None else most)
    )


def _points(data: bytes, name: str, limits: Limits, most: int) -> pd.DataFrame:
    """Points from bytes that may be hostile: a small file can say that it unpacks to any number of rows."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        rows, schema = file.metadata.num_rows, file.schema_arrow
        inside = sum(file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{name} is damaged ({clean_text(str(error), 80)})") from error
    if rows > limits.points or inside != rows or len(schema) > COLUMNS or rows * len(schema) > most:
        raise UserError(f"{name} is too large: {rows:,} rows of {len(schema):,} columns")
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    other = [field.name for field in schema if not any(is_kind(field.type) for is_kind in numbers)]
    if other:
        raise UserError(f"{name} has a column that holds no numbers: {clean_text(other[0], 60)!r}")
    taken = [column for column in schema.names if column in RUN_COLUMNS or schema.names.count(column) > 1]
    if taken:
        raise UserError(f"{name} has a column that no points have, or has it twice: {clean_text(taken[0], 60)!r}")
    frame: pd.DataFrame = parse_table(data, Path(name)).replace_schema_metadata(None).to_pandas()
    return frame


def _means(points: pd.DataFrame) -> RunFigures:
    means: dict[str, float | None] = {}
    for column in points.columns:
        values = [float(value) for value in points[column] if value is not None and math.isfinite(value)]
        means[str(column)] = math.fsum(values) / len(values) if values else None
    return RunFigures(points=len(points), means=means)


def _suite(data: bytes, name: str) -> SuiteRecord:
    suite = parse_suite(_text(data, name), Path(name))
    if Path(name).name != f"{suite.suite}{SUFFIX}":
        raise UserError(f"{name} holds another suite ({suite.suite})")
    return suite


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is damaged: it is no text") from error


def differences(stated: JsonValue, computed: JsonValue, at: str = "") -> list[str]:
    """Where two trees of figures differ, as paths; numbers may differ by rounding (1e-9 of them) and no more."""
    if isinstance(stated, dict) and isinstance(computed, dict):
        keys = sorted(stated.keys() | computed.keys())
        missing = [f"{at}.{key}" for key in keys if (key in stated) != (key in computed)]
        inside = [
            differences(stated[key], computed[key], f"{at}.{key}") for key in keys if key in stated and key in computed
        ]
        return missing + [path for paths in inside for path in paths]
    if isinstance(stated, list) and isinstance(computed, list):
        if len(stated) != len(computed):
            return [at]
        pairs: Sequence[tuple[JsonValue, JsonValue]] = list(zip(stated, computed, strict=True))
        return [path for place, (one, other) in enumerate(pairs) for path in differences(one, other, f"{at}[{place}]")]
    return [] if _same(stated, computed) else [at]


def _same(stated: JsonValue, computed: JsonValue) -> bool:
    if not (_is_number(stated) and _is_number(computed)):
        return type(stated) is type(computed) and stated == computed
    try:
        return math.isclose(stated, computed, rel_tol=1e-9, abs_tol=1e-12)
    except OverflowError:  # an integer that no float can hold
        return stated == computed


def _is_number(value: JsonValue) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
