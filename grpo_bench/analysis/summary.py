"""Every figure of a view: what tables, plots, report, claims and bundles print, computed once and from points alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Literal

import numpy as np

from grpo_bench.analysis.axes import AXES, COLUMNS, Axis
from grpo_bench.analysis.contrasts import Contrast, contrasts
from grpo_bench.analysis.curve_area import curve_area
from grpo_bench.analysis.hypervolume import grid, noise_floor
from grpo_bench.analysis.reading import area, at_cost, curve_at, measured_references
from grpo_bench.analysis.statistics import Estimate, t_interval
from grpo_bench.analysis.study import LEARNING_RATE, Curve, Floats, Study, View
from grpo_bench.analysis.targets import Reached, reached, time_to_target
from grpo_bench.analysis.twoway import TwoWay
from grpo_bench.analysis.words import FEWEST_SEEDS
from grpo_bench.store.suite import ChoiceRecord, References

Learned = Literal["gain", "loss", "within the noise floor", "not shown", "too few seeds"]


@dataclass(frozen=True)
class NoiseFloor:
    """How far evaluations of one untrained base lie apart: no smaller change is called a gain."""

    gold: float
    """The largest difference between two of them."""
    share: float
    """The same as a normalised hypervolume."""
    evaluations: int


@dataclass(frozen=True)
class MethodSummary:
    """One label's figures over its seeds; gold is the primary outcome."""

    label: str
    method: str
    seeds: tuple[int, ...]
    base: float
    gold: Estimate
    gain: Estimate
    proxy_gain: Estimate
    learned: Learned
    gold_at: dict[Axis, Estimate]
    """Gold where each axis's view is cut, by interpolation."""
    difference_at: dict[Axis, Estimate]
    """The same less the baseline's, seed by seed; NaN for the baseline itself."""
    hypervolume: dict[Axis, Estimate]
    hypervolume_difference: dict[Axis, Estimate]
    """Against the baseline, seed by seed; NaN for the baseline itself."""
    area: dict[Axis, Estimate]
    """Under the curve up to where the axis's view is cut, as a share of the way from the base to the best gold."""
    area_difference: dict[Axis, Estimate]
    """Against the baseline, seed by seed; NaN for the baseline itself."""
    targets: dict[str, dict[Axis, Reached]]
    costs: dict[str, float]
    """Median over seeds of the last point's counters, phases and memory, by the points' column names."""
    median_run: str


@dataclass(frozen=True)
class Stretch:
    """Costs over which one label's mean gold is the highest."""

    label: str
    first: float
    last: float
    ahead: int
    """In how many seeds it is the highest at the stretch's end."""
    seeds: int
    """The seeds that all labels have."""
    runner_up: str
    """The label with the next highest mean at the stretch's end; empty where there is one label."""
    margin: Estimate
    """By how much it leads the runner-up there, seed by seed: exploratory, since it was chosen for being highest."""


@dataclass(frozen=True)
class AxisSummary:
    """A view over one cost axis."""

    axis: Axis
    cut: float
    runs: int
    untimed: int
    """Finished runs left out because they shared their device (seconds only)."""
    frontier: tuple[Stretch, ...]


@dataclass(frozen=True)
class Tuned:
    """One label at one learning rate: on the tuning seeds, or for the shared rate on the reported ones."""

    label: str
    factor: float
    gain: Estimate


@dataclass(frozen=True)
class Chosen:
    """What a label's trials chose."""

    choice: ChoiceRecord
    rate: float
    """The learning rate of its reported runs; NaN where there are none."""
    trials: int
    nfe: int
    """What they spent."""
    spread: float
    """The most that a rate among those tried gained over the least: how sensitive the label is."""


@dataclass(frozen=True)
class Ended:
    """A run that did not finish."""

    run: str
    label: str
    seed: int
    status: str
    reason: str


