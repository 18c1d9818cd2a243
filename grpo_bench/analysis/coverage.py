"""How often each printed interval holds the truth, measured by simulation: a nominal 95% is only that.

`TABLE` is what `simulate` gives with `SIMULATIONS` draws (benchmarks/coverage.py prints it anew); a test repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, optimize, stats

from grpo_bench.analysis.statistics import interquartile_mean, stratified_bootstrap

FloatArray = NDArray[np.float64]
Interval = Literal["t", "paired", "bonferroni", "permutation", "iqm"]
Law = Literal["normal", "exponential", "lognormal"]

INTERVALS: tuple[Interval, ...] = get_args(Interval)
LAWS: tuple[Law, ...] = get_args(Law)
SKEWED: tuple[Law, ...] = ("exponential", "lognormal")
NOMINAL = 95
SIMULATIONS = 40_000
BOOTSTRAPS = 2_000
"""Simulations of the one interval that is itself a simulation."""
CORRELATION = 0.8
"""Of a method's and its baseline's values over seeds, where values are simulated in pairs."""
FAMILY = 4
"""Contrasts with one shared baseline, the most a suite may name."""
WORKLOADS = (0, 1, 2, 3)
"""By how much the law is shifted on each workload that is averaged over."""

_LAWS = {"normal": stats.norm(), "exponential": stats.expon(), "lognormal": stats.lognorm(1)}

SEEDS: dict[Interval, tuple[int, ...]] = {
    "t": (2, 3, 4, 5, 10, 20),
    "paired": (2, 3, 4, 5, 10, 20),
    "bonferroni": (3, 5, 10),
    "permutation": (5, 6, 10),
    "iqm": (10, 20),
}
TABLE: dict[Interval, dict[Law, dict[int, float]]] = {
    "t": {
        "normal": {2: 95.0, 3: 95.1, 4: 95.0, 5: 95.0, 10: 95.1, 20: 94.9},
        "exponential": {2: 91.2, 3: 88.5, 4: 88.2, 5: 88.2, 10: 90.2, 20: 92.1},
        "lognormal": {2: 89.3, 3: 83.9, 4: 82.2, 5: 82.1, 10: 83.8, 20: 86.7},
    },
    "paired": {
        "normal": {2: 95.1, 3: 94.8, 4: 95.1, 5: 95.0, 10: 94.9, 20: 95.0},
        "exponential": {2: 96.1, 3: 96.6, 4: 96.8, 5: 96.5, 10: 95.6, 20: 95.5},
        "lognormal": {2: 96.7, 3: 97.4, 4: 97.5, 5: 97.4, 10: 96.9, 20: 96.2},
    },
    "bonferroni": {
        "normal": {3: 95.3, 5: 95.3, 10: 95.5},
        "exponential": {3: 97.2, 5: 97.7, 10: 97.4},
        "lognormal": {3: 97.7, 5: 98.5, 10: 98.2},
    },
    "permutation": {
        "normal": {5: 100.0, 6: 96.8, 10: 95.1},
        "exponential": {5: 100.0, 6: 93.4, 10: 90.5},
        "lognormal": {5: 100.0, 6: 89.1, 10: 84.7},
    },
    "iqm": {
        "normal": {10: 93.7, 20: 94.1},
        "exponential": {10: 92.5, 20: 94.5},
        "lognormal": {10: 92.5, 20: 94.5},
    },
}
"""Measured coverage in per cent by interval, law and number of seeds."""


@dataclass(frozen=True)
class Coverage:
    """What a nominal 95% interval was measured to cover, in per cent, at `seeds` seeds."""

    seeds: int
    normal: float
    skewed: tuple[float, float]
    """The lowest and the highest over the skewed laws."""

    @property
    def sentence(self) -> str:
        """The clause that is printed beside an interval."""
        low, high = (f"{share:.0f}" for share in self.skewed)
        skewed = f"{low}%" if low == high else f"{low} to {high}%"
        return f"nominal {NOMINAL}%, measured about {self.normal:.0f}% on normal data and {skewed} on skewed data"


def measured_coverage(seeds: int, interval: Interval = "t") -> Coverage | None:
    """The measured coverage for so many seeds, or for the next smaller number in the table; none below the smallest."""
    rows = [row for row in SEEDS[interval] if row <= seeds]
    if not rows:
        return None
    row = rows[-1]
    skewed = [TABLE[interval][law][row] for law in SKEWED]
    return Coverage(row, TABLE[interval]["normal"][row], (min(skewed), max(skewed)))


def simulate(interval: Interval, law: Law, seeds: int, simulations: int | None = None) -> float:
    """The share, in per cent, of simulated data sets whose nominal 95% interval holds the truth; the same every time.

    `t`: values of the law. `paired`: two methods of equal mean, each seed's values sharing a part (correlation 0.8).
    `bonferroni`: four such methods against one baseline, all four intervals holding at once. `permutation`: differences
    of the law less its mean, not found different at p <= 0.05 (what the test's inverted interval would cover). `iqm`:
    four workloads with the law at different places, and the IQM of all of them together.
    """
    rng = np.random.default_rng((INTERVALS.index(interval), LAWS.index(law), seeds))
    count = simulations or (BOOTSTRAPS if interval == "iqm" else SIMULATIONS)
    return 100 * float(_SIMULATORS[interval](rng, law, seeds, count).mean())


def draw(rng: np.random.Generator, law: Law, shape: tuple[int, ...]) -> FloatArray:
    """Independent values of `law`: the standard normal, the exponential of mean 1, or exp of the standard normal."""
    if law == "exponential":
        return rng.exponential(size=shape)
    normal = rng.standard_normal(shape)
    return np.exp(normal) if law == "lognormal" else normal


def law_mean(law: Law) -> float:
    """The law's mean."""
    return float(_LAWS[law].mean())


def law_iqm(law: Law, shifts: Sequence[float] = (0,)) -> float:
    """The interquartile mean of the law shifted by each of `shifts`, in equal parts: 2 x f(x) between the quartiles."""
    one = _LAWS[law]
    shift_W = np.asarray(shifts, dtype=np.float64)

    def below(x: float, share: float) -> float:
        return float(np.mean(one.cdf(x - shift_W))) - share

    def moment(x: float) -> float:
        return 2 * x * float(np.mean(one.pdf(x - shift_W)))

    within = float(one.ppf(0.001)) + min(shifts), float(one.ppf(0.999)) + max(shifts)
    first, third = (float(optimize.brentq(below, *within, args=(share,))) for share in (0.25, 0.75))
    # A law that starts at a jump is not smooth there.
    jumps = [shift for shift in shifts if first < shift < third]
    return float(integrate.quad(moment, first, third, points=jumps or None)[0])


def t_covers(values_SN: FloatArray, truth: float, level: float = NOMINAL / 100) -> NDArray[np.bool_]:
    """(S,) whether `t_interval` of each row holds `truth`; `t_interval` itself takes one row at a time."""
    n = values_SN.shape[1]
    half_S = stats.t.ppf((1 + level) / 2, n - 1) * values_SN.std(axis=1, ddof=1) / np.sqrt(n)
    return np.asarray(np.abs(values_SN.mean(axis=1) - truth) <= half_S)


def permutation_accepts(difference_SN: FloatArray) -> NDArray[np.bool_]:
    """(S,) whether the exact two-sided sign-flip p of each row's mean is above 0.05."""
    n = difference_SN.shape[1]
    flip_PN = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    accepted = []
    for block_SN in np.array_split(difference_SN, max(1, len(difference_SN) // 1000)):
        sum_SP = block_SN @ flip_PN.T
        observed_S = np.abs(block_SN.sum(axis=1))[:, None]
        # By symmetry twice the one-sided share is the share at least as far from zero, on either side.
        p_S = (np.abs(sum_SP) >= observed_S * (1 - 1e-12)).mean(axis=1)
        accepted.append(p_S > 1 - NOMINAL / 100)
    return np.concatenate(accepted)


def _against_baseline(rng: np.random.Generator, law: Law, shape: tuple[int, int, int]) -> FloatArray:
    """(S, methods, N) values of methods less their baseline's; each is a part all share on a seed, and its own part."""
    simulations, methods, seeds = shape
    shared_S1N = draw(rng, law, (simulations, 1, seeds))
    own_SMN = draw(rng, law, (simulations, methods + 1, seeds))
    value_SMN = np.sqrt(CORRELATION) * shared_S1N + np.sqrt(1 - CORRELATION) * own_SMN
    return np.asarray(value_SMN[:, 1:] - value_SMN[:, :1])


def _t(rng: np.random.Generator, law: Law, seeds: int, simulations: int) -> NDArray[np.bool_]:
    return t_covers(draw(rng, law, (simulations, seeds)), law_mean(law))


def _paired(rng: np.random.Generator, law: Law, seeds: int, simulations: int) -> NDArray[np.bool_]:
    return t_covers(_against_baseline(rng, law, (simulations, 1, seeds))[:, 0], 0)


def _bonferroni(rng: np.random.Generator, law: Law, seeds: int, simulations: int) -> NDArray[np.bool_]:
    difference_SFN = _against_baseline(rng, law, (simulations, FAMILY, seeds))
    level = 1 - (1 - NOMINAL / 100) / FAMILY
    holds_FS = np.stack([t_covers(difference_SFN[:, one], 0, level) for one in range(FAMILY)])
    return np.asarray(holds_FS.all(axis=0))


def _permutation(rng: np.random.Generator, law: Law, seeds: int, simulations: int) -> NDArray[np.bool_]:
    return permutation_accepts(draw(rng, law, (simulations, seeds)) - law_mean(law))


def _iqm(rng: np.random.Generator, law: Law, seeds: int, simulations: int) -> NDArray[np.bool_]:
    truth = law_iqm(law, WORKLOADS)
    shift_W1 = np.array(WORKLOADS, dtype=np.float64)[:, None]
    found = [
        stratified_bootstrap(list(draw(rng, law, (len(WORKLOADS), seeds)) + shift_W1), interquartile_mean, seed=one)
        for one in range(simulations)
    ]
    return np.array([estimate.low <= truth <= estimate.high for estimate in found])


_Simulator = Callable[[np.random.Generator, Law, int, int], NDArray[np.bool_]]
_SIMULATORS: dict[Interval, _Simulator] = {
    "t": _t,
    "paired": _paired,
    "bonferroni": _bonferroni,
    "permutation": _permutation,
    "iqm": _iqm,
}
