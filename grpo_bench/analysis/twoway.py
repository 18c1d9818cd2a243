"""A difference between two labels, whose interval holds other training seeds and other prompts.

The model: d[s, p] = truth + seed_s + prompt_p + error_sp, all independent. Evaluation noise is nested in prompts (all
seeds meet the same), so that it is a part of prompt_p; images and noises are averaged before they come here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from grpo_bench.analysis.statistics import LEVEL, Estimate, t_interval
from grpo_bench.errors import UserError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class MeanSquares:
    """The two-way table of (..., S, P) differences; each field has the leading shape (...)."""

    mean: FloatArray
    seeds: FloatArray
    """P times the variance of the seeds' means; expected P var(seed) + var(error)."""
    prompts: FloatArray
    """S times the variance of the prompts' means; expected S var(prompt) + var(error)."""
    error: FloatArray
    """What neither explains, over (S - 1)(P - 1); expected var(error)."""


@dataclass(frozen=True)
class TwoWay:
    """A mean difference with a two-sided 95% interval; nan where there is none (`two_way` says when)."""

    mean: float
    variance: float
    """Of the mean, over other seeds and other prompts."""
    df: float
    low: float
    high: float
    p: float
    """Two-sided, that the truth is 0; not yet corrected (`statistics.holm`)."""
    seeds: int
    prompts: int
    plain: Estimate
    """The t interval over seeds of prompt means: these prompts, this noise."""
    plain_p: float

    @property
    def standard_error(self) -> float:
        """The square root of `variance`."""
        return math.sqrt(self.variance)

    def equivalence_p(self, margin: float) -> float:
        """The larger p of two one-sided tests that the truth is at most -margin, or at least +margin.

        Below 0.05 the truth lies within the margin (not yet corrected for several contrasts). D. J. Schuirmann (1987),
        J. Pharmacokinetics and Biopharmaceutics 15. nan without an interval. Raises `UserError` if the margin is not
        above 0.
        """
        if not margin > 0 or not math.isfinite(margin):
            raise UserError(f"a margin of equivalence is a finite number above 0, not {margin:g}: freeze one first")
        if self.variance == 0:
            return float(abs(self.mean) >= margin)
        above = special.stdtr(self.df, -(self.mean + margin) / self.standard_error)
        below = special.stdtr(self.df, (self.mean - margin) / self.standard_error)
        return float(np.maximum(above, below))


def two_way(difference_SP: ArrayLike) -> TwoWay:
    """The mean of (S seeds, P prompts) differences, method less baseline, as `TwoWay`.

    mean +- t(df, 0.975) sqrt(V), with V and df from `variance`. One seed has a mean and nothing else. Where every
    difference is 0, the interval is [0, 0] and p is 1. Where all are equal but not 0, there is no test: interval and p
    are nan, as in `statistics.paired`. Raises `UserError` if a value is not finite or there are fewer than two prompts.
    """
    difference_SP = _table(difference_SP)
    seeds, prompts = difference_SP.shape
    seed_S = difference_SP.mean(axis=1)
    if seeds == 1:
        nothing = math.nan
        return TwoWay(
            float(seed_S[0]), nothing, nothing, nothing, nothing, nothing, 1, prompts, t_interval(seed_S), nothing
        )
    if _constant(difference_SP):
        return _without_spread(float(difference_SP[0, 0]), seeds, prompts)
    squares = mean_squares(difference_SP)
    v, df = (float(one) for one in variance(squares, seeds, prompts))
    mean = float(squares.mean)
    half = float(special.stdtrit(df, (1 + LEVEL) / 2)) * math.sqrt(v)
    plain, plain_p = _plain(seed_S)
    return TwoWay(
        mean=mean,
        variance=v,
        df=df,
        low=mean - half,
        high=mean + half,
        p=_two_sided(mean, v, df),
        seeds=seeds,
        prompts=prompts,
        plain=plain,
        plain_p=plain_p,
    )


def mean_squares(difference_XSP: FloatArray) -> MeanSquares:
    """The two-way table of each (S, P) slice, without replication. R. A. Fisher (1925), Statistical methods."""
    seeds, prompts = difference_XSP.shape[-2:]
    seed_XS = difference_XSP.mean(axis=-1)
    prompt_XP = difference_XSP.mean(axis=-2)
    mean_X = seed_XS.mean(axis=-1)
    rest_XSP = difference_XSP - seed_XS[..., :, None] - prompt_XP[..., None, :] + mean_X[..., None, None]
    return MeanSquares(
        mean=mean_X,
        seeds=prompts * seed_XS.var(axis=-1, ddof=1),
        prompts=seeds * prompt_XP.var(axis=-1, ddof=1),
        error=np.square(rest_XSP).sum(axis=(-2, -1)) / ((seeds - 1) * (prompts - 1)),
    )


