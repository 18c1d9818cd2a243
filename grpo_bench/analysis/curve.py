"""One run as the analysis sees it: its points as a curve, and why it may be in no mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from grpo_bench.analysis.axes import BUDGETS, COLUMNS, Axis
from grpo_bench.analysis.by_prompt import ByPrompt, base_by_prompt, by_prompt
from grpo_bench.config import parse_rewards
from grpo_bench.errors import UserError
from grpo_bench.registry import WORKLOADS
from grpo_bench.store.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Floats = npt.NDArray[np.float64]
Part = Literal["main", "tuning", "base"]
Config = Mapping[str, object]

BY_PROMPT_SINCE = 2
"""The first rules version whose runs store what each prompt scored."""
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
    setting: str = ""
    """Of a trial: what `factor` multiplies; empty for the learning rate of an older suite."""
    prompt_scores: pa.Table | None = None
    """What each held-out prompt scored; None of a run made before that was stored (rules version 1)."""

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

    @cached_property
    def budget(self) -> tuple[str, float]:
        """The points' column that the budget counts, and how much of it; no column where its config names none."""
        table = self.table("budget")
        for kind, column in BUDGETS.items():
            amount = table.get(kind)
            if isinstance(amount, int | float):
                return column, float(amount)
        return "", 0.0

    def by_prompt(self, name: str = "gold") -> ByPrompt | None:
        """Gold, the proxy, or gold's component `name`, prompt by prompt, under all evaluation noises.

        None where prompts' scores were not stored, where nobody knows here which reward is the judge of truth, and
        where it has no such component. Raises `UserError` where the scores do not reach to either side of the budget.
        """
        if name not in self._by_prompt:
            self._by_prompt[name] = self._read_by_prompt(name)
        return self._by_prompt[name]

    @cached_property
    def _by_prompt(self) -> dict[str, ByPrompt | None]:
        return {}

    def _read_by_prompt(self, name: str) -> ByPrompt | None:
        column, amount = self.budget
        weights = self._weights(name)
        if self.prompt_scores is None or not weights or not column:
            return None
        if name not in ("gold", "proxy") and not weights.keys() <= set(self.prompt_scores.column_names):
            return None
        return by_prompt(self.prompt_scores, weights, self._iterations, self.column(column), amount)

    @property
    def _iterations(self) -> list[int]:
        """Where its points lie, as prompts' scores name them."""
        iterations: list[int] = self.column("iteration").astype(int).tolist()
        return iterations

    def base_by_prompt(self, name: str = "gold") -> Floats | None:
        """(P,) what the base's prompts scored, of a run that may have ended early; None as `by_prompt`, or damaged."""
        weights = self._weights(name)
        if self.prompt_scores is None or not weights or not len(self.points):
            return None
        if not weights.keys() <= set(self.prompt_scores.column_names):
            return None
        try:
            return base_by_prompt(self.prompt_scores, weights, self._iterations)
        except UserError:
            return None

    def _weights(self, name: str) -> Mapping[str, float]:
        """The columns of prompts' scores that make up a figure."""
        trained = parse_rewards(self.record.reward)
        if name == "proxy":
            return trained
        judge = self._judge
        if name != "gold":
            return {f"{judge}-{name}": 1.0} if judge else {}
        return {judge: 1.0} if judge else trained if self.record.gold_is_proxy else {}

    @cached_property
    def _judge(self) -> str:
        """The reward that gold is; of a workload that is not installed here, the one whose scores gold's points are."""
        if self.record.gold_is_proxy:
            trained = parse_rewards(self.record.reward)
            return next(iter(trained)) if len(trained) == 1 else ""
        if self.record.workload in WORKLOADS.names():
            return WORKLOADS.get(self.record.workload).gold
        rewards = (str(name) for name in self.points.columns if str(name).startswith("reward/"))
        same = (name for name in rewards if np.array_equal(self.column(name), self.gold))
        return next(same, "").removeprefix("reward/")

    def final(self, name: str) -> float:
        """A column at the budget, between the two points around it; the last value where a run ends before it.

        Gold and proxy under all evaluation noises, where prompts' scores are stored.
        """
        read = self._read(name)
        return self.drawn(name) if read is None else float(read.end_P.mean())

    def drawn(self, name: str) -> float:
        """A column where its curve passes the budget: under the first noise, which every point has."""
        column, amount = self.budget
        if not column:
            return float(self.column(name)[-1])
        return float(np.interp(amount, self.column(column), self.column(name)))

    def base(self, name: str = "gold") -> float:
        """A column of the untrained base, read as `final` reads it."""
        read = self._read(name)
        return float(self.column(name)[0]) if read is None else float(read.base_P.mean())

    def gain(self, name: str = "gold") -> float:
        """A column where the budget ends, less that of the base."""
        return self.final(name) - self.base(name)

    def _read(self, name: str) -> ByPrompt | None:
        return self.by_prompt(name) if name in ("gold", "proxy") else None

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
        if len(self.points) < 2:
            return "no iteration fits its budget"
        if self.record.rules_version < BY_PROMPT_SINCE:
            return ""
        if self.prompt_scores is None:
            return "its prompts' scores are gone; run it anew with --again"
        try:
            read = self.by_prompt("gold")
            self.by_prompt("proxy")
        except UserError as error:
            return str(error)
        asked = self.table("evaluation").get("noises")
        if read is not None and asked is not None and read.noises != asked:
            return f"its base was scored under {read.noises} of {asked} noises; run it anew with --again"
        return ""