@dataclass(frozen=True)
class ViewSummary:
    """All figures of one view."""

    name: str
    workload: str
    reward: str
    protocol: str
    tier: str
    budget: str
    """What it counts: `nfe`."""
    baseline: str
    gold_is_proxy: bool
    frozen: bool
    """Whether the references below were frozen in the suite, or taken from these runs."""
    references: References
    floor: NoiseFloor | None
    methods: tuple[MethodSummary, ...]
    contrasts: tuple[Contrast, ...]
    axes: tuple[AxisSummary, ...]
    tuning: tuple[Tuned, ...]
    choices: tuple[Chosen, ...]
    """Of a tuned suite: by what each label's rate was chosen."""
    ended: tuple[Ended, ...]

    @property
    def two_way(self) -> tuple[TwoWay, ...]:
        """The contrasts' tables of seeds and prompts; none of runs that do not store what each prompt scored."""
        return tuple(one.two_way for one in self.contrasts if one.two_way is not None and one.two_way.prompts)

    def method(self, label: str) -> MethodSummary:
        """The figures of a label; raises KeyError."""
        for method in self.methods:
            if method.label == label:
                return method
        raise KeyError(label)


def summaries(study: Study) -> tuple[ViewSummary, ...]:
    """All figures of a study's views; the primary contrasts of a suite are one family, over all its workloads."""
    found = contrasts(study.views, study.untested)
    return tuple(_summary(view, own) for view, own in zip(study.views, found, strict=True))


def summarise(view: View) -> ViewSummary:
    """All figures of one view by itself; with no finished run its tables are empty and its failures are listed."""
    return _summary(view, *contrasts([view]))


def _summary(view: View, own: tuple[Contrast, ...]) -> ViewSummary:
    references = view.references or measured_references(view)
    floor = _floor(view, references)
    readings = {label: _readings(view, label, references) for label in view.labels}
    return ViewSummary(
        name=view.name,
        workload=view.workload,
        reward=view.reward,
        protocol=view.protocol,
        tier=view.tier,
        budget=view.budget,
        baseline=view.baseline,
        gold_is_proxy=view.gold_is_proxy,
        frozen=view.references is not None,
        references=references,
        floor=floor,
        methods=tuple(_method(view, label, readings, references, floor) for label in view.labels),
        contrasts=own,
        axes=tuple(_axis(view, axis) for axis in AXES if not math.isnan(view.cut(axis))),
        tuning=_tuning(view),
        choices=_choices(view),
        ended=tuple(
            Ended(curve.record.run, curve.label, curve.seed, curve.record.status, _reason(curve))
            for curve in view.unfinished
        ),
    )


def to_json(summary: ViewSummary) -> dict[str, object]:
    """Plain values for JSON: a NaN or infinity, which JSON has no word for, becomes None."""
    table = asdict(summary) | {"references": summary.references.model_dump()}
    figures = plain(table | {"choices": [asdict(one) | {"choice": one.choice.model_dump()} for one in summary.choices]})
    assert isinstance(figures, dict)
    return figures


@dataclass(frozen=True)
class _Reading:
    """A label's runs over one axis, by seed."""

    curves: dict[int, Curve]
    gold: dict[int, float]
    """Where the axis's view is cut."""
    hypervolume: dict[int, float]
    area: dict[int, float]


_NO_RUN = _Reading({}, {}, {}, {})


def _readings(view: View, label: str, references: References) -> dict[Axis, _Reading]:
    """Of the axes on which the label has a curve."""
    found = {}
    for axis in AXES:
        own = {curve.seed: curve for curve in view.on(axis) if curve.label == label}
        if own and not math.isnan(view.cut(axis)):
            found[axis] = _Reading(
                own,
                {seed: at_cost(curve, axis, view.cut(axis)) for seed, curve in own.items()},
                {seed: area(curve, axis, references) for seed, curve in own.items()},
                {seed: _under(curve, axis, view, references) for seed, curve in own.items()},
            )
    return found


