"""`grpo-bench compare`: two runs in two columns, and the warning that two runs decide nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from grpo_bench.terminal.text import NOTHING, change, count, plain, score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from grpo_bench.analysis.comparison import Comparison, Side

Cells = tuple[Text | str, ...]


class SideJson(TypedDict):
    """One run; a figure that is not there is null."""

    run: str
    method: str
    seed: int
    status: str
    points: int
    base: dict[str, float | None]
    final: dict[str, float | None]
    spent: dict[str, float | None]


class EqualJson(TypedDict):
    """Something that a fair comparison keeps equal."""

    what: str
    values: list[str]
    equal: bool


class CostJson(TypedDict):
    """Gold of both at one cost."""

    axis: str
    cost: float
    gold: list[float | None]


class ComparedRunsJson(TypedDict):
    """What `compare --json` prints."""

    runs: list[SideJson]
    settings: dict[str, list[str | None]]
    equal: list[EqualJson]
    at_equal_cost: list[CostJson]
    notes: list[str]


def print_compared(found: Comparison, console: Console) -> None:
    """Settings that differ, what was equal, scores at both ends, gold at equal cost, and what to beware of."""
    first, second = found.first, found.second
    for letter, side in (("A", first), ("B", second)):
        console.print(Text.assemble((f"{letter}  ", "bold"), plain(side.record.run, "bold cyan")), soft_wrap=True)
    settings: list[Cells] = [(plain(key, limit=60), _said(one), _said(other)) for key, one, other in found.settings]
    _print(("settings that differ", "A", "B"), settings, console)
    equal: list[Cells] = [
        (plain(one.what), plain(one.first), plain(one.second), Text("equal" if one.equal else "not equal",
                                                                    style="green" if one.equal else "yellow"))
        for one in found.equalities
    ]  # fmt: skip
    _print(("what should be equal", "A", "B", ""), equal, console)
    scores: list[Cells] = []
    for name in first.ends:
        scores.append((f"{name} of the base", score(first.ends[name][0]), score(second.ends[name][0]), ""))
        changes = [change(side.ends[name][1] - side.ends[name][0]) for side in (first, second)]
        scores.append((f"{name} at the end", score(first.ends[name][1]), score(second.ends[name][1]),
                       f"{changes[0]}, {changes[1]}"))  # fmt: skip
    _print(("scores", "A", "B", "change of each"), scores, console)
    costs: list[Cells] = [(one.axis, count(one.cost), score(one.first), score(one.second)) for one in found.at_cost]
    _print(("gold at equal", "cost", "A", "B"), costs, console)
    for note in found.notes:
        console.print(plain(note, "yellow"), soft_wrap=True)


def compared_json(found: Comparison) -> ComparedRunsJson:
    """The comparison for a program."""
    return {
        "runs": [_side_json(found.first), _side_json(found.second)],
        "settings": {key: [one, other] for key, one, other in found.settings},
        "equal": [
            {"what": one.what, "values": [one.first, one.second], "equal": one.equal} for one in found.equalities
        ],
        "at_equal_cost": [
            {"axis": one.axis, "cost": one.cost, "gold": [_finite(one.first), _finite(one.second)]}
            for one in found.at_cost
        ],
        "notes": list(found.notes),
    }


def _side_json(side: Side) -> SideJson:
    return {
        "run": side.record.run,
        "method": side.record.method,
        "seed": side.record.seed,
        "status": side.record.status,
        "points": side.points,
        "base": {name: _finite(ends[0]) for name, ends in side.ends.items()},
        "final": {name: _finite(ends[1]) for name, ends in side.ends.items()},
        "spent": {name: _finite(value) for name, value in side.spent.items()},
    }


def _print(headings: Sequence[str], rows: Sequence[Cells], console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for place, heading in enumerate(headings):
        table.add_column(heading, min_width=24 if place == 0 else 9, overflow="fold")
    for row in rows or [("none", *[""] * (len(headings) - 1))]:
        table.add_row(*row)
    console.print(table)


def _said(value: str | None) -> Text:
    return plain(NOTHING if value is None else value or "(empty)", limit=60)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
