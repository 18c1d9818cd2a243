"""The figures of a bundle's files, from bytes in memory: what `write` states and `verify` computes again."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, cast

import numpy as np
from pydantic import JsonValue

from grpo_bench.analysis.study import Floats, Study, studies_of
from grpo_bench.analysis.summary import summaries, to_json
from grpo_bench.bundles.layout import Limits, RunFigures, place_of
from grpo_bench.bundles.possible import impossible, ranges_of
from grpo_bench.errors import UserError
from grpo_bench.store.names import clean_text
from grpo_bench.store.points import check_points, parse_table
from grpo_bench.store.prompt_scores import parse_prompt_scores
from grpo_bench.store.reader import StoredRun, together
from grpo_bench.store.record import parse_record
from grpo_bench.store.run import CONFIG, POINTS, PROMPT_SCORES, RECORD
from grpo_bench.store.suite import SUFFIX, SuiteRecord, parse_suite

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS = 2_000
"""The most columns that a run's points may have."""
DOTS = 300
"""The most in one line of a config: a key of n dotted parts takes memory that grows with its square."""


@dataclass(frozen=True)
class Content:
    """What a bundle's files say, without its manifest."""

    studies: tuple[Study, ...]
    runs: dict[str, RunFigures]
    """By `FOLDER/RUN`."""
    views: dict[str, dict[str, JsonValue]]
    """By `FOLDER/STUDY/VIEW`."""
    rules_versions: tuple[int, ...]
    impossible: tuple[tuple[str, str], ...]
    """What no run can have stored: `FOLDER/RUN`, or for a choice `FOLDER/SUITE`, and a sentence."""
    unknown: tuple[str, ...]
    """Rewards that are not installed here, so that nobody knows which scores they can give."""


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
        if place is not None and place.kind in ("record", "points", "prompt scores"):
            runs.setdefault(place.folder, {}).setdefault(place.run, {})[place.file] = data
        elif place is not None and place.kind == "suite":
            suites.setdefault(place.folder, []).append(_suite(data, name))
    found: list[Study] = []
    figures: dict[str, RunFigures] = {}
    versions: set[int] = set()
    everything: dict[str, StoredRun] = {}
    left = limits.numbers
    for folder in sorted(runs.keys() | suites.keys()):
        stored = []
        uses = Counter(run for suite in suites.get(folder, []) for run in {cell.run for cell in suite.cells})
        for run, own in runs.get(folder, {}).items():
            one = read_run(own, f"{folder}/{run}", limits)
            if one.record.run != run:
                raise UserError(f"{folder}/{run} holds another run's {RECORD} ({one.record.run})")
            left -= (one.points.size + _size(one.prompt_scores)) * max(1, uses[run])
            if left < 0:
                raise UserError(
                    f"the runs up to {folder}/{run} have more than {limits.numbers:,} numbers, each counted "
                    "once a suite: bundle fewer runs"
                )
            stored.append(one)
            everything[f"{folder}/{run}"] = one
            figures[f"{folder}/{run}"] = _means(one.points)
            versions.add(one.record.rules_version)
        found += studies_of(Path(folder), together(stored), suites.get(folder, []))
    views = {
        f"{study.folder.name}/{study.name}/{summary.name}": cast("dict[str, JsonValue]", to_json(summary))
        for study in found
        for summary in summaries(study)
    }
    ranges = ranges_of(everything.values())
    odd = tuple((run, said) for run, one in everything.items() for said in impossible(one, ranges))
    odd += tuple((f"{study.folder.name}/{study.name}", said) for study in found for said in study.contradictions)
    return Content(tuple(found), figures, views, tuple(sorted(versions)), odd, ranges.unknown)


def read_run(files: Mapping[str, bytes], name: str, limits: Limits | None = None) -> StoredRun:
    """One run from its files' bytes; `name` is what an error calls it.

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
    if any(line.count(".") > DOTS for line in config.split("\n")):
        raise UserError(f"{name}/{CONFIG} has a line of more than {DOTS:,} dots, which no config has")
    points, by_prompt = pd.DataFrame(), None
    if POINTS in files:
        path = Path(name, POINTS)
        _check_packing(files[POINTS], path, limits.points, limits)
        table = parse_table(files[POINTS], path)
        check_points(table, path)
        points = table.replace_schema_metadata(None).to_pandas()
    if PROMPT_SCORES in files:
        path = Path(name, PROMPT_SCORES)
        _check_packing(files[PROMPT_SCORES], path, limits.prompt_scores, limits)
        stored = parse_prompt_scores(files[PROMPT_SCORES], path)
        by_prompt = stored if stored.num_rows else None
    return StoredRun(record, config, points, by_prompt)


def _size(table: pa.Table | None) -> int:
    return 0 if table is None else table.num_rows * table.num_columns


def _check_packing(data: bytes, name: Path, most: int, limits: Limits) -> None:
    """Refuse a table, before it is read, that may be hostile: a small file can hold any number of rows and bytes.

    So columns must be packed by snappy, as this program packs them, which makes 64 bytes of 3 and no more, and no two
    of them may share their data.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        schema, stored = file.schema_arrow, file.metadata
        groups = [stored.row_group(number) for number in range(min(2, stored.num_row_groups))]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{name} is damaged ({clean_text(str(error), 80)})") from error
    rows = stored.num_rows
    if rows > most or len(schema) > COLUMNS or rows * len(schema) > limits.numbers:
        raise UserError(f"{name} is too large: {rows:,} rows of {len(schema):,} columns")
    if len(groups) > 1 or any(group.num_rows != rows for group in groups):
        raise UserError(f"{name} is not stored as one group of rows, as grpo-bench stores tables")
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    packed = {column.compression for column in columns} <= {"SNAPPY", "UNCOMPRESSED"}
    if not packed or sum(column.total_compressed_size for column in columns) > len(data):
        raise UserError(f"{name} is not packed as grpo-bench packs tables: by snappy, each column for itself")
    twice = [column for column, times in Counter(schema.names).items() if times > 1]
    if twice:
        raise UserError(f"{name} has a column twice: {clean_text(twice[0], 60)!r}")


def _means(points: pd.DataFrame) -> RunFigures:
    figures = RunFigures(points=len(points), values={}, means={}, weighted={})
    for column in map(str, points.columns):
        values = points[column].to_numpy(dtype=np.float64, na_value=np.nan)
        there = np.flatnonzero(np.isfinite(values))
        figures.values[column] = len(there)
        figures.means[column] = _mean(values[there], np.ones(len(there)))
        figures.weighted[column] = _mean(values[there], there.astype(np.float64) + 1)
    return figures


def _mean(values: Floats, weights: Floats) -> float | None:
    """Exactly rounded, so that it is the same on every machine; None where there are no values, or too large ones."""
    try:
        return math.fsum(values * (weights / weights.sum())) if len(values) else None
    except OverflowError:
        return None


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