def _method(
    view: View,
    label: str,
    readings: Mapping[str, Mapping[Axis, _Reading]],
    references: References,
    floor: NoiseFloor | None,
) -> MethodSummary:
    curves, read = view.of(label), readings[label]
    gain = t_interval([curve.gain() for curve in curves])
    base = readings.get(view.baseline, {}) if label != view.baseline else {}
    pairs = {axis: (own, base.get(axis, _NO_RUN)) for axis, own in read.items()}
    return MethodSummary(
        label=label,
        method=view.method(label),
        seeds=tuple(curve.seed for curve in curves),
        base=float(np.mean([curve.base() for curve in curves])),
        gold=t_interval([curve.final("gold") for curve in curves]),
        gain=gain,
        proxy_gain=t_interval([curve.gain("proxy") for curve in curves]),
        learned=_learned(gain, floor),
        gold_at={axis: t_interval(list(own.gold.values())) for axis, own in read.items()},
        difference_at={axis: _difference(own.gold, other.gold) for axis, (own, other) in pairs.items()},
        hypervolume={axis: t_interval(list(own.hypervolume.values())) for axis, own in read.items()},
        hypervolume_difference={
            axis: _difference(own.hypervolume, other.hypervolume) for axis, (own, other) in pairs.items()
        },
        area={axis: t_interval(list(own.area.values())) for axis, own in read.items()},
        area_difference={axis: _difference(own.area, other.area) for axis, (own, other) in pairs.items()},
        targets={
            name: {
                axis: reached([time_to_target(curve.cost(axis), curve.gold, target) for curve in own.curves.values()])
                for axis, own in read.items()
            }
            for name, target in references.targets.items()
        },
        costs=_costs(curves),
        median_run=view.median(label).record.run,
    )


def _under(curve: Curve, axis: Axis, view: View, references: References) -> float:
    """The area under one run's curve; NaN where nothing lies between the base and the best gold, or it starts late."""
    if not references.best > references.base or not view.cut(axis) > 0 or curve.cost(axis)[0] > 0:
        return math.nan
    return curve_area(
        curve.cost(axis), curve.gold, budget=view.cut(axis), base=references.base, ceiling=references.best
    )


def _reason(curve: Curve) -> str:
    """Why a run is in no mean, where its status does not say it, and at what other learning rate it was."""
    setting = "the learning rate" if curve.setting in ("", LEARNING_RATE) else curve.setting
    rate = f"at {curve.factor:.2g} x {setting}" if curve.part == "tuning" else ""
    return ": ".join(filter(None, (rate, "" if curve.unfinished == curve.record.status else curve.unfinished)))


def _learned(gain: Estimate, floor: NoiseFloor | None) -> Learned:
    """Whether a change may be called a gain: five seeds, an interval clear of 0, and more than the noise floor."""
    if gain.n < FEWEST_SEEDS:
        return "too few seeds"
    if floor is not None and abs(gain.mean) <= floor.gold:
        return "within the noise floor"
    if gain.low > 0:
        return "gain"
    return "loss" if gain.high < 0 else "not shown"


def _difference(own: dict[int, float], other: dict[int, float]) -> Estimate:
    """The mean seed-wise difference; NaN without a common seed."""
    common = sorted(own.keys() & other.keys())
    return t_interval([own[seed] - other[seed] for seed in common])


def _costs(curves: Sequence[Curve]) -> dict[str, float]:
    """Medians of the last point's counters; seconds only of runs that had their device to themselves."""
    counters = [name for name in curves[0].points.columns if name.endswith(("_nfe", "_seconds")) or name in _COUNTERS]
    medians = {}
    for name in counters:
        timed = [curve for curve in curves if "seconds" not in name or curve.record.timed]
        values = [float(curve.column(name)[-1]) for curve in timed if name in curve.points.columns]
        if values:
            medians[name] = float(np.median(values))
    return medians


_COUNTERS = {
    *COLUMNS.values(), "iteration", "images", "decodes", "trained_edges", "peak_memory_bytes", "diversity", "vendi",
    "base_distance",
}  # fmt: skip


