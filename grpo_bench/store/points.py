"""`points.parquet`: one row an evaluation, every counter in it; rows are plain numbers and survive exactly."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError
from grpo_bench.store.names import clean_text
from grpo_bench.store.record import SCHEMA_VERSION, check_schema

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Value = int | float | None
Row = Mapping[str, Value]

VERSION_KEY = b"grpo_bench.schema_version"
RUN_COLUMNS = (
    "run", "status", "reason", "method", "recipe", "reward", "workload", "seed", "protocol", "tier", "timed",
    "gold_is_proxy", "rules_version", "numerics_version", "device",
)  # fmt: skip
"""What a table of several runs says of each point's run; no column of points itself is called so."""


def encode(rows: Sequence[Row]) -> bytes:
    """Rows as a parquet file; columns in order of first appearance, a value that a row lacks is null."""
    import pyarrow as pa
    from pyarrow import parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [pa.array([row.get(name) for row in rows]) for name in names]
    table = pa.Table.from_arrays(columns, names=names)
    sink = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({VERSION_KEY: str(SCHEMA_VERSION).encode()}), sink)
    return sink.getvalue()


def read_table(path: Path, *, mend: str = "") -> pa.Table:
    """Read a points file, or another of this store's tables, for which `mend` says what to do about a damaged one.

    Raises:
        UserError: when it is truncated or otherwise damaged, or written by a newer version.
        FileNotFoundError: when it is missing.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({clean_text(str(error), 100)}): {mend or 'see what it is'}."
        ) from error
    return parse_table(data, path, mend=mend)


def parse_table(data: bytes, path: Path, *, mend: str = "") -> pa.Table:
    """The content of such a file; `path` is only what an error calls it.

    Raises:
        UserError: when it is truncated or otherwise damaged, or written by a newer version.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, str(error), mend) from error
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"")
    check_schema(int(version) if version.isdigit() else None, path)
    return table


def read_points(path: Path) -> pa.Table:
    """Read a points file.

    Raises:
        UserError: as `read_table` and `check_points` do.
        FileNotFoundError: when it is missing.
    """
    table = read_table(path)
    check_points(table, path)
    return table


def check_points(table: pa.Table, path: Path) -> None:
    """Refuse, with a UserError, a table that is not made of points: numbers, each row with its iteration."""
    import pyarrow as pa
    from pyarrow import compute

    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    for field in table.schema:
        if not any(is_kind(field.type) for is_kind in numbers):
            raise _damaged(path, f"its column {clean_text(field.name, 60)!r} holds no numbers")
        if field.name in RUN_COLUMNS:
            raise _damaged(path, f"no points have a column {clean_text(field.name, 60)!r}")
    if not table.num_rows:
        return
    whole = "iteration" in table.schema.names and table["iteration"].null_count == 0
    if not (whole and compute.all(compute.is_finite(table["iteration"].cast(pa.float64(), safe=False))).as_py()):
        raise _damaged(path, "not every point has its iteration")


def _damaged(path: Path, detail: str, mend: str = "") -> UserError:
    mend = mend or (
        "resume the run to rebuild it from its last checkpoint (grpo-bench run --resume "
        f"{path.parent.name}), or start it afresh with --again"
    )
    return UserError(f"{path} is damaged ({clean_text(detail, 80)}): {mend}.")


def read_rows(path: Path) -> list[dict[str, Value]]:
    """The rows of a points file as they were written, integers as integers; a null is a value that a row lacks.

    No file, no rows. Raises UserError as `read_points` does.
    """
    try:
        table = read_points(path)
    except FileNotFoundError:
        return []
    rows: list[dict[str, Value]] = table.to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def in_range(values: NDArray[np.float64], within: tuple[float, float]) -> NDArray[np.bool_]:
    """Which scores a reward of this range can give, allowing for its rounding: a thousandth of the range, or of 1."""
    import numpy as np

    low, high = within
    width = high - low
    slack = 1e-3 * (width if np.isfinite(width) else 1.0)
    return (values >= low - slack) & (values <= high + slack)
