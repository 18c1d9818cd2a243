"""What one analysis is about: a suite's runs, or a folder's, sorted into views that may each stand in one figure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grpo_bench.analysis.axes import AXES, Axis
from grpo_bench.analysis.choices import Contradiction, contradictions
from grpo_bench.analysis.curve import Config, Curve, Floats, Part
from grpo_bench.analysis.labels import digest, ingredients, labelled, scene_of
from grpo_bench.builtin import BASELINE
from grpo_bench.errors import UserError
from grpo_bench.store.names import parse_toml
from grpo_bench.store.reader import Runs, read_runs
from grpo_bench.store.record import RunRecord
from grpo_bench.store.suite import CellRecord, ChoiceRecord, References, SuiteRecord, read_suites

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BASELINE", "Config", "Curve", "Floats", "Part", "Study", "View", "result_folders", "studies", "studies_of"]

Protocol = Literal["controlled", "tuned", "paper"]
LEARNING_RATE = "training.learning_rate"


@dataclass(frozen=True, eq=False)
class View:
    """Runs that may stand in one figure: one workload, reward and protocol, one evaluation grid, one rules version."""

    name: str
    """A file name for it, such as `shapes-shapes-pref-controlled`."""
    workload: str
    reward: str
    protocol: Protocol
    """`tuned`: of a suite in which each label has the rate that its own trials chose."""
    tier: str
    baseline: str
    """The label that differences are taken against; empty where the view has no such label and no primary contrast."""
    primary: tuple[str, ...]
    """Labels of the primary contrasts, named before anything ran; all else is exploratory."""
    curves: tuple[Curve, ...]
    """The finished runs."""
    unfinished: tuple[Curve, ...]
    """Diverged, failed, interrupted or running, also at other learning rates: counted and shown, in no mean."""
    bases: tuple[Curve, ...] = ()
    """The untrained base under other evaluation noise."""
    tuning: tuple[Curve, ...] = ()
    """Runs at other learning rates, on seeds of their own."""
    references: References | None = None
    """Frozen in the suite; None: taken from the runs (`summary`)."""
    choices: tuple[ChoiceRecord, ...] = ()
    """What the trials of a tuned suite chose, as the sweep stored it."""
    trials: tuple[Curve, ...] = ()
    """All runs that were made to choose, for whatever setting and however they ended."""
    contradicted: frozenset[str] = frozenset()
    """Labels whose rate is not what their trials choose: no verdict rests on them."""
    gold_is_proxy: bool = False

    @property
    def title(self) -> str:
        """What its figures are called."""
        return f"{self.workload}, reward {self.reward}, {self.protocol}, tier {self.tier}"

    @cached_property
    def budget(self) -> str:
        """What its runs' budget counts, as `nfe`; empty where they have none, or not the same."""
        kinds = {kind for curve in (*self.curves, *self.unfinished) for kind in curve.table("budget")}
        return kinds.pop() if len(kinds) == 1 else ""

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels with a finished run, in the suite's order."""
        return tuple(dict.fromkeys(curve.label for curve in self.curves))

    @cached_property
    def all_labels(self) -> tuple[str, ...]:
        """Labels with any run, finished or not, a trial's too."""
        return tuple(dict.fromkeys(curve.label for curve in (*self.curves, *self.unfinished, *self.tuning)))

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

    def stalled(self, axis: Axis) -> tuple[Curve, ...]:
        """The runs that spent nothing on an axis between two of their points: over it they are no curves."""
        return tuple(curve for curve in self.on(axis) if not curve.rises(axis))

    def cut(self, axis: Axis) -> float:
        """Where a view over an axis ends: the smallest maximum of the runs in it.

        NaN where there is none, and where one of them has no curve over the axis (`stalled`).
        """
        return self._cuts[axis]

    @cached_property
    def _cuts(self) -> dict[Axis, float]:
        ends = {axis: () if self.stalled(axis) else self.on(axis) for axis in AXES}
        return {axis: min((float(curve.cost(axis)[-1]) for curve in ends[axis]), default=math.nan) for axis in AXES}

    def method(self, label: str) -> str:
        """The method behind a label, whose colour it has."""
        return next(curve.method for curve in (*self.curves, *self.unfinished, *self.tuning) if curve.label == label)

    def median(self, label: str) -> Curve:
        """The run of a label whose final gold is the median of its seeds' (the lower of two)."""
        runs = sorted(self.of(label), key=lambda curve: (curve.final("gold"), curve.seed))
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
    contradictions: tuple[str, ...] = ()
    """Choices of the suite that its trials do not give; also among the notes."""
    untested: int = 0
    """Primary contrasts on workloads and rewards that have no reported run yet: they count in the family."""


