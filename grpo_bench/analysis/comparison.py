"""Two runs side by side: what they were told, what they spent, and what they had reached at equal cost.

That is one seed of each, so it is no comparison of methods and never says which is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from grpo_bench.analysis.axes import AXES, COLUMNS, Axis
from grpo_bench.analysis.hypervolume import resample
from grpo_bench.analysis.study import Floats
from grpo_bench.errors import UserError
from grpo_bench.store.names import parse_toml
from grpo_bench.store.points import Row
from grpo_bench.store.record import RunRecord
from grpo_bench.store.run import RunStore

WARNING = "Two runs are not a comparison of methods: each is one seed. Sweep a suite, and read its intervals."

SCORES = ("gold", "proxy", "diversity")
Setting = str | None
"""A config value as text; None where the run has no such key."""


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    record: RunRecord
    points: int
    ends: Mapping[str, tuple[float, float]]
    """Each of SCORES at the base and at the last point; NaN where it has none."""
    spent: Mapping[str, float]
    """The last point's counters, by the points' column names."""


@dataclass(frozen=True)
class Equality:
    """One thing that a fair comparison keeps equal, and whether these two do."""

    what: str
    first: str
    second: str
    equal: bool


@dataclass(frozen=True)
class AtCost:
    """Gold of both where the shorter of them ended on a cost axis."""

    axis: Axis
    cost: float
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other."""

    first: Side
    second: Side
    settings: tuple[tuple[str, Setting, Setting], ...]
    """Config keys in which they differ, dotted."""
    equalities: tuple[Equality, ...]
    at_cost: tuple[AtCost, ...]
    notes: tuple[str, ...]
    """What keeps the two from being compared, one sentence each; the warning is the last."""


def compare_runs(first: RunStore, second: RunStore) -> Comparison:
    """Two stored runs, finished or not.

    Raises:
        UserError: they are one run, were measured under different rules, or one is damaged or has no point.
    """
    one, other = first.record, second.record
    if first.folder.resolve() == second.folder.resolve():
        raise UserError(f"{one.run} is given twice; give two different runs")
    if one.rules_version != other.rules_version:
        raise UserError(
            f"{one.run} was measured under rules version {one.rules_version} and {other.run} under "
            f"{other.rules_version}, and such runs are never compared; run the older one again"
        )
    rows = first.rows(), second.rows()
    for record, own in zip((one, other), rows, strict=True):
        if not own:
            raise UserError(f"{record.run} ended before its first point ({record.status}), so nothing of it is known")
    configs = _flat(_config(first)), _flat(_config(second))
    sides = _side(one, rows[0]), _side(other, rows[1])
    return Comparison(
        first=sides[0],
        second=sides[1],
        settings=_different(*configs),
        equalities=_equalities(sides, configs),
        at_cost=tuple(
            _at_cost(axis, *rows)
            for axis in AXES
            if (axis != "seconds" or (one.timed and other.timed)) and all(_rises(own, axis) for own in rows)
        ),
        notes=(*_notes(one, other, *configs), WARNING),
    )


def _side(record: RunRecord, rows: Sequence[Row]) -> Side:
    ends = {name: (_value(rows[0], name), _value(rows[-1], name)) for name in SCORES}
    spent = {name: _value(rows[-1], name) for name in ("iteration", *COLUMNS.values())}
    return Side(record, len(rows), ends, spent)


def _equalities(sides: tuple[Side, Side], configs: tuple[Mapping[str, str], Mapping[str, str]]) -> tuple[Equality, ...]:
    """What RULES.md asks to be equal or said: sampler, updates an iteration, and totals at the last point."""
    first, second = sides
    found = [_setting(what, key, configs) for what, key in _KEPT_EQUAL.items()]
    totals = {"updates": "updates", "nfe": "nfe", "rollout nfe": "rollout_nfe", "reward calls": "reward_calls"}
    for what, column in totals.items():
        one, other = first.spent[column], second.spent[column]
        found.append(Equality(what, _count(one), _count(other), one == other))
    return tuple(found)


