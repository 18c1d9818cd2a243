"""One run as the analysis sees it: its points as a curve, and why it may be in no mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from grpo_bench.analysis.axes import COLUMNS, Axis
from grpo_bench.store.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Part = Literal["main", "tuning", "base"]
Config = Mapping[str, object]

NEEDED = ("iteration", *COLUMNS.values(), "gold", "proxy")
"""Columns that every figure is made of."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One run and its points."""

    label: str
    """What the suite calls its cell; without a suite, the method's name and whatever sets it apart."""
    part: Part
    """A reported run, one of another learning rate on a tuning seed, or the base evaluated with other noise."""
    factor: float
    """Its learning rate over the shared one."""
    record: RunRecord
    folder: Path
    config: Config
    """config.toml as it stands."""
    points: pd.DataFrame
    """Its points in order; empty where it ended before the first."""

    @property
    def seed(self) -> int:
        """The run's seed, by which methods are paired."""
        return self.record.seed

    @property
    def method(self) -> str:
        """The method's registered name, which is what a colour belongs to."""
        return self.record.method

    def table(self, name: str) -> Config:
        """A table of its config; empty where there is none."""
        table = self.config.get(name)
        return table if isinstance(table, Mapping) else {}

    def column(self, name: str) -> Floats:
        """(K,) one column of its points.

        Raises:
            KeyError: its points have none of that name.
        """
        if name not in self._columns:
            self._columns[name] = self.points[name].to_numpy(dtype=np.float64)
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, Floats]:
        """Columns asked for so far: a figure asks for few of them, and for those many times."""
        return {}

    def cost(self, axis: Axis) -> Floats:
        """(K,) what had been spent on an axis at each point."""
        return self.column(COLUMNS[axis])

    def rises(self, axis: Axis) -> bool:
        """Whether each point had cost more than the one before it."""
        return bool((np.diff(self.cost(axis)) > 0).all())

    @cached_property
    def gold(self) -> Floats:
        """(K,) the judge of truth's score at each point."""
        return self.column("gold")

    def final(self, name: str) -> float:
        """A column at the budget, between the two points around it; the last value where a run ends before it."""
        budget = self.table("budget")
        for axis in COLUMNS:
            amount = budget.get(axis)
            if isinstance(amount, int | float):
                return float(np.interp(amount, self.cost(axis), self.column(name)))
        return float(self.column(name)[-1])

    def gain(self, name: str = "gold") -> float:
        """A column where the budget ends, less its first point."""
        return self.final(name) - float(self.column(name)[0])

    @cached_property
    def unfinished(self) -> str:
        """Why it is in no mean: how it ended, or what its points lack; empty for a finished run."""
        if self.record.status != "done":
            return self.record.reason or self.record.status
        if not len(self.points):
            return "its points are gone"
        absent = [name for name in NEEDED if name not in self.points or not np.isfinite(self.column(name)).all()]
        if absent:
            return f"not all of its points have a finite {absent[0]}"
        return "" if len(self.points) > 1 else "no iteration fits its budget"
