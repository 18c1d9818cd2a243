"""The tuning rule: which factors of a positive setting are still to be tried, and which factor the trials choose.

A factor multiplies a workload's own learning rate, or any other positive setting (a clip). One rule for every label:
factors 1/3, 1, 3; an edge that is best is extended by a factor 3, at most twice, until the best has a neighbour on
either side; then the vertex of the parabola through the three. Reporting seeds and prompts never come here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grpo_bench.errors import UserError

STEP = 3.0
"""Two neighbouring factors' ratio."""
FIRST = (-1, 0, 1)
"""The first three factors, in steps from the workload's own rate."""
EXTENSIONS = 2
"""How many factors may be tried beyond the first three."""

Gain = float | Literal["diverged"]


@dataclass(frozen=True)
class Trial:
    """One run that was made to choose a factor. For the proxy's choice, `gain` is the proxy's."""

    factor: float
    seed: int
    gain: Gain


@dataclass(frozen=True)
class Choice:
    """What the trials choose."""

    factor: float | None
    """Times the workload's own rate; None where every factor diverged."""
    best: float | None
    """The factor, among those tried, with the highest mean gain."""
    bracketed: bool
    """Whether a verdict may rest on it: the best factor has a neighbour on either side."""
    reason: str
    """One sentence: how it was chosen, or why no verdict may rest on it."""


def next_factors(trials: Iterable[Trial], seeds: Sequence[int]) -> tuple[float, ...]:
    """The factors, ascending, that still lack a trial of some of `seeds`; none when the choice can be made.

    First the three, then one at a time beyond an edge that is best. Where all of the first three diverged there is
    nothing to extend. Raises `UserError` for trials that this rule would not have made.
    """
    by_step = _by_step(trials, seeds)
    started = sorted({*FIRST, *by_step})
    lacking = [k for k in started if set(by_step.get(k, {})) < set(seeds)]
    if lacking:
        return tuple(_factor(k) for k in lacking)
    _check_complete(by_step, seeds)
    mean = _means(by_step)
    best = _best(mean)
    if best is None or not _at_edge(best, mean) or len(mean) - len(FIRST) >= EXTENSIONS:
        return ()
    return (_factor(best + 1 if best == max(mean) else best - 1),)


def choose(trials: Iterable[Trial], seeds: Sequence[int]) -> Choice:
    """The factor that the trials choose by their mean gain over `seeds`.

    The vertex of the parabola in log factor through the best and its two neighbours (R. P. Brent (1973), Algorithms for
    minimization without derivatives, chapter 5: the successive parabolic step); it lies within half a step of the best,
    since neither neighbour is higher. Beside a neighbour that diverged, the best itself. A factor diverged if one of
    its seeds did. Of equal means the factor nearest to 1 is the best, then the lower. Raises `UserError` for a seed
    that a factor lacks, fewer than three factors, one that is given twice, or a gap between them.
    """
    by_step = _by_step(trials, seeds)
    _check_complete(by_step, seeds)
    mean = _means(by_step)
    best = _best(mean)
    if best is None:
        return Choice(None, None, False, "Every factor diverged, so there is no rate and no verdict.")
    factor = _factor(best)
    if _at_edge(best, mean):
        side = "highest" if best == max(mean) else "lowest"
        reason = (
            f"The best factor, {factor:g}, is the {side} that was tried: the rate is not bracketed, and no verdict."
        )
        return Choice(factor, factor, False, reason)
    low, middle, high = mean[best - 1], mean[best], mean[best + 1]
    if math.isinf(low) or math.isinf(high):
        return Choice(factor, factor, True, f"A neighbour of the best factor, {factor:g}, diverged: the best itself.")
    vertex = best + _vertex(low, middle, high)
    reason = f"The vertex of the parabola through the best factor, {factor:g}, and its neighbours."
    return Choice(_factor(vertex), factor, True, reason)