_KEPT_EQUAL = {
    "kernel": "sampling.kernel",
    "noise level": "sampling.noise",
    "steps": "sampling.steps",
    "learning rate": "training.learning_rate",
    "updates an iteration": "training.updates",
}


def _setting(what: str, key: str, configs: tuple[Mapping[str, str], Mapping[str, str]]) -> Equality:
    one, other = (config.get(key, "–") for config in configs)
    return Equality(what, one, other, one == other)


def _at_cost(axis: Axis, first: Sequence[Row], second: Sequence[Row]) -> AtCost:
    """Gold by interpolation at the smaller of the two ends; NaN where a run has no gold or one point only."""
    curves = [_curve(rows, COLUMNS[axis]) for rows in (first, second)]
    cost = min(float(cost_K[-1]) for cost_K, _ in curves)
    golds = [_read(cost_K, gold_K, cost) for cost_K, gold_K in curves]
    return AtCost(axis, cost, golds[0], golds[1])


def _rises(rows: Sequence[Row], axis: Axis) -> bool:
    """Whether each point had cost more than the one before: else a run is no curve over the axis."""
    costs = [_value(row, COLUMNS[axis]) for row in rows]
    return math.isfinite(costs[0]) and all(later > before for before, later in pairwise(costs))


def _read(cost_K: Floats, gold_K: Floats, cost: float) -> float:
    import numpy as np

    if not np.isfinite(gold_K).all():
        return math.nan
    return float(resample(cost_K, gold_K, np.array([cost]))[0])


def _curve(rows: Sequence[Row], column: str) -> tuple[Floats, Floats]:
    import numpy as np

    return np.array([_value(row, column) for row in rows]), np.array([_value(row, "gold") for row in rows])


def _notes(one: RunRecord, other: RunRecord, first: Mapping[str, str], second: Mapping[str, str]) -> tuple[str, ...]:
    notes = []
    for what, a, b in (
        ("workloads", one.workload, other.workload),
        ("rewards", one.reward, other.reward),
        ("protocols", one.protocol, other.protocol),
        ("tiers", one.tier, other.tier),
        ("devices", one.device, other.device),
        ("numerics versions", one.numerics_version, other.numerics_version),
    ):
        if a != b:
            notes.append(f"Their {what} differ ({a}, {b}), so their figures do not belong side by side.")
    for key, what in (("weights", "base weights"), ("prompts", "prompts")):
        if len({record.hashes[key] for record in (one, other) if key in record.hashes}) > 1:
            notes.append(f"Their {what} differ, so their figures do not belong side by side.")
    if _part(first, "evaluation.") != _part(second, "evaluation."):
        notes.append("They were evaluated differently, so their golds and proxies are not the same measurement.")
    if one.seed != other.seed:
        notes.append(f"Their seeds differ ({one.seed}, {other.seed}): other prompts and other noise.")
    shared = [record.run for record in (one, other) if not record.timed]
    if shared:
        notes.append(f"Seconds are not compared: {' and '.join(shared)} shared the device.")
    notes += [f"{record.run} is {record.status}." for record in (one, other) if record.status != "done"]
    return tuple(notes)


def _part(config: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key: value for key, value in config.items() if key.startswith(prefix)}


def _config(store: RunStore) -> Mapping[str, object]:
    try:
        return parse_toml(store.config_toml())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{store.folder} has a damaged config.toml: start the run anew") from error


def _different(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[tuple[str, Setting, Setting], ...]:
    keys = dict.fromkeys([*first, *second])
    return tuple((key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key))


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested tables as dotted keys, values as text."""
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _value(row: Row, name: str) -> float:
    value = row.get(name)
    return math.nan if value is None else float(value)


def _count(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else "–"
