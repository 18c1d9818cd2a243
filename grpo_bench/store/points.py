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

    import pyarrow as pa

Value = int | float | None
Row = Mapping[str, Value]

VERSION_KEY = b"grpo_bench.schema_version"


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
    return parse_table(path.read_bytes(), path, mend=mend)


def parse_table(data: bytes, path: Path, *, mend: str = "") -> pa.Table:
    """The content of such a file; `path` is only what an error calls it.

    Raises:
        UserError: when it is truncated or otherwise damaged, or written by a newer version.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(data))
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        mend = mend or (
            "resume the run to rebuild it from its last checkpoint (grpo-bench run --resume "
            f"{path.parent.name}), or start it afresh with --again"
        )
        raise UserError(f"{path} is damaged ({clean_text(str(error), 80)}): {mend}.") from error
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"")
    check_schema(int(version) if version.isdigit() else None, path)
    return table


def read_rows(path: Path) -> list[dict[str, Value]]:
    """The rows of a points file, integers as integers; no file, no rows. Raises UserError as `read_table` does."""
    try:
        table = read_table(path)
    except FileNotFoundError:
        return []
    rows: list[dict[str, Value]] = table.to_pylist()
    return rows