def spread(trials: Iterable[Trial], seeds: Sequence[int]) -> dict[float, float]:
    """The mean gain at each factor, ascending; -inf where a seed diverged: how sensitive the label is to its rate."""
    by_step = _by_step(trials, seeds)
    _check_complete(by_step, seeds)
    return {_factor(k): mean for k, mean in _means(by_step).items()}


def _vertex(low: float, middle: float, high: float) -> float:
    """Where the parabola through (-1, low), (0, middle), (1, high) is highest: in -1/2 to 1/2, as middle is highest."""
    curvature = low - 2 * middle + high
    if curvature == 0:  # all three are equal
        return 0.0
    return min(0.5, max(-0.5, 0.5 * (low - high) / curvature))


def _best(mean: Mapping[int, float]) -> int | None:
    best = max(mean, key=lambda k: (mean[k], -abs(k), -k))
    return None if math.isinf(mean[best]) else best


def _at_edge(k: int, mean: Mapping[int, float]) -> bool:
    return k in (min(mean), max(mean))


def _means(by_step: Mapping[int, Mapping[int, Gain]]) -> dict[int, float]:
    """The mean gain of each step, ascending; -inf where a seed diverged, so that it ranks last."""
    return {k: _mean(list(by_step[k].values())) for k in sorted(by_step)}


def _mean(gains: Sequence[Gain]) -> float:
    numbers = [gain for gain in gains if gain != "diverged"]
    return math.fsum(numbers) / len(numbers) if len(numbers) == len(gains) else -math.inf


def _by_step(trials: Iterable[Trial], seeds: Sequence[int]) -> dict[int, dict[int, Gain]]:
    """Gains by step from the workload's own rate, and seed; refuses what no tuning by this rule has."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"tuning needs at least one seed, each named once, not {list(seeds)}")
    by_step: dict[int, dict[int, Gain]] = {}
    for trial in trials:
        if trial.seed not in seeds:
            raise UserError(f"a trial has one of the tuning seeds {list(seeds)}, not {trial.seed}: leave it out")
        if trial.gain != "diverged" and not math.isfinite(trial.gain):
            raise UserError(
                f"a gain is a finite number, and that of factor {trial.factor:g}, seed {trial.seed} is {trial.gain}: "
                "say 'diverged'"
            )
        own = by_step.setdefault(_step(trial.factor), {})
        if trial.seed in own:
            raise UserError(f"factor {trial.factor:g} has two trials of seed {trial.seed}: keep one")
        own[trial.seed] = trial.gain
    return by_step


def _check_complete(by_step: Mapping[int, Mapping[int, Gain]], seeds: Sequence[int]) -> None:
    """Refuses to choose from trials that are not all there."""
    if len(by_step) < len(FIRST):
        raise UserError(
            f"a rate is chosen from at least {len(FIRST)} factors, and there are {len(by_step)}: finish the trials"
        )
    gaps = set(range(min(by_step), max(by_step))) - set(by_step)
    if gaps:
        raise UserError(
            f"factors have no gap between them, and {_factor(min(gaps)):g} was not tried: finish the trials"
        )
    for k, own in sorted(by_step.items()):
        missing = sorted(set(seeds) - set(own))
        if missing:
            raise UserError(
                f"every factor has a trial of every tuning seed, and {_factor(k):g} lacks {missing}: finish the trials"
            )


def _step(factor: float) -> int:
    """How many steps from 1 a factor is; six digits of it are enough, as suites write 0.333333."""
    if not factor > 0 or not math.isfinite(factor):
        raise UserError(f"a factor is a finite number above 0, not {factor:g}")
    k = round(math.log(factor) / math.log(STEP))
    if not math.isclose(factor, _factor(k), rel_tol=1e-5):
        raise UserError(f"factors are spaced by {STEP:g} from 1, and {factor:g} is none of them: try {_factor(k):g}")
    return k


def _factor(k: float) -> float:
    return float(STEP**k)
