"""`NAME.suite.json`: which runs of a results folder belong to a suite, what each stands for, and the frozen references.

A sweep writes it before its first run starts, so that the contrasts are named before anything is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from grpo_bench.errors import UserError
from grpo_bench.metering.ledger import BudgetKind
from grpo_bench.store.atomic import saving, write_text
from grpo_bench.store.names import clean_text
from grpo_bench.store.record import Name, Rewards, parse_model

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".suite.json"

Axis = Literal["nfe", "rollout-nfe", "reward-calls", "updates", "seconds"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Part = Literal["main", "tuning", "base"]
"""Reported runs; runs at other learning rates, on their own seeds; the base under other evaluation noise."""
Protocol = Literal["shared", "tuned"]
"""One learning rate for all labels, or each label's own."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CellRecord(_Frozen):
    """One run of a suite, and what it stands for."""

    label: Name
    """The cell's name in the suite: a method's name, or one given to a method with settings."""
    run: Name
    """The run's id, also its folder's name."""
    method: Name
    recipe: Name | None = None
    reward: Rewards
    workload: Name
    seed: int
    protocol: Literal["controlled", "paper"] = "controlled"
    part: Part = "main"
    factor: AboveZero = 1.0
    """Of a tuning cell: the multiple of the label's own learning rate, or of the `setting`."""
    setting: str = ""
    """Of a trial of the `tuned` protocol: what `factor` multiplies."""
    factors: dict[str, AboveZero] = {}
    """Multiples of the label's own settings that were chosen by tuning, by setting."""


class ChoiceRecord(_Frozen):
    """What a label's trials chose for one setting (`analysis/rate.py`); `verify` computes it again."""

    label: Name
    workload: Name
    reward: Rewards
    setting: str
    factor: AboveZero | None
    """None where every trial diverged."""
    best: AboveZero | None
    """The best of the factors that were tried."""
    bracketed: bool
    """Whether a verdict may rest on it."""
    reason: str
    proxy_factor: AboveZero | None
    """What the proxy alone would have chosen."""
    gains: dict[str, float | None]
    """Mean gain in gold by factor; None where a trial diverged."""

    @property
    def best_gain(self) -> float | None:
        """The mean gain at the best of the factors that were tried."""
        return None if self.best is None else self.gains.get(f"{self.best:.6g}")


class References(_Frozen):
    """What makes figures of a workload and reward comparable, frozen before they are drawn."""

    base: Finite
    """Gold of the untrained base."""
    best: Finite
    """Gold at which the hypervolume is 1."""
    costs: dict[Axis, AboveZero] = {}
    """Cost at which the hypervolume is 1, by axis."""
    targets: dict[str, Finite] = {}
    """Gold to reach, by its name: `25`, `50` and `90` per cent of the baseline's gain."""


class SuiteRecord(_Frozen):
    """The content of NAME.suite.json."""

    schema_version: int = 1
    suite: Name
    title: str = ""
    digest: str
    """sha256 of the suite's TOML."""
    baseline: Name
    """The label that the others are compared with."""
    contrasts: tuple[Name, ...] = ()
    """The labels whose comparison with the baseline decides; at most four."""
    budget: dict[BudgetKind, Finite]
    protocol: Protocol = "shared"
    choices: tuple[ChoiceRecord, ...] = ()
    """Of a tuned suite: what has been chosen so far, by workload, reward, label and setting."""
    references: dict[str, References] = {}
    """By `WORKLOAD/REWARD`."""
    cells: tuple[CellRecord, ...]


def read_suites(results: Path, skipped: list[str] | None = None) -> tuple[SuiteRecord, ...]:
    """The suites swept into a results folder, by name; none where there is no such folder.

    A file that is none of ours, damaged or written by a newer version hides no other: `skipped` gets a sentence of it.

    Raises:
        UserError: there is such a file, and no `skipped` for it.
    """
    found = []
    for path in suite_files(results):
        try:
            found.append(read_suite(path))
        except UserError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    return tuple(found)


def suite_files(results: Path) -> list[Path]:
    """What is called like a suite in a results folder, sorted; nobody knows yet what is in it."""
    if not results.is_dir():
        return []
    return sorted(path for path in results.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def read_suite(path: Path) -> SuiteRecord:
    """One suite file.

    Raises:
        UserError: missing, damaged, or written by a newer version.
    """
    if path.exists() and not path.is_file():  # a pipe would never be read to its end
        raise _damaged(path, "it is no file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    return parse_suite(text, path)


def parse_suite(text: str, path: Path) -> SuiteRecord:
    """A suite file's text; `path` is only what an error calls it.

    Raises:
        UserError: damaged, or written by a newer version.
    """
    try:
        return parse_model(SuiteRecord, text, path)
    except ValueError as error:
        detail = str(error)
    raise _damaged(path, detail)


def _damaged(path: Path, detail: str) -> UserError:
    return UserError(
        f"{path} is damaged, or no suite of grpo-bench ({clean_text(detail, 120)}): the sweep's command writes its own "
        "anew; runs are kept."
    )


def write_suite(results: Path, record: SuiteRecord) -> None:
    """Replace `results/NAME.suite.json` in one step; the folder is made where there is none.

    Raises:
        UserError: the disk refuses; the old file then stands.
    """
    path = suite_path(results, record.suite)
    with saving("the suite", path):
        results.mkdir(parents=True, exist_ok=True)
    write_text(path, record.model_dump_json(indent=1), "the suite")


def suite_path(results: Path, suite: str) -> Path:
    """Where a suite's file lies."""
    return results / f"{suite}{SUFFIX}"
