"""What no run can have stored: counters that fall or do not add up, points off the grid, scores outside their range.

The figures of a bundle are computed from its points; this asks whether a run could have made those points. It finds
numbers that were changed by hand and not those that were changed with care.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.analysis.curve import BY_PROMPT_SINCE
from grpo_bench.analysis.study import Floats
from grpo_bench.config import RunConfig, parse_rewards, validated
from grpo_bench.errors import UserError
from grpo_bench.metering.ledger import CLOCKED_PHASES, COUNTERS, PHASES, ROLES, TRAIN_WEIGHT
from grpo_bench.registry import REWARDS, WORKLOADS
from grpo_bench.run_id import run_id
from grpo_bench.store.points import in_range
from grpo_bench.versions import NUMERICS_VERSION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from grpo_bench.store.reader import StoredRun
    from grpo_bench.store.record import RunRecord

TRAINING = ("nfe", "rollout_nfe", "train_nfe", "reference_nfe", "reward_calls",
            *(counter for counter in COUNTERS if counter != "iterations"))  # fmt: skip
"""Counters that are 0 before the first iteration."""
WHOLE = ("iteration", *TRAINING, *(f"{role}_nfe" for role in ROLES if role in ("eval", "setup")), "peak_memory_bytes")
RISING = (*WHOLE, "seconds", *(f"{phase}_seconds" for phase in PHASES))
UNEVEN = 3
"""How many times the mean of a stretch one iteration costs at most: windows move, and edges are pruned."""
SPENT = {"nfe": "nfe", "rollout-nfe": "rollout_nfe", "reward-calls": "reward_calls", "updates": "updates",
         "iterations": "iteration"}  # fmt: skip
"""The column of each counted budget."""


@dataclass(frozen=True)
class Ranges:
    """Scores that rewards can give, of those that are installed here; and the rest."""

    known: Mapping[str, tuple[float, float]]
    unknown: tuple[str, ...]


def ranges_of(runs: Iterable[StoredRun]) -> Ranges:
    """The ranges of all rewards that have a column in the runs' points."""
    columns = {str(column) for run in runs for column in run.points if _is_reward(column)}
    names = sorted(column.removeprefix("reward/") for column in columns)
    known = {name: within for name in names if (within := _declared(name)) is not None}
    return Ranges(known, tuple(name for name in names if name not in known))


def impossible(run: StoredRun, ranges: Ranges) -> tuple[str, ...]:
    """One sentence for each rule that the run's points break, with the first numbers that break it."""
    points = _Points(run)
    if not points.count:
        return ()
    rules = (_own_config, _counters, _beginning, _sums, _iterations, _grid, _end, _scores, _shares, _by_prompt)
    return tuple(said for rule in rules for said in rule(points)) + tuple(_ranges(points, ranges))


class _Points:
    """A run's points as columns of numbers."""

    def __init__(self, run: StoredRun) -> None:
        self._frame, self.record, self.count = run.points, run.record, len(run.points)
        self.prompt_scores = run.prompt_scores
        try:
            self.config = tomllib.loads(run.config or "")
        except (ValueError, RecursionError):
            self.config = {}

    def column(self, name: str) -> Floats:
        """Its numbers; NaN where the points have none."""
        if name not in self._frame:
            return np.full(self.count, np.nan)
        return self._frame[name].to_numpy(dtype=np.float64, na_value=np.nan)

    def names(self) -> list[str]:
        """The columns."""
        return [str(name) for name in self._frame]

    def setting(self, table: str, key: str) -> float | None:
        """A number of the config; None where there is none."""
        inside = self.config.get(table)
        value = inside.get(key) if isinstance(inside, dict) else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def budget(self) -> tuple[str, float]:
        """The column that the budget counts, and how much; an empty name where nothing is counted."""
        found = [(SPENT[kind], amount) for kind in SPENT if (amount := self.setting("budget", kind)) is not None]
        return found[0] if len(found) == 1 else ("", 0.0)

    def broken(self, bad: NDArray[np.bool_], say: Callable[[int], str]) -> Iterator[str]:
        """`say` of the first point that is bad, where it is, and how many more are."""
        places = np.flatnonzero(bad)
        if len(places):
            more = f", and at {len(places) - 1} more points" if len(places) > 1 else ""
            yield f"at iteration {_n(self.column('iteration')[places[0]])} {say(int(places[0]))}{more}"


def _own_config(points: _Points) -> Iterator[str]:
    """A run is named after its settings; one of an older grpo-bench, which hashed less, is let be."""
    record = points.record
    if "policy" not in record.hashes or record.numerics_version != NUMERICS_VERSION:
        return
    try:
        own = run_id(validated(RunConfig, points.config), record.hashes)
    except UserError:  # settings that this grpo-bench does not know
        return
    if own != record.run:
        yield f"its settings and hashes are those of {own}, not of {record.run}"