def variance(squares: MeanSquares, seeds: int, prompts: int) -> tuple[FloatArray, FloatArray]:
    """(...) the variance V of the mean, and its degrees of freedom.

    V = max(MS_seeds + MS_prompts - MS_error, MS_seeds, MS_prompts) / (S P): the first is unbiased, and the maximum
    keeps V from falling below either one-way variance (MacKinnon, Nielsen and Webb, arXiv 2406.08880). The degrees of
    freedom are those of the combination that V is: S - 1 or P - 1 of a single mean square, else
    (sum of a_i MS_i)^2 / sum of (a_i MS_i)^2 / df_i over all three (F. E. Satterthwaite (1946), Biometrics Bulletin 2;
    with a negative a_i: D. W. Gaylor and F. N. Hopper (1969), Technometrics 11). At least min(S, P) - 1, since the
    subtraction only makes them too few; that is S - 1 wherever prompts are as many as seeds.
    """
    both = squares.seeds + squares.prompts - squares.error
    largest = np.maximum(both, np.maximum(squares.seeds, squares.prompts))
    denominator = (
        squares.seeds**2 / (seeds - 1)
        + squares.prompts**2 / (prompts - 1)
        + squares.error**2 / ((seeds - 1) * (prompts - 1))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        combined = both**2 / denominator
    df = np.select([both >= largest, squares.seeds >= largest], [combined, seeds - 1.0], prompts - 1.0)
    return largest / (seeds * prompts), np.maximum(df, min(seeds, prompts) - 1.0)


def with_base(score_SP: ArrayLike, diverged_S: ArrayLike, base_SP: ArrayLike) -> FloatArray:
    """(S, P) scores in which each diverged seed has the untrained base's scores: it bought nothing, and it counts.

    `base_SP` is (S, P), or (P,) where all seeds start from the same. Raises `UserError` if the shapes do not fit.
    """
    score_SP = np.asarray(score_SP, dtype=np.float64)
    diverged_S = np.asarray(diverged_S, dtype=np.bool_)
    base_SP = np.asarray(base_SP, dtype=np.float64)
    if score_SP.ndim != 2 or diverged_S.shape != score_SP.shape[:1]:
        raise UserError(
            f"scores are a table of seeds by prompts with one flag a seed, not {score_SP.shape} with "
            f"{diverged_S.shape}: give (S, P) and (S,)"
        )
    if base_SP.shape not in (score_SP.shape, score_SP.shape[1:]):
        raise UserError(
            f"the base has a score for each prompt (or each seed and prompt), and {base_SP.shape} does not fit scores "
            f"of {score_SP.shape}: evaluate it on the same prompts"
        )
    return np.asarray(np.where(diverged_S[:, None], base_SP, score_SP), dtype=np.float64)


def _table(difference_SP: ArrayLike) -> FloatArray:
    """The differences as an array, if an interval over seeds and prompts can come of them."""
    difference_SP = np.asarray(difference_SP, dtype=np.float64)
    if difference_SP.ndim != 2 or difference_SP.shape[0] < 1 or difference_SP.shape[1] < 2:
        raise UserError(
            "an interval over seeds and prompts needs a table of seeds by at least two prompts, not one of shape "
            f"{difference_SP.shape}: store the scores of each prompt"
        )
    bad = np.flatnonzero(~np.isfinite(difference_SP).all(axis=1))
    if len(bad):
        raise UserError(
            f"every difference is a finite number, and row {bad[0]} of {len(difference_SP)} seeds has one that is not: "
            "a diverged seed enters with the base's scores (`with_base`)"
        )
    return difference_SP


def _constant(values: FloatArray) -> bool:
    """Whether the values vary by no more than rounding does."""
    scale = float(np.abs(values).max())
    return float(np.ptp(values)) <= 10 * float(np.finfo(np.float64).eps) * scale


def _plain(seed_S: FloatArray) -> tuple[Estimate, float]:
    """The t interval over seeds and its p; seeds that are all equal have neither, unless they are 0."""
    if _constant(seed_S):
        value = float(seed_S[0])
        bound, p = (0.0, 1.0) if value == 0 else (math.nan, math.nan)
        return Estimate(value, bound, bound, len(seed_S)), p
    return t_interval(seed_S), _two_sided(
        float(seed_S.mean()), float(seed_S.var(ddof=1)) / len(seed_S), len(seed_S) - 1
    )


def _without_spread(value: float, seeds: int, prompts: int) -> TwoWay:
    bound, p, v = (0.0, 1.0, 0.0) if value == 0 else (math.nan, math.nan, math.nan)
    plain = Estimate(value, bound, bound, seeds)
    return TwoWay(value, v, min(seeds, prompts) - 1.0, bound, bound, p, seeds, prompts, plain, p)


def _two_sided(mean: float, v: float, df: float) -> float:
    """P(|T| >= |mean| / sqrt(v))."""
    return 2 * float(special.stdtr(df, -abs(mean) / math.sqrt(v)))
