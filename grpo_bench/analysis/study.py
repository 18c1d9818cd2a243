"""What one analysis is about: a suite's runs, or a folder's, sorted into views that may each stand in one figure."""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from grpo_bench.analysis.axes import AXES, COLUMNS, Axis
from grpo_bench.analysis.labels import digest, labelled, scene_of
from grpo_bench.errors import UserError
from grpo_bench.store.reader import Runs, read_runs
from grpo_bench.store.record import RunRecord
from grpo_bench.store.suite import CellRecord, References, SuiteRecord, read_suites

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Part = Literal["main", "tuning", "base"]
Config = Mapping[str, object]

BASELINE = "flat"
"""Compared with where no suite names another."""


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

    @cached_property
    def gold(self) -> Floats:
        """(K,) the judge of truth's score at each point."""
        return self.column("gold")


@dataclass(frozen=True, eq=False)
class View:
    """Runs that may stand in one figure: one workload, reward and protocol, one evaluation grid, one rules version."""

    name: str
    """A file name for it, such as `shapes-shapes-pref-controlled`."""
    workload: str
    reward: str
    protocol: Literal["controlled", "paper"]
    tier: str
    baseline: str
    """The label that differences are taken against; empty where the view has no such label."""
    primary: tuple[str, ...]
    """Labels of the primary contrasts, named before anything ran; all else is exploratory."""
    curves: tuple[Curve, ...]
    """The finished runs."""
    unfinished: tuple[Curve, ...]
    """Diverged, failed, interrupted or running: counted and shown, in no mean."""
    bases: tuple[Curve, ...] = ()
    """The untrained base under other evaluation noise."""
    tuning: tuple[Curve, ...] = ()
    """Runs at other learning rates, on seeds of their own."""
    references: References | None = None
    """Frozen in the suite; None: taken from the runs (`summary`)."""
    gold_is_proxy: bool = False

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels with a finished run, in the suite's order."""
        return tuple(dict.fromkeys(curve.label for curve in self.curves))

    @cached_property
    def all_labels(self) -> tuple[str, ...]:
        """Labels with any run, finished or not."""
        return tuple(dict.fromkeys(curve.label for curve in (*self.curves, *self.unfinished)))

    def of(self, label: str) -> tuple[Curve, ...]:
        """The finished runs of a label, by seed."""
        return tuple(curve for curve in self.curves if curve.label == label)

    @cached_property
    def retuned(self) -> tuple[Curve, ...]:
        """The runs that learning rates are compared by: those on tuning seeds, and the reported ones of a label for
        which the shared rate itself was not run on those."""
        labels = {curve.label for curve in self.tuning}
        at_one = {curve.label for curve in self.tuning if curve.factor == 1}
        return (*self.tuning, *(curve for curve in self.curves if curve.label in labels - at_one))

    def on(self, axis: Axis) -> tuple[Curve, ...]:
        """The finished runs that an axis may show: over seconds, those that had their device to themselves."""
        return tuple(curve for curve in self.curves if axis != "seconds" or curve.record.timed)

    def cut(self, axis: Axis) -> float:
        """Where a view over an axis ends: the smallest maximum of the runs in it; NaN where there is none."""
        return self._cuts[axis]

    @cached_property
    def _cuts(self) -> dict[Axis, float]:
        return {axis: min((float(curve.cost(axis)[-1]) for curve in self.on(axis)), default=math.nan) for axis in AXES}

    def method(self, label: str) -> str:
        """The method behind a label, whose colour it has."""
        return next(curve.method for curve in (*self.curves, *self.unfinished) if curve.label == label)

    def median(self, label: str) -> Curve:
        """The run of a label whose final gold is the median of its seeds' (the lower of two)."""
        runs = sorted(self.of(label), key=lambda curve: (float(curve.gold[-1]), curve.seed))
        return runs[(len(runs) - 1) // 2]


@dataclass(frozen=True, eq=False)
class Study:
    """One suite's runs, or all runs of a folder that has no suite."""

    name: str
    title: str
    folder: Path
    suite: SuiteRecord | None
    views: tuple[View, ...]
    missing: tuple[CellRecord, ...] = ()
    """Cells of the suite that have no run yet."""
    notes: tuple[str, ...] = field(default=())
    """What was left out and why: one sentence each."""


def studies(folder: Path) -> tuple[Study, ...]:
    """The suites swept into a folder, and its other runs; a folder of such folders gives theirs.

    Raises:
        UserError: there is no run in it, or runs that may not be compared are in one suite.
    """
    return tuple(study for place in result_folders(folder) for study in _studies_here(place))


def result_folders(folder: Path) -> tuple[Path, ...]:
    """The folder itself where runs or suites lie in it, else those of its sub-folders that hold runs.

    Raises:
        UserError: there is no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give a folder of runs, such as results/runs")
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if any((path / "run.json").exists() for path in inner) or any(folder.glob("*.suite.json")):
        return (folder,)
    found = tuple(path for path in inner if _has_runs(path))
    if not found:
        raise UserError(f"{folder} holds no runs; make some with `grpo-bench run` or `grpo-bench sweep`")
    return found


def _has_runs(folder: Path) -> bool:
    return any(folder.glob("*/run.json"))


def _studies_here(folder: Path) -> tuple[Study, ...]:
    return studies_of(folder, read_runs(folder), read_suites(folder))


def studies_of(folder: Path, runs: Runs, records_of_suites: Iterable[SuiteRecord]) -> tuple[Study, ...]:
    """The suites among runs that were read from `folder` or from a bundle, and the other runs.

    Raises:
        UserError: runs that may not be compared are in one suite.
    """
    frames = dict(tuple(runs.points.groupby("run", sort=False)))
    records = {record.run: record for record in runs.records}
    suites, used = [], set[str]()
    for suite in records_of_suites:
        cells = {cell.run: cell for cell in suite.cells}
        used |= set(cells)
        curves = [
            _curve(folder, records[run], runs, frames.get(run), (cell.label, cell.part, cell.factor))
            for run, cell in cells.items()
            if run in records
        ]
        missing = tuple(cell for cell in suite.cells if cell.run not in records)
        views = _views(curves, suite)
        suites.append(Study(suite.suite, suite.title, folder, suite, views, missing, runs.skipped))
    rest = [record for run, record in records.items() if run not in used]
    if suites:
        if not rest:
            return tuple(suites)
        note = (
            f"{len(rest)} runs in {folder.name} belong to no suite (or to cells that have changed), and are not shown"
        )
        first = suites[0]
        return (replace(first, notes=(*first.notes, note)), *suites[1:])
    curves = labelled([_curve(folder, record, runs, frames.get(record.run)) for record in rest])
    return (Study(folder.name, folder.name, folder, None, _views(curves, None), (), runs.skipped),)


def _curve(
    folder: Path,
    record: RunRecord,
    runs: Runs,
    points: pd.DataFrame | None,
    cell: tuple[str, Part, float] | None = None,
) -> Curve:
    """One run and its cell; without one to say so, a run that trained nothing is an evaluation of the base."""
    import pandas as pd

    frame = pd.DataFrame() if points is None else points.dropna(axis=1, how="all").reset_index(drop=True)
    try:
        config = tomllib.loads(runs.configs.get(record.run, ""))
    except ValueError:
        config = {}
    label, part, factor = cell or (record.method, _part(record, frame), 1.0)
    return Curve(label, part, factor, record, folder / record.run, config, frame)


def _part(record: RunRecord, points: pd.DataFrame) -> Part:
    return "base" if record.status == "done" and len(points) == 1 else "main"


def _views(curves: Sequence[Curve], suite: SuiteRecord | None) -> tuple[View, ...]:
    """Sort runs into views; a suite's must fit together, other runs are sorted until they do.

    Raises:
        UserError: mixed rules versions, or a suite's runs with different evaluation grids.
    """
    _one_rules_version(curves)
    groups: dict[tuple[str, ...], list[Curve]] = {}
    for curve in curves:
        if curve.part == "base":
            continue
        scene = scene_of(curve) if suite is None else scene_of(curve)[:3]
        groups.setdefault(scene, []).append(curve)
    shared = Counter(scene[:3] for scene in groups)
    views = []
    for scene, found in groups.items():
        main = [curve for curve in found if curve.part == "main"]
        if suite is not None:
            _one_grid(main)
        if not main:
            continue
        suffix = f"-{digest(scene[3])}" if shared[scene[:3]] > 1 else ""
        bases = [curve for curve in curves if curve.part == "base" and scene_of(curve)[:2] == scene[:2]]
        name = "-".join(scene[:3]).replace(",", "+").replace(":", "-") + suffix
        views.append(_view(name, [*found, *bases], main, suite))
    return tuple(sorted(views, key=lambda view: view.protocol))


def _view(name: str, found: Sequence[Curve], main: Sequence[Curve], suite: SuiteRecord | None) -> View:
    record = main[0].record
    done = sorted((curve for curve in main if _finished(curve)), key=lambda curve: curve.seed)
    order = {label: place for place, label in enumerate(dict.fromkeys(curve.label for curve in main))}
    done.sort(key=lambda curve: order[curve.label])
    labels = {curve.label for curve in main}
    flats = [label for label in labels if label.split("(")[0] == BASELINE]
    baseline = suite.baseline if suite else flats[0] if len(flats) == 1 else ""
    return View(
        name=name,
        workload=record.workload,
        reward=record.reward,
        protocol=record.protocol,
        tier=record.tier,
        baseline=baseline if baseline in labels else "",
        primary=_primary(suite, record) if suite else (),
        curves=tuple(done),
        unfinished=tuple(curve for curve in main if not _finished(curve)),
        bases=tuple(curve for curve in found if curve.part == "base" and len(curve.points) > 0),
        tuning=tuple(curve for curve in found if curve.part == "tuning" and _finished(curve)),
        references=suite.references.get(f"{record.workload}/{record.reward}") if suite else None,
        gold_is_proxy=record.gold_is_proxy,
    )


def _primary(suite: SuiteRecord, record: RunRecord) -> tuple[str, ...]:
    """The contrasts that were named for a view; one without a run yet still counts in the family."""
    scene = (record.workload, record.reward, record.protocol)
    named = {cell.label for cell in suite.cells if (cell.workload, cell.reward, cell.protocol) == scene}
    return tuple(label for label in suite.contrasts if label in named)


def _finished(curve: Curve) -> bool:
    return curve.record.status == "done" and len(curve.points) > 1


def _one_rules_version(curves: Iterable[Curve]) -> None:
    versions: dict[int, str] = {}
    for curve in curves:
        versions.setdefault(curve.record.rules_version, curve.record.run)
    if len(versions) > 1:
        (one, first), (other, second) = list(versions.items())[:2]
        raise UserError(
            f"{first} was measured under rules version {one} and {second} under {other}, and such runs are never "
            "compared; move the older ones to a folder of their own, or run them again"
        )


def _one_grid(curves: Sequence[Curve]) -> None:
    grids: dict[str, Curve] = {}
    for curve in curves:
        key = ("evaluation", "budget")
        grids.setdefault(json.dumps([curve.config.get(part) for part in key], sort_keys=True, default=str), curve)
    if len(grids) > 1:
        first, second = list(grids.values())[:2]
        raise UserError(
            f"{first.label} and {second.label} were evaluated on different grids or budgets ({first.record.run}, "
            f"{second.record.run}), so they cannot stand in one figure; give the suite one [evaluation] and [budget]"
        )