def _counters(points: _Points) -> Iterator[str]:
    """Every counter is there, a number from 0 up, and never falls."""
    for name in RISING:
        yield from _counter(points, name, points.column(name))


def _counter(points: _Points, name: str, value: Floats) -> Iterator[str]:
    yield from points.broken(~np.isfinite(value), lambda at: f"{name} is no number")
    yield from points.broken(value < 0, lambda at: f"{name} is {_n(value[at])}, below 0")
    if name in WHOLE:
        part = np.isfinite(value) & (value != np.floor(value))
        yield from points.broken(part, lambda at: f"{name} is {value[at]:g}, not whole")
    falls = np.concatenate([[False], np.diff(value) < 0])
    yield from points.broken(falls, lambda at: f"{name} falls from {_n(value[at - 1])} to {_n(value[at])}")


def _beginning(points: _Points) -> Iterator[str]:
    """A run measures its base before it trains."""
    for name in ("iteration", *TRAINING, "seconds"):
        value = points.column(name)[0]
        if value != 0:
            yield f"the first point is the untrained base, and its {name} is {_n(value)}, not 0"


def _sums(points: _Points) -> Iterator[str]:
    """nfe = rollout + reference + 3 x train, and seconds are those of the phases that are clocked."""
    nfe, rollout, reference, train = map(points.column, ("nfe", "rollout_nfe", "reference_nfe", "train_nfe"))
    total = rollout + reference + TRAIN_WEIGHT * train
    yield from points.broken(
        nfe != total,
        lambda at: (
            f"nfe is {_n(nfe[at])}, and rollout {_n(rollout[at])} + reference {_n(reference[at])} + "
            f"{TRAIN_WEIGHT} x train {_n(train[at])} make {_n(total[at])}"
        ),
    )
    seconds = points.column("seconds")
    phases = np.sum([points.column(f"{phase}_seconds") for phase in CLOCKED_PHASES], axis=0)
    yield from points.broken(
        ~np.isclose(seconds, phases, rtol=1e-6, atol=1e-6),
        lambda at: f"seconds are {seconds[at]:.6g}, and its phases make {phases[at]:.6g}",
    )


def _iterations(points: _Points) -> Iterator[str]:
    """What iterations come to: images of whole prompts, all of them decoded and scored, and at most so many updates."""
    iteration, images, updates = map(points.column, ("iteration", "images", "updates"))
    calls, nfe, decodes = map(points.column, ("reward_calls", "nfe", "decodes"))
    stands = np.concatenate([[False], (np.diff(iteration) <= 0) | (np.diff(nfe) <= 0)])
    yield from points.broken(
        stands,
        lambda at: f"the point before has iteration {_n(iteration[at - 1])} and nfe {_n(nfe[at - 1])} already",
    )
    yield from points.broken(
        decodes != images, lambda at: f"{_n(images[at])} images were made of {_n(decodes[at])} decodes"
    )
    rewards = len(_weights(points.record))
    if rewards:
        yield from points.broken(
            calls != rewards * images,
            lambda at: f"{rewards} rewards scored {_n(images[at])} images by {_n(calls[at])} calls",
        )
    prompts, most = points.setting("training", "prompts"), points.setting("training", "updates")
    if prompts:
        odd = (images % prompts != 0) | (images < prompts * iteration)
        yield from points.broken(
            odd, lambda at: f"{_n(images[at])} images are none of {prompts:g} prompts an iteration"
        )
    if most:
        yield from points.broken(
            updates > most * iteration, lambda at: f"{_n(updates[at])} updates are more than {most:g} an iteration"
        )


def _grid(points: _Points) -> Iterator[str]:
    """Points lie at the first iteration past each mark of the grid, and on either side of the budget."""
    nfe, iteration = points.column("nfe"), points.column("iteration")
    every = points.setting("evaluation", "every")
    column, amount = points.budget()
    if every == 0 and column == "nfe":
        every = amount / 10
    if every is None or points.count < 2:
        return
    near = _near_the_budget(points)
    if every == 0:
        inside = ~near
        inside[[0, -1]] = False
        yield from points.broken(inside, lambda at: f"nfe {_n(nfe[at])} is neither the base's nor at the budget")
        return
    passed = nfe // every
    idle = np.concatenate([[False], passed[1:] <= passed[:-1]])
    idle[-1] = False
    yield from points.broken(idle & ~near, lambda at: f"nfe {_n(nfe[at])} is past no mark of the grid of {every:,g}")
    length = np.maximum(np.diff(iteration), 1)
    late = nfe[1:] - (passed[:-1] + 1) * every >= UNEVEN * _dearest(nfe, iteration)
    skipped = np.concatenate([[False], late & (length > 1)])
    yield from points.broken(
        skipped,
        lambda at: f"nfe {_n(nfe[at])} is not the first past the mark of {_n((passed[at - 1] + 1) * every)} nfe",
    )


