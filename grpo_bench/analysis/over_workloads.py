"""One number over several workloads: the plain mean of their differences, for these workloads only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from grpo_bench.analysis.statistics import LEVEL
from grpo_bench.analysis.twoway import FloatArray, TwoWay
from grpo_bench.errors import UserError


@dataclass(frozen=True)
class Scale:
    """What a workload's gold is measured between."""

    base: float
    """The untrained model's."""
    ceiling: float
    """Of training pictures sent through the VAE."""

    def share(self, gain: float) -> float:
        """A gain, or a difference of gains, as a share of the way from base to ceiling."""
        if not self.ceiling > self.base:
            raise UserError(
                f"a workload's ceiling {self.ceiling:g} must be above its base {self.base:g}: measure both again"
            )
        return gain / (self.ceiling - self.base)


@dataclass(frozen=True)
class Aggregate:
    """A mean difference over workloads, in shares of the way from base to ceiling; these workloads only."""

    mean: float
    standard_error: float
    df: float
    low: float
    high: float
    p: float
    """Two-sided, that the mean difference is 0."""
    shares: dict[str, float]
    """Each workload's own."""


def over_workloads(
    differences: Mapping[str, TwoWay], scales: Mapping[str, Scale], workloads: Sequence[str]
) -> Aggregate:
    """The plain mean of one contrast's differences over `workloads`, with a Welch t interval.

    Each difference is in its own workload's units, and counts the same. The workloads are these and no sample of
    others, so that only the differences' own errors count: s.e.^2 = sum of s.e._w^2 / W^2, with
    (sum s.e._w^2)^2 / sum (s.e._w^4 / df_w) degrees of freedom (B. L. Welch (1947), Biometrika 34; F. E. Satterthwaite
    (1946), Biometrics Bulletin 2).
    nan where a workload has no interval. Raises `UserError` naming a workload that is missing, or below two.
    """
    _check(differences, scales, workloads)
    count = len(workloads)
    share_W = {name: scales[name].share(differences[name].mean) for name in workloads}
    variance_W = np.array([scales[name].share(differences[name].standard_error) ** 2 for name in workloads])
    mean = math.fsum(share_W.values()) / count
    error = math.sqrt(variance_W.sum()) / count
    if error == 0:  # no difference anywhere, on any seed or prompt
        return Aggregate(mean, 0.0, math.nan, mean, mean, 1.0 if mean == 0 else math.nan, share_W)
    df = float(welch_df(variance_W, np.array([differences[name].df for name in workloads])))
    half = float(special.stdtrit(df, (1 + LEVEL) / 2)) * error
    p = 2 * float(special.stdtr(df, -abs(mean) / error))
    return Aggregate(mean, error, df, mean - half, mean + half, p, share_W)


def welch_df(variance_XW: FloatArray, df_XW: FloatArray) -> FloatArray:
    """(...) degrees of freedom of a sum of W independent means, from the variance of each and its own."""
    return np.asarray(variance_XW.sum(axis=-1) ** 2 / (variance_XW**2 / df_XW).sum(axis=-1))


def _check(differences: Mapping[str, TwoWay], scales: Mapping[str, Scale], workloads: Sequence[str]) -> None:
    if len(workloads) < 2 or len(set(workloads)) != len(workloads):
        raise UserError(f"a mean over workloads has at least two, each named once, not {list(workloads)}")
    for what, known in (("difference", differences), ("base and ceiling", scales)):
        missing = [name for name in workloads if name not in known]
        if missing:
            raise UserError(
                f"a mean over workloads has a {what} of each of them, and {', '.join(missing)} has none: sweep it, or "
                "read each workload by itself"
            )
