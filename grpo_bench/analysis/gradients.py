"""How good a method's gradient is for what it costs, from inner products alone (docs/diagnostics.md).

g_k is a method's estimate in iteration k, h_j the deployed objective's gradient on a batch of prompts. With S and H the
mean products of different g's and of different h's, T = mean |g|^2, N = T - S, A = mean <g, h>, and n iterations for
`BUDGET` evaluations:

    q = A / sqrt(H (S + N / n))      the cosine of the true gradient with a mean of n estimates
    b = A / sqrt(S H)                the cosine of the two means; below 1 the estimate is biased
    snr = 1000 S / (N NFE)           signal to noise for 1,000 evaluations

Standard errors: the jackknife over estimates and the one over targets, variances added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BUDGET = 16_000
"""Evaluations that q is the quality of."""
SIGNIFICANT = 2.0
"""Standard errors that S must exceed for b to be given."""
FEWEST_VECTORS = 3
"""With one left out there must be two, whose product is of different vectors."""
FEWEST, MOST_NFE, ENOUGH = 8, 160_000, 0.02
"""The stopping rule: at least so many iterations; then until q's standard error is small enough or so much is spent."""


@dataclass(frozen=True)
class Products:
    """Inner products of K estimates and J targets, and what an iteration costs.

    gg_KK: of estimates with each other; gh_KJ: with targets; hh_JJ: of targets; nfe: evaluations an iteration
    (rollout + reference + 3 x train), the mean over the K.
    """

    gg_KK: Floats
    gh_KJ: Floats
    hh_JJ: Floats
    nfe: float


@dataclass(frozen=True)
class Measured:
    """A figure and its standard error; NaN where there is none."""

    value: float
    error: float


NOTHING = Measured(math.nan, math.nan)


@dataclass(frozen=True)
class Quality:
    """What the products say: K iterations of `nfe` evaluations each; q, b and snr as above, signal S and noise N."""

    iterations: int
    nfe: float
    q: Measured
    b: Measured
    snr: Measured
    signal: Measured
    noise: float


@dataclass(frozen=True)
class _Moments:
    """A, S, H and T, as numbers or with one estimate or target left out in turn."""

    a: Floats
    s: Floats
    h: Floats
    t: Floats

    def q(self, n: float) -> Floats:
        return _over(self.a, self.h * (self.s + (self.t - self.s) / n))

    def b(self) -> Floats:
        return _over(self.a, self.s * self.h)

    def snr(self, nfe: float) -> Floats:
        return _to_noise(self.s, self.t, nfe)


def quality(products: Products) -> Quality:
    """The figures of a label's products; NaN where a root or a ratio does not exist, or K or J is below 3."""
    gg_KK, gh_KJ, hh_JJ, nfe = products.gg_KK, products.gh_KJ, products.hh_JJ, products.nfe
    count = len(gg_KK)
    if count < FEWEST_VECTORS or len(hh_JJ) < FEWEST_VECTORS or not nfe:
        return Quality(count, nfe, NOTHING, NOTHING, NOTHING, NOTHING, math.nan)
    n = BUDGET / nfe
    apart, square = _products_of(gg_KK)
    whole = _Moments(
        np.array([gh_KJ.mean()]), np.array([apart]), np.array([_products_of(hh_JJ)[0]]), np.array([square])
    )
    fewer_g = _without_estimates(gg_KK, gh_KJ, whole.h)
    fewer_h = _without_targets(hh_JJ, gh_KJ, whole)
    signal = Measured(float(whole.s[0]), jackknife(fewer_g.s))
    biased = signal.value > SIGNIFICANT * signal.error
    return Quality(
        iterations=count,
        nfe=nfe,
        q=_measured(whole.q(n), fewer_g.q(n), fewer_h.q(n)),
        b=_measured(whole.b(), fewer_g.b(), fewer_h.b()) if biased else NOTHING,
        snr=_measured(whole.snr(nfe), fewer_g.snr(nfe)),
        signal=signal,
        noise=float(whole.t[0] - whole.s[0]),
    )


def enough(found: Quality) -> bool:
    """The stopping rule."""
    if found.iterations < FEWEST:
        return False
    return found.q.error <= ENOUGH or found.iterations * found.nfe >= MOST_NFE


def own_target_snr(ge_K: Sequence[float], ee_K: Sequence[float], gg_K: Sequence[float], nfe: float) -> Measured:
    """1000 signal / (noise NFE) against each iteration's exact target e_k, where that is known.

    g_k = a e_k + noise with a = sum <g, e> / sum |e|^2; signal is a^2 mean |e|^2, noise the mean of |g_k - a e_k|^2.

    Args:
        ge_K: <g_k, e_k>.
        ee_K: |e_k|^2.
        gg_K: |g_k|^2.
        nfe: evaluations an iteration.
    """
    ge, ee, gg = (np.asarray(values, dtype=np.float64) for values in (ge_K, ee_K, gg_K))
    if len(ge) < 2:
        return NOTHING

    def snr(product: Floats, target: Floats, size: Floats) -> Floats:
        return _to_noise(product**2 / target, size, nfe)

    whole = snr(*(np.array([values.sum()]) for values in (ge, ee, gg)))
    return _measured(whole, snr(ge.sum() - ge, ee.sum() - ee, gg.sum() - gg))


def _to_noise(signal: Floats, size: Floats, nfe: float) -> Floats:
    """1000 signal / ((size - signal) nfe), NaN where there is no noise."""
    noise = size - signal
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(noise > 0, 1000 * signal / (noise * nfe), np.nan), dtype=np.float64)


def _over(a: Floats, square: Floats) -> Floats:
    """a / sqrt(square), NaN where there is no root."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(square > 0, a / np.sqrt(square), np.nan), dtype=np.float64)


def _products_of(gram: Floats) -> tuple[float, float]:
    """(mean product of different vectors, mean square)."""
    count, squares = len(gram), float(np.trace(gram))
    return (float(gram.sum()) - squares) / (count * (count - 1)), squares / count


def _each_left_out(gram: Floats) -> tuple[Floats, Floats]:
    """`_products_of` with each vector left out in turn; NaN where none is left."""
    left, diagonal = len(gram) - 1, np.diag(gram)
    squares = diagonal.sum() - diagonal
    total = gram.sum() - 2 * gram.sum(1) + diagonal
    with np.errstate(divide="ignore", invalid="ignore"):
        return (total - squares) / (left * (left - 1)), squares / left


def _without_estimates(gg_KK: Floats, gh_KJ: Floats, h: Floats) -> _Moments:
    s_K, t_K = _each_left_out(gg_KK)
    row_K = gh_KJ.mean(1)
    return _Moments((row_K.sum() - row_K) / (len(row_K) - 1), s_K, h, t_K)


def _without_targets(hh_JJ: Floats, gh_KJ: Floats, whole: _Moments) -> _Moments:
    h_J, _ = _each_left_out(hh_JJ)
    column_J = gh_KJ.mean(0)
    return _Moments((column_J.sum() - column_J) / (len(column_J) - 1), whole.s, h_J, whole.t)


def jackknife(left_out: Floats) -> float:
    """The standard error: sqrt((m - 1) / m sum (x_i - mean)^2) over the m values with one left out."""
    count = len(left_out)
    return float(np.sqrt((count - 1) / count * np.square(left_out - left_out.mean()).sum()))


def _measured(whole: Floats, *left_out: Floats) -> Measured:
    return Measured(float(whole[0]), math.hypot(*(jackknife(each) for each in left_out)))
