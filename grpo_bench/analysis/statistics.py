"""Intervals, paired differences, corrected p values and aggregates over workloads, computed by scipy.

Everything here takes one number a seed. A value that is not finite makes its result nan; nothing is left out silently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from grpo_bench.errors import UserError

FloatArray = NDArray[np.float64]

LEVEL = 0.95
EXACT_UP_TO = 13
"""Up to this many seeds all 2^n permutations are enumerated; beyond, `PERMUTATIONS` are drawn with a fixed seed."""
PERMUTATIONS = 9999
FEWEST_WORKLOADS, FEWEST_SEEDS = 4, 10
"""What an aggregate over workloads needs before it is worth an interval."""


@dataclass(frozen=True)
class Estimate:
    """A number from `n` values with its two-sided interval; `low` and `high` are nan where there is none."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Paired:
    """A method against its baseline, seed by seed."""

    difference: Estimate
    """Mean of (value - baseline) with its unadjusted 95% t interval."""
    bonferroni: tuple[float, float]
    """The t interval at 1 - 0.05 / family: all intervals of the family hold together with at least 95%."""
    correlation: float
    """Pearson's, between the two over seeds: what the pairing bought. nan below three seeds or without spread."""
    p: float
    """Of the two-sided paired t-test, not yet corrected (`holm`)."""
    permutation_p: float
    """Of the two-sided sign-flip test on the mean difference."""
    permutation_floor: float
    """The smallest value `permutation_p` can take with so many seeds."""


class Statistic(Protocol):
    """A mean-like function of an array along an axis, as `np.mean` or `interquartile_mean`."""

    def __call__(self, values: FloatArray, /, axis: int) -> FloatArray:
        """`values` (..., n) reduced along `axis`."""
        ...


