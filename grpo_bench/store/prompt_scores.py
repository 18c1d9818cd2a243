"""`prompt_scores.parquet`: what each held-out prompt scored at each point, under each evaluation noise.

A row is one prompt under one noise at one iteration; its scores are means over the prompt's images. Intervals that hold
other prompts and other noise are computed from these rows (docs/statistics.md).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError
from grpo_bench.store.points import VERSION_KEY, parse_table, read_table
from grpo_bench.store.record import SCHEMA_VERSION

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

KEYS = ("iteration", "noise", "prompt")
"""Whole numbers that name a row; every other column is a reward, or a component of one."""
_MEND = "resume the run to rebuild it from its last checkpoint, or start it afresh with --again"


def with_scores(
    table: pa.Table | None, iteration: int, noise: int, scores: Mapping[str, NDArray[np.float64]]
) -> pa.Table:
    """The table with the scores (P,) of one evaluation, in place of those that it had of the same one."""
    import pyarrow as pa
    from pyarrow import compute

    prompts = len(next(iter(scores.values())))
    keys = {"iteration": [iteration] * prompts, "noise": [noise] * prompts, "prompt": range(prompts)}
    added = pa.table(
        {name: pa.array(values, pa.int64()) for name, values in keys.items()}
        | {name: pa.array(score_P, pa.float32()) for name, score_P in scores.items()}
    )
    if table is None:
        return added
    same = compute.and_(compute.equal(table["iteration"], iteration), compute.equal(table["noise"], noise))
    return pa.concat_tables([table.filter(compute.invert(same)), added], promote_options="default")


def encode(table: pa.Table) -> bytes:
    """The table as a parquet file."""
    from pyarrow import parquet

    sink = io.BytesIO()
    named = table.replace_schema_metadata({VERSION_KEY: str(SCHEMA_VERSION).encode()})
    parquet.write_table(named, sink)
    return sink.getvalue()


def read_prompt_scores(path: Path) -> pa.Table | None:
    """The file's table; None where there is none, as of runs made before there were any.

    Raises:
        UserError: damaged, or written by a newer version.
    """
    try:
        table = read_table(path, mend=_MEND)
    except FileNotFoundError:
        return None
    return _checked(table, path)


def parse_prompt_scores(data: bytes, path: Path) -> pa.Table:
    """Such a file's content; `path` is only what an error calls it; raises as `read_prompt_scores`."""
    return _checked(parse_table(data, path, mend=_MEND), path)


def _checked(table: pa.Table, path: Path) -> pa.Table:
    """Refuses a table that says one thing twice, or holds anything but keys and finite scores."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    whole = all(name in table.column_names and pa.types.is_integer(table.schema.field(name).type) for name in KEYS)
    if not whole:
        raise UserError(f"{path} is damaged (its rows are not named by {', '.join(KEYS)}): {_MEND}.")
    for name in table.column_names:
        column = table[name]
        scores = pa.types.is_floating(column.type)
        if name in KEYS:
            continue
        if not scores or column.null_count or not compute.all(compute.is_finite(column), min_count=0).as_py():
            raise UserError(f"{path} is damaged (its column {name!r} holds no finite scores): {_MEND}.")
    key_3R = np.stack([table[name].to_numpy() for name in KEYS])
    key_3R = key_3R[:, np.lexsort(key_3R)]
    if (key_3R[:, 1:] == key_3R[:, :-1]).all(axis=0).any():
        raise UserError(f"{path} is damaged (it has two rows of one prompt, noise and iteration): {_MEND}.")
    return table