def studies(folder: Path) -> tuple[Study, ...]:
    """The suites swept into a folder, and its other runs; a folder of such folders gives theirs.

    Raises:
        UserError: there is no run in it, or runs that may not be compared are in one suite.
    """
    return tuple(study for place in result_folders(folder) for study in _studies_here(place))


def result_folders(folder: Path) -> tuple[Path, ...]:
    """The folder itself where runs or suites lie in it, else those of its sub-folders that hold runs.

    Raises:
        UserError: there is no run in it, or it is itself a run.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give a folder of runs, such as results/runs")
    if (folder / "run.json").exists():
        raise UserError(f"{folder} is one run; give the folder that it lies in, {folder.resolve().parent}")
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if any((path / "run.json").exists() for path in inner) or read_suites(folder, []):
        return (folder,)
    found = tuple(path for path in inner if _has_runs(path))
    if not found:
        raise UserError(f"{folder} holds no runs; make some with `grpo-bench run` or `grpo-bench sweep`")
    return found


def _has_runs(folder: Path) -> bool:
    return any(folder.glob("*/run.json"))


def _studies_here(folder: Path) -> tuple[Study, ...]:
    skipped: list[str] = []
    suites, runs = read_suites(folder, skipped), read_runs(folder)
    return studies_of(folder, replace(runs, skipped=(*runs.skipped, *skipped)), suites)


def studies_of(folder: Path, runs: Runs, records_of_suites: Iterable[SuiteRecord]) -> tuple[Study, ...]:
    """The suites among runs that were read from `folder` or from a bundle, and the other runs.

    Raises:
        UserError: runs that may not be compared are in one suite.
    """
    configs = {record.run: _config(runs.configs.get(record.run, "")) for record in runs.records}
    records = {record.run: record for record in runs.records if configs[record.run]}
    skipped = (*runs.skipped, *(f"{run} {_NO_CONFIG}" for run, config in configs.items() if not config))
    suites, used = [], set[str]()
    for suite in records_of_suites:
        cells = {cell.run: cell for cell in suite.cells}
        used |= set(cells)
        curves = {
            run: _curve(runs, folder, records[run], configs[run], cell) for run, cell in cells.items() if run in records
        }
        missing = tuple(cell for cell in suite.cells if cell.run not in records)
        found = tuple(contradictions(suite, curves))
        views = _views(list(curves.values()), suite, found)
        wrong = tuple(one.said for one in found)
        notes = (*wrong, *skipped, *_not_over(views))
        untested = _untested(suite, views)
        suites.append(Study(suite.suite, suite.title, folder, suite, views, missing, notes, wrong, untested))
    rest = [record for run, record in records.items() if run not in used]
    if suites:
        if not rest:
            return tuple(suites)
        note = (
            f"{len(rest)} runs in {folder.name} belong to no suite (or to cells that have changed), and are not shown"
        )
        first = suites[0]
        return (replace(first, notes=(*first.notes, note)), *suites[1:])
    named = labelled([_curve(runs, folder, record, configs[record.run]) for record in rest])
    views = _views(named, None)
    return (Study(folder.name, folder.name, folder, None, views, (), (*skipped, *_not_over(views))),)


_NO_CONFIG = "is not a whole run, its config.toml cannot be read: start it anew"


def _config(text: str) -> Config:
    """config.toml; empty where it is missing or damaged.

    A label's seeds differ in what stands above the tables alone, and these are most of the text: each is parsed once.
    """
    top, bracket, tables = text.partition("\n[")
    above, below = _table(top), _tables(bracket + tables)
    return {**above, **below} if above and below and above.keys().isdisjoint(below) else _table(text)


@lru_cache(maxsize=1024)
def _tables(text: str) -> Config:
    return _table(text)


def _table(text: str) -> Config:
    try:
        return parse_toml(text)
    except (ValueError, RecursionError):
        return {}


def _not_over(views: Iterable[View]) -> tuple[str, ...]:
    """A sentence for each axis that nothing is shown over, because a run has no curve over it."""
    return tuple(
        f"{view.name}: nothing is shown over {axis}, since {stalled[0].record.run} spent none between two of its points"
        for view in views
        for axis in AXES
        if (stalled := view.stalled(axis))
    )


def _curve(
    runs: Runs,
    folder: Path,
    record: RunRecord,
    config: Config,
    cell: CellRecord | None = None,
) -> Curve:
    """One run and its cell; without one to say so, a run that trained nothing is an evaluation of the base."""
    import pandas as pd

    points = runs.own_points.get(record.run)
    frame = pd.DataFrame() if points is None else _without_empty(points)
    by_prompt = runs.prompt_scores.get(record.run)
    place = (record, folder / record.run, config, frame)
    if cell is None:
        return Curve(record.method, _part(record, frame), 1.0, *place, prompt_scores=by_prompt)
    return Curve(cell.label, cell.part, cell.factor, *place, setting=cell.setting, prompt_scores=by_prompt)


def _without_empty(points: pd.DataFrame) -> pd.DataFrame:
    """The columns in which there is a number."""
    full = bool(points.notna().to_numpy().all())
    return points if full else points.dropna(axis=1, how="all")  # which takes a millisecond, of ten thousand runs each


def _part(record: RunRecord, points: pd.DataFrame) -> Part:
    return "base" if record.status == "done" and len(points) == 1 else "main"


def _untested(suite: SuiteRecord, views: Sequence[View]) -> int:
    """The primary contrasts that were named for a workload and reward on which nothing is reported yet."""
    there = {(view.workload, view.reward) for view in views}
    named = {(cell.workload, cell.reward) for cell in suite.cells if cell.protocol == "controlled"}
    return len(named - there) * len(suite.contrasts)


def _views(curves: Sequence[Curve], suite: SuiteRecord | None, wrong: Sequence[Contradiction] = ()) -> tuple[View, ...]:
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
        named = (*scene[:2], _protocol(main[0].record, suite))
        name = "-".join(named).replace(",", "+").replace(":", "-") + suffix
        bad = frozenset(one.label for one in wrong if (one.workload, one.reward) == scene[:2])
        views.append(replace(_view(name, [*found, *_bases(curves, main[0])], main, suite), contradicted=bad))
    return tuple(sorted(views, key=lambda view: view.protocol))


def _view(name: str, found: Sequence[Curve], main: Sequence[Curve], suite: SuiteRecord | None) -> View:
    record = main[0].record
    done = sorted((curve for curve in main if not curve.unfinished), key=lambda curve: curve.seed)
    order = {label: place for place, label in enumerate(dict.fromkeys(curve.label for curve in main))}
    done.sort(key=lambda curve: order[curve.label])
    labels = {curve.label for curve in main}
    primary = _primary(suite, record) if suite else ()
    flats = [label for label in labels if label.split("(")[0] == BASELINE]
    baseline = suite.baseline if suite else flats[0] if len(flats) == 1 else ""
    return View(
        name=name,
        workload=record.workload,
        reward=record.reward,
        protocol=_protocol(record, suite),
        tier=record.tier,
        baseline=baseline if baseline in labels or primary else "",
        primary=primary,
        curves=tuple(done),
        unfinished=tuple(curve for curve in found if curve.part != "base" and curve.unfinished),
        bases=tuple(curve for curve in found if curve.part == "base"),
        tuning=tuple(
            curve
            for curve in found
            if curve.part == "tuning" and curve.setting in ("", LEARNING_RATE) and not curve.unfinished
        ),
        trials=tuple(curve for curve in found if curve.part == "tuning"),
        references=suite.references.get(f"{record.workload}/{record.reward}") if suite else None,
        gold_is_proxy=record.gold_is_proxy,
        choices=tuple(one for one in suite.choices if (one.workload, one.reward) == (record.workload, record.reward))
        if suite
        else (),
    )


def _protocol(record: RunRecord, suite: SuiteRecord | None) -> Protocol:
    """A tuned suite's runs are controlled, all but their rates: those are each label's own."""
    tuned = suite is not None and suite.protocol == "tuned" and record.protocol == "controlled"
    return "tuned" if tuned else record.protocol


def _bases(curves: Iterable[Curve], like: Curve) -> list[Curve]:
    """Evaluations of a run's base as the run was evaluated, one for each noise: the same noise again says nothing."""
    found: dict[object, Curve] = {}
    for curve in curves:
        same = curve.part == "base" and _evaluation(curve) == _evaluation(like)
        if same and "gold" in curve.points and math.isfinite(curve.gold[0]):
            found.setdefault(curve.table("evaluation").get("seed"), curve)
    return list(found.values())


def _evaluation(curve: Curve) -> tuple[object, ...]:
    evaluation = {key: value for key, value in curve.table("evaluation").items() if key not in ("seed", "every")}
    return curve.record.workload, curve.record.reward, ingredients(curve), evaluation


def _primary(suite: SuiteRecord, record: RunRecord) -> tuple[str, ...]:
    """The contrasts that were named for a view; one without a run yet still counts in the family."""
    scene = (record.workload, record.reward, record.protocol)
    named = {cell.label for cell in suite.cells if (cell.workload, cell.reward, cell.protocol) == scene}
    return tuple(label for label in suite.contrasts if label in named)


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
        grids.setdefault(scene_of(curve)[3], curve)
    if len(grids) > 1:
        first, second = list(grids.values())[:2]
        raise UserError(
            f"{first.label} and {second.label} were evaluated on different grids or budgets, or given other base "
            f"weights, prompts, reward weights or devices ({first.record.run}, {second.record.run}), so they cannot "
            "stand in one figure; give the suite one of each"
        )