def t_interval(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """Mean and t interval of independent values, one a seed: mean +- t(n - 1, (1 + level) / 2) s / sqrt(n).

    (n,) values, in any unit. Student (1908), Biometrika 6. Below two values there is no interval.
    """
    values_N = _numbers(values)
    n = len(values_N)
    if n == 0 or not np.isfinite(values_N).all():
        return Estimate(math.nan, math.nan, math.nan, n)
    mean = float(values_N.mean())
    if n == 1:
        return Estimate(mean, math.nan, math.nan, n)
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * _standard_error(values_N)
    return Estimate(mean, mean - half, mean + half, n)


def paired(values: ArrayLike, baseline: ArrayLike, *, family: int = 1) -> Paired:
    """The seed-wise differences of two methods, `values` and `baseline` (n,), in the same order of seeds.

    `family` is the number of contrasts declared together. Differences that are all zero have p = 1. Differences that
    are equal but not zero have no t-test: p is nan (R's t.test refuses such "essentially constant" data), or two seeds
    would make it zero. Raises `UserError` if the two are not equally long or the family is empty.
    """
    values_N, baseline_N = _numbers(values), _numbers(baseline)
    if len(values_N) != len(baseline_N):
        raise UserError(
            f"a paired difference needs both methods' value of each seed, and got {len(values_N)} against "
            f"{len(baseline_N)}: keep the seeds that both have"
        )
    if family < 1:
        raise UserError(f"a family of contrasts has at least one member, not {family}")
    if not (np.isfinite(values_N).all() and np.isfinite(baseline_N).all()):
        nothing = math.nan
        return Paired(t_interval([nothing] * len(values_N)), (nothing, nothing), nothing, nothing, nothing, nothing)
    difference_N = values_N - baseline_N
    corrected = t_interval(difference_N, 1 - (1 - LEVEL) / family)
    permutation_p, floor = _permutation(values_N, baseline_N)
    return Paired(
        difference=t_interval(difference_N),
        bonferroni=(corrected.low, corrected.high),
        correlation=_correlation(values_N, baseline_N),
        p=_paired_t(values_N, baseline_N),
        permutation_p=permutation_p,
        permutation_floor=floor,
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given: max over j <= i of (m - j + 1) p_(j), at most 1.

    S. Holm (1979), A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6. A nan stays nan and
    still counts in m: a contrast that could not be tested was declared all the same.
    """
    p_M = np.asarray(p, dtype=np.float64)
    order = np.argsort(p_M)  # nan last
    steps_M = len(p_M) - np.arange(len(p_M))
    adjusted_M = np.empty_like(p_M)
    adjusted_M[order] = np.minimum(np.maximum.accumulate(p_M[order] * steps_M), 1)
    return [float(one) for one in adjusted_M]


def sign_flip(difference_N: ArrayLike) -> tuple[float, float]:
    """p of the two-sided sign-flip test that (n,) differences, one a seed, are symmetric about 0; and its floor."""
    difference_N = _numbers(difference_N)
    return _permutation(difference_N, np.zeros_like(difference_N))


def permutation_floor(seeds: int) -> float:
    """The least a two-sided sign-flip p can be with so many seeds: 2 / 2^n, or 2 / (draws + 1) where some are drawn."""
    return 2 / 2**seeds if seeds <= EXACT_UP_TO else 2 / (PERMUTATIONS + 1)


@overload
def interquartile_mean(values: ArrayLike, /) -> float: ...
@overload
def interquartile_mean(values: ArrayLike, /, axis: int) -> FloatArray: ...
def interquartile_mean(values: ArrayLike, /, axis: int | None = None) -> float | FloatArray:
    """The mean of the middle half: floor(n / 4) values are dropped at either end (of all values, or along `axis`).

    Agarwal et al. (2021), Deep reinforcement learning at the edge of the statistical precipice, arXiv 2108.13264.
    """
    values = np.asarray(values, dtype=np.float64)
    trimmed = np.asarray(stats.trim_mean(values, 0.25, axis=axis), dtype=np.float64)
    return float(trimmed) if axis is None else trimmed


def stratified_bootstrap(
    scores: Sequence[FloatArray], statistic: Statistic, *, resamples: int = 2000, seed: int = 0, level: float = LEVEL
) -> Estimate:
    """`statistic` of all scores together, with a percentile interval from resampling seeds within each workload.

    `scores` has one array (seeds,) a workload, in units that may be averaged over workloads. Efron and Tibshirani
    (1993), An introduction to the bootstrap, chapter 13 (percentile interval); Agarwal et al. (2021) (strata). Raises
    `UserError` below four workloads or ten seeds, where the interval covers far less than it says.
    """
    _check_strata(scores)

    def together(*strata: FloatArray, axis: int) -> FloatArray:
        return statistic(np.concatenate(strata, axis=axis), axis=axis)

    strata = [np.asarray(one, dtype=np.float64) for one in scores]
    pooled = np.concatenate(strata)
    if not np.isfinite(pooled).all():
        return Estimate(math.nan, math.nan, math.nan, len(pooled))
    found = stats.bootstrap(
        strata,
        together,
        n_resamples=resamples,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(statistic(pooled, axis=0)), float(found.low), float(found.high), len(pooled))


def _numbers(values: ArrayLike) -> FloatArray:
    """`values` as (n,) floats."""
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1:
        raise UserError(f"a statistic over seeds takes one number a seed, not an array of shape {values_N.shape}")
    return values_N


def _standard_error(values_N: FloatArray) -> float:
    return float(values_N.std(ddof=1)) / math.sqrt(len(values_N))


def _constant(difference_N: FloatArray, values_N: FloatArray, baseline_N: FloatArray) -> bool:
    """Whether the differences vary by no more than rounding does (the rule of R's t.test)."""
    scale = max(abs(float(values_N.mean())), abs(float(baseline_N.mean())))
    return _standard_error(difference_N) <= 10 * float(np.finfo(np.float64).eps) * scale


def _paired_t(values_N: FloatArray, baseline_N: FloatArray) -> float:
    if len(values_N) < 2:
        return math.nan
    difference_N = values_N - baseline_N
    if not difference_N.any():
        return 1.0
    if _constant(difference_N, values_N, baseline_N):
        return math.nan
    return float(stats.ttest_rel(values_N, baseline_N).pvalue)


def _correlation(values_N: FloatArray, baseline_N: FloatArray) -> float:
    if len(values_N) < 3 or not np.ptp(values_N) or not np.ptp(baseline_N):
        return math.nan
    return float(np.corrcoef(values_N, baseline_N)[0, 1])


def _permutation(values_N: FloatArray, baseline_N: FloatArray) -> tuple[float, float]:
    """p of the sign-flip test and the least it can be: 2 / 2^n, or 2 / (draws + 1) where permutations are drawn.

    R. A. Fisher (1935), The design of experiments. Exchanging the two values of a seed flips its difference.
    """
    n = len(values_N)
    if n < 2:
        return math.nan, math.nan
    exact = n <= EXACT_UP_TO

    def mean_difference(first: FloatArray, second: FloatArray, axis: int) -> FloatArray:
        return np.asarray(np.mean(first - second, axis=axis), dtype=np.float64)

    found = stats.permutation_test(
        (values_N, baseline_N),
        mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**n if exact else PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue), permutation_floor(n)


def _check_strata(scores: Sequence[FloatArray]) -> None:
    """Refuses what is too little for an aggregate over workloads."""
    if len(scores) < FEWEST_WORKLOADS:
        raise UserError(
            f"an aggregate over workloads needs at least {FEWEST_WORKLOADS} of them, not {len(scores)}: "
            "read each workload by itself"
        )
    fewest = min(len(one) for one in scores)
    if fewest < FEWEST_SEEDS:
        raise UserError(
            f"an aggregate over workloads needs at least {FEWEST_SEEDS} seeds on each, and one has {fewest}: "
            "run more seeds, or read each workload by itself"
        )