def _axis(view: View, axis: Axis) -> AxisSummary:
    curves = view.on(axis)
    return AxisSummary(
        axis=axis,
        cut=view.cut(axis),
        runs=len(curves),
        untimed=len(view.curves) - len(curves),
        frontier=_frontier(view, axis),
    )


def _frontier(view: View, axis: Axis) -> tuple[Stretch, ...]:
    """Who has the highest mean gold at each of the grid's costs, by how much, and in how many of the common seeds."""
    curves = view.on(axis)
    labels = list(dict.fromkeys(curve.label for curve in curves))
    cost_M = grid(view.cut(axis))
    values: dict[str, dict[int, Floats]] = {label: {} for label in labels}
    for curve in curves:
        values[curve.label][curve.seed] = curve_at(curve, axis, cost_M)
    mean_LM = np.array([np.mean(list(values[label].values()), axis=0) for label in labels])
    leader_M = mean_LM.argmax(axis=0)
    ends = [*np.flatnonzero(np.diff(leader_M)), len(cost_M) - 1]
    starts = [0, *(end + 1 for end in ends[:-1])]
    return tuple(
        _stretch(values, labels, mean_LM[:, end], float(cost_M[start]), float(cost_M[end]), int(end))
        for start, end in zip(starts, ends, strict=True)
    )


def _stretch(
    values: Mapping[str, Mapping[int, Floats]],
    labels: Sequence[str],
    mean_L: Floats,
    first: float,
    last: float,
    at: int,
) -> Stretch:
    order = np.argsort(-mean_L, kind="stable")
    leader, second = labels[order[0]], labels[order[1]] if len(labels) > 1 else ""
    common = sorted(set.intersection(*(set(values[label]) for label in labels)))
    ahead = sum(all(values[leader][seed][at] >= values[label][seed][at] for label in labels) for seed in common)
    own, other = ({seed: float(values[name][seed][at]) for seed in values.get(name, {})} for name in (leader, second))
    return Stretch(leader, first, last, ahead, len(common), second, _difference(own, other))


def _floor(view: View, references: References) -> NoiseFloor | None:
    values = [float(curve.gold[0]) for curve in view.bases]
    if len(values) < 2:
        return None
    gold, share = noise_floor(values, base=references.base, best=references.best)
    return NoiseFloor(gold, share, len(values))


def _tuning(view: View) -> tuple[Tuned, ...]:
    diverged = {(curve.label, curve.factor) for curve in view.trials if curve.record.status == "diverged"}
    keys = {(curve.label, curve.factor) for curve in view.retuned} - diverged  # these rank last: they have no mean
    return tuple(
        Tuned(
            label,
            factor,
            t_interval([c.gain() for c in view.retuned if (c.label, c.factor) == (label, factor)]),
        )
        for label, factor in sorted(keys)
    )


def _choices(view: View) -> tuple[Chosen, ...]:
    found = []
    for choice in view.choices:
        own = (choice.label, choice.setting)
        trials = [curve for curve in view.trials if (curve.label, curve.setting) == own]
        gains = [gain for gain in choice.gains.values() if gain is not None]
        found.append(
            Chosen(
                choice=choice,
                rate=_rate(view, choice.label),
                trials=len(trials),
                nfe=sum(int(curve.column("nfe")[-1]) for curve in trials if len(curve.points)),
                spread=max(gains) - min(gains) if gains else math.nan,
            )
        )
    return tuple(found)


def _rate(view: View, label: str) -> float:
    rates = [curve.table("training").get("learning_rate") for curve in view.of(label)]
    known = [float(rate) for rate in rates if isinstance(rate, int | float)]
    return known[0] if known else math.nan


def plain(value: object, digits: int | None = None) -> object:
    """A value for JSON: a number that is not finite, which JSON has no word for, becomes None.

    Floats are rounded to so many significant digits, where a number of them is given.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), digits)
    if isinstance(value, Mapping):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            return None
        return float(value) if digits is None else float(f"{value:.{digits}g}")
    return value
