"""A diagnosis's stored products and variances as figures: a label's quality, shares by grid point, ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from grpo_bench.analysis.curve import Curve
from grpo_bench.analysis.gradients import Floats, Measured, Products, Quality, own_target_snr, quality
from grpo_bench.analysis.potential import share
from grpo_bench.store.diagnosis import LabelRecord, PolicyRecord, PotentialRecord

FEWEST_AT_A_WINDOW = 4
"""Iterations that a window needs for figures of its own."""
LEVEL = 0.95


@dataclass(frozen=True)
class LabelFigures:
    """What is known of a label at a policy.

    `windows` are its figures at each set of trained steps, where the set moves. `own_snr` is signal to noise against
    the method's own exact target, NaN where that is not known. share_T and weight_T are means over iterations.
    """

    label: str
    method: str
    whole: Quality
    windows: Mapping[str, Quality]
    own_snr: Measured
    share_T: tuple[float, ...]
    weight_T: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's, over `labels` labels, with a 95% interval; NaN below four labels."""

    labels: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shares:
    """Of each reward's or component's variance, what is decided from a grid point on."""

    sigma: float
    by_reward: Mapping[str, Measured]


def label_figures(policy: PolicyRecord) -> tuple[LabelFigures, ...]:
    """Of each label, in the order in which they were measured."""
    return tuple(_figures(policy, label) for label in policy.labels)


def _figures(policy: PolicyRecord, label: LabelRecord) -> LabelFigures:
    everything = products(policy.hh_JJ, label)
    sizes = np.diag(everything.gg_KK)
    share_KT, weight_KT = np.array(label.share_KT), np.array(label.weight_KT)
    trained_KT = share_KT > 0
    weight_T = weight_KT.sum(0) / np.maximum(trained_KT.sum(0), 1)
    own = own_target_snr(label.ge_K, label.ee_K, sizes.tolist(), everything.nfe) if label.ge_K else None
    return LabelFigures(
        label=label.label,
        method=label.method,
        whole=quality(everything),
        windows=_windows(everything, label, trained_KT),
        own_snr=own or Measured(math.nan, math.nan),
        share_T=tuple(share_KT.mean(0).tolist()),
        weight_T=tuple(weight_T.tolist()),
        seconds=label.seconds,
    )


def products(hh_JJ: Sequence[Sequence[float]], label: LabelRecord) -> Products:
    """The stored triangles as whole matrices, and the mean cost of an iteration."""
    return Products(whole(label.gg_KK), np.array(label.gh_KJ), whole(hh_JJ), float(np.mean(label.nfe_K)))


def whole(triangle: Sequence[Sequence[float]]) -> Floats:
    """A symmetric matrix from the rows of its lower triangle."""
    matrix = np.zeros((len(triangle), len(triangle)))
    for at, row in enumerate(triangle):
        matrix[at, : at + 1] = matrix[: at + 1, at] = row
    return matrix


def _windows(everything: Products, label: LabelRecord, trained_KT: np.ndarray) -> dict[str, Quality]:
    """Figures at each set of trained steps with enough iterations; none where all iterations train the same steps."""
    sets = [tuple(np.flatnonzero(row).tolist()) for row in trained_KT]
    if len(set(sets)) < 2:
        return {}
    found = {}
    for steps in sorted(set(sets)):
        at = np.array([number for number, own in enumerate(sets) if own == steps])
        if len(at) >= FEWEST_AT_A_WINDOW:
            nfe = float(np.mean(np.array(label.nfe_K)[at]))
            own = Products(everything.gg_KK[np.ix_(at, at)], everything.gh_KJ[at], everything.hh_JJ, nfe)
            found[_said(steps)] = quality(own)
    return found


def _said(steps: Sequence[int]) -> str:
    """`2-4` for steps in a row, else `0, 3, 4`."""
    if len(steps) > 1 and steps[-1] - steps[0] == len(steps) - 1:
        return f"{steps[0]}-{steps[-1]}"
    return ", ".join(map(str, steps))


def potential_shares(record: PotentialRecord) -> tuple[Shares, ...]:
    """The shares at each grid point, of every reward and component."""
    return tuple(
        Shares(
            sigma,
            {
                name: share(np.array(record.within[name][at]), np.array(record.between[name][at]))
                for name in record.within
            },
        )
        for at, sigma in enumerate(record.sigmas)
    )


def by_step(curves: Sequence[Curve], column: str) -> dict[int, float]:
    """A column of points by step of the schedule (`clipped`, `zero_spread`): means over the points that have it."""
    found: dict[int, list[float]] = {}
    prefix = f"{column}_step_"
    for curve in curves:
        for name in map(str, curve.points.columns):
            if name.startswith(prefix):
                values = curve.column(name)
                found.setdefault(int(name.removeprefix(prefix)), []).extend(values[np.isfinite(values)].tolist())
    return {step: float(np.mean(values)) for step, values in sorted(found.items()) if values}


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> RankCorrelation:
    """Spearman's rank correlation of two figures over labels; labels with a NaN in either are left out.

    The interval is Bonett and Wright's (Psychometrika 65, 2000): tanh(atanh r +- z sqrt((1 + r^2 / 2) / (n - 3))). It
    has none at r = +-1, where the value next to it that n ranks without ties can have, 1 - 12 / (n (n^2 - 1)), gives
    the inner end and r itself the outer one.
    """
    pairs = np.array([(one, other) for one, other in zip(x, y, strict=True) if math.isfinite(one + other)])
    count = len(pairs)
    if count < 4 or (np.ptp(pairs, axis=0) == 0).any():
        return RankCorrelation(count, math.nan, math.nan, math.nan)
    r = float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
    inner = math.copysign(min(abs(r), 1 - 12 / (count * (count**2 - 1))), r)
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt((1 + inner**2 / 2) / (count - 3))
    low, high = math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half)
    return RankCorrelation(count, r, -1.0 if r <= -1 else low, 1.0 if r >= 1 else high)