def _near_the_budget(points: _Points) -> NDArray[np.bool_]:
    """Which points may lie on the near side of the budget: from there an iteration may pass it."""
    column, amount = points.budget()
    if not column:
        return np.zeros(points.count, dtype=bool)
    spent = points.column(column)
    return np.asarray(amount - spent <= UNEVEN * _dearest(spent, points.column("iteration")))


def _end(points: _Points) -> Iterator[str]:
    """A run that is done has spent its budget, up to an iteration."""
    column, amount = points.budget()
    if points.record.status != "done" or not column or not amount:
        return
    spent = points.column(column)
    if not abs(amount - spent[-1]) <= UNEVEN * _dearest(spent, points.column("iteration")):
        yield f"it is done with a budget of {amount:,g} {column}, and its last point has spent {_n(spent[-1])}"


def _dearest(spent: Floats, iteration: Floats) -> float:
    """The most that an iteration cost in the mean of a stretch between two points; 0 where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.diff(spent) / np.diff(iteration)
    return float(np.max(each[np.isfinite(each)], initial=0.0))


def _scores(points: _Points) -> Iterator[str]:
    """proxy is the reward that was trained on, or the weighted sum of several; gold is the judge's."""
    weights = _weights(points.record)
    parts = [weight * points.column(f"reward/{name}") for name, weight in weights.items()]
    trained = " + ".join(f"{weight:g} x {name}" if weight != 1 else name for name, weight in weights.items())
    yield from _equal(points, "proxy", np.sum(parts, axis=0) if parts else points.column(""), trained)
    judge = _gold(points)
    if points.record.gold_is_proxy:
        yield from _equal(points, "gold", points.column("proxy"), "the proxy")
    elif judge:
        yield from _equal(points, "gold", points.column(f"reward/{judge}"), judge)


def _equal(points: _Points, name: str, wanted: Floats, called: str) -> Iterator[str]:
    have = points.column(name)
    yield from points.broken(
        ~np.isclose(have, wanted, rtol=1e-9, atol=1e-12),
        lambda at: f"{name} is {have[at]:.6g}, and {called} is {wanted[at]:.6g}",
    )


def _shares(points: _Points) -> Iterator[str]:
    """A share of groups or of edges lies in 0 to 1."""
    for name in points.names():
        if name.startswith(("zero_spread", "clipped")):
            yield from _share(points, name, points.column(name))


def _by_prompt(points: _Points) -> Iterator[str]:
    """What the prompts scored under the first noise has each point's own score as its mean."""
    if points.prompt_scores is None:
        if points.record.status == "done" and points.record.rules_version >= BY_PROMPT_SINCE:
            yield "it is done and has no prompts' scores, which every run of its rules version stores"
        return
    scores = points.prompt_scores.to_pandas()
    first = scores[scores["noise"] == 0].groupby("iteration").mean()
    for name in (column for column in map(str, first.columns) if f"reward/{column}" in points.names()):
        mean = first[name].reindex(points.column("iteration")).to_numpy(np.float64)
        yield from _mean_of_prompts(points, f"reward/{name}", points.column(f"reward/{name}"), mean)


def _mean_of_prompts(points: _Points, name: str, have: Floats, mean: Floats) -> Iterator[str]:
    # Single precision, in which prompts' scores are stored.
    yield from points.broken(
        ~np.isclose(have, mean, rtol=1e-5, atol=1e-6),
        lambda at: f"{name} is {have[at]:.6g}, and its prompts' scores have the mean {mean[at]:.6g}",
    )


def _share(points: _Points, name: str, value: Floats) -> Iterator[str]:
    yield from points.broken(
        np.isfinite(value) & ((value < 0) | (value > 1)), lambda at: f"{name} is {value[at]:.6g}, no share of 1"
    )


def _ranges(points: _Points, ranges: Ranges) -> Iterator[str]:
    """Every score is one that its reward can give."""
    for name in filter(_is_reward, points.names()):
        within = ranges.known.get(name.removeprefix("reward/"))
        if within is not None:
            yield from _within(points, name, points.column(name), within)


def _within(points: _Points, name: str, value: Floats, within: tuple[float, float]) -> Iterator[str]:
    yield from points.broken(
        np.isfinite(value) & ~in_range(value, within),
        lambda at: f"{name} is {value[at]:.6g}, outside the reward's range of {within[0]:g} to {within[1]:g}",
    )


def _weights(record: RunRecord) -> dict[str, float]:
    try:
        return parse_rewards(record.reward)
    except UserError:
        return {}


def _gold(points: _Points) -> str:
    """The reward that is the workload's judge, where the workload is known here."""
    try:
        return WORKLOADS.get(points.record.workload).gold
    except UserError:
        return ""


def _declared(name: str) -> tuple[float, float] | None:
    try:
        return REWARDS.get(name).range
    except (UserError, AttributeError):
        return None


def _is_reward(column: object) -> bool:
    return str(column).startswith("reward/")


def _n(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) and value == np.floor(value) else f"{value:g}"
