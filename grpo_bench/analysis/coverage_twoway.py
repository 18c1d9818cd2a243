"""How often the two-way interval holds the truth, and the intervals beside it: measured by simulation.

The hierarchical model: a difference of one seed on one prompt is truth + seed + prompt + noise (nested in the prompt:
the same for all seeds) + error. `coverage_table.py` has what `simulate` and `simulate_welch` give with `SIMULATIONS`
data sets; benchmarks/coverage_twoway.py prints it anew, and a test repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import special

from grpo_bench.analysis.coverage import NOMINAL, t_covers
from grpo_bench.analysis.over_workloads import welch_df
from grpo_bench.analysis.twoway import mean_squares, variance

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Law = Literal["normal", "skewed", "skewed, one side", "binary"]
Source = Literal["seeds", "both", "prompts"]
Size = tuple[int, int]
"""Seeds and prompts."""

LAWS: tuple[Law, ...] = get_args(Law)
SOURCES: tuple[Source, ...] = get_args(Source)
SIZES: tuple[Size, ...] = ((5, 30), (5, 60), (10, 30), (10, 60))
NOISES = 4
IMAGES = 8
"""Of a binary outcome, for one prompt and noise."""
SIMULATIONS = 10_000
RESAMPLES = 500
BLOCK = 500
"""Data sets drawn at a time, which keeps memory small; those of a block share the bootstrap's resamples."""
TRUTH = 0.05
"""The difference in gold; a binary outcome's is half of it, since hard and easy prompts have less room."""


class Measured(NamedTuple):
    """Per cent of data sets, at one law, source and size."""

    two_way: float
    """The two-way 95% interval holds the truth."""
    plain: float
    """The t interval over seeds does."""
    bootstrap: float
    """The percentile interval from resampling seeds and prompts does."""
    equivalent: float
    """A truth at the margin's edge is called equivalent: at most 5 is promised. The worse of the two edges."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the parts of a difference, in gold."""

    seed: float
    prompt: float
    noise: float
    """Of one noise on one prompt."""
    error: float
    """Of one seed, prompt and noise; a binary outcome's images make their own."""


SPREADS: dict[Source, Spread] = {
    "seeds": Spread(seed=0.040, prompt=0.015, noise=0.015, error=0.100),
    "both": Spread(seed=0.015, prompt=0.030, noise=0.030, error=0.100),
    "prompts": Spread(seed=0.004, prompt=0.040, noise=0.040, error=0.100),
}
"""By what the mean's variance mostly comes from. `both` is near the built-in model's (a standard deviation of .018 over
seeds, a standard error of .003 to .007 over prompts)."""


def simulate(law: Law, source: Source, size: Size, simulations: int = SIMULATIONS) -> Measured:
    """What was measured on simulated data sets of a known truth, in per cent; the same every time.

    `normal`: every part is. `skewed`: two labels whose parts are exponential, so that a difference's are Laplace.
    `skewed, one side`: the method's alone are, and a difference's are exponential. `binary`: images are right or
    wrong, with probability q of the prompt's own (U-shaped, arcsine) for the baseline and q + 4 q (1 - q) (truth +
    seed + prompt + noise) for the method, whose parts are uniform.
    """
    rng = np.random.default_rng((LAWS.index(law), SOURCES.index(source), *size))
    blocks = [measure(rng, d_NSP, true_difference(law)) for d_NSP in _data(rng, law, source, size, simulations)]
    held = [100 * float(np.concatenate(one).mean()) for one in zip(*blocks, strict=True)]
    return Measured(held[0], held[1], held[2], max(held[3], held[4]))


def simulate_welch(law: Law, size: Size, simulations: int = SIMULATIONS) -> float:
    """The share, in per cent, of Welch intervals over three workloads, one a source, that hold the mean truth."""
    rng = np.random.default_rng((LAWS.index(law), len(SOURCES), *size))
    held = []
    streams = [_data(rng, law, source, size, simulations) for source in SOURCES]
    for workloads in zip(*streams, strict=True):
        squares = [mean_squares(d_NSP) for d_NSP in workloads]
        found = [variance(one, *size) for one in squares]
        v_NW, df_NW = (np.stack(part, axis=-1) for part in zip(*found, strict=True))
        mean_N = np.mean([one.mean for one in squares], axis=0)
        error_N = np.sqrt(v_NW.sum(axis=-1)) / len(SOURCES)
        held.append(np.abs(mean_N - true_difference(law)) <= _quantile(welch_df(v_NW, df_NW)) * error_N)
    return 100 * float(np.concatenate(held).mean())


def true_difference(law: Law) -> float:
    """The expected difference; of an arcsine q, 4 q (1 - q) has the mean 1/2."""
    return TRUTH / 2 if law == "binary" else TRUTH


def draw_differences(rng: np.random.Generator, law: Law, spread: Spread, shape: tuple[int, int, int]) -> FloatArray:
    """(N, S, P) simulated differences of `law`, averaged over noises."""
    n, seeds, prompts = shape
    seed = spread.seed * _part(rng, law, (n, seeds, 1, 1))
    prompt = spread.prompt * _part(rng, law, (n, 1, prompts, 1))
    noise = spread.noise * _part(rng, law, (n, 1, prompts, NOISES))
    effect_NSPK = TRUTH + seed + prompt + noise
    if law == "binary":
        q_N1P1 = rng.beta(0.5, 0.5, (n, 1, prompts, 1))
        right = rng.binomial(IMAGES, q_N1P1 + 4 * q_N1P1 * (1 - q_N1P1) * effect_NSPK)
        baseline = rng.binomial(IMAGES, q_N1P1, right.shape)
        return np.asarray((right - baseline).mean(axis=-1) / IMAGES)
    error = spread.error * _part(rng, law, (n, seeds, prompts, NOISES))
    return np.asarray((effect_NSPK + error).mean(axis=-1))


def _part(rng: np.random.Generator, law: Law, shape: tuple[int, ...]) -> FloatArray:
    """Values of mean 0 and standard deviation 1."""
    if law == "normal":
        return rng.standard_normal(shape)
    if law == "skewed":
        return rng.laplace(scale=np.sqrt(0.5), size=shape)
    if law == "skewed, one side":
        return rng.exponential(size=shape) - 1
    return rng.uniform(-np.sqrt(3), np.sqrt(3), shape)


def _data(rng: np.random.Generator, law: Law, source: Source, size: Size, simulations: int) -> Iterator[FloatArray]:
    for start in range(0, simulations, BLOCK):
        yield draw_differences(rng, law, SPREADS[source], (min(BLOCK, simulations - start), *size))


def measure(rng: np.random.Generator, d_NSP: FloatArray, truth: float) -> tuple[BoolArray, ...]:
    """(N,) whether each interval holds the truth, and whether equivalence is claimed from the upper and lower edge."""
    squares = mean_squares(d_NSP)
    v_N, df_N = variance(squares, *d_NSP.shape[1:])
    t_N = (squares.mean - truth) / np.sqrt(v_N)
    one_sided_N = special.stdtrit(df_N, NOMINAL / 100)
    return (
        np.abs(t_N) <= _quantile(df_N),
        t_covers(d_NSP.mean(axis=2), truth),
        _bootstrap_covers(rng, d_NSP, truth),
        # The test against the far edge is left out: it could only keep a claim back.
        t_N < -one_sided_N,
        t_N > one_sided_N,
    )


def _quantile(df_N: FloatArray) -> FloatArray:
    return np.asarray(special.stdtrit(df_N, (1 + NOMINAL / 100) / 2))


def _bootstrap_covers(rng: np.random.Generator, d_NSP: FloatArray, truth: float) -> BoolArray:
    """(N,) whether the percentile interval holds the truth; seeds and prompts are resampled independently.

    A. B. Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1.
    """
    seeds, prompts = d_NSP.shape[1:]
    weight_BS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    weight_BP = rng.multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES) / prompts
    over_prompts_NSB = d_NSP @ weight_BP.T
    mean_NB = np.einsum("nsb,bs->nb", over_prompts_NSB, weight_BS)
    low_N, high_N = np.quantile(mean_NB, [0.5 - NOMINAL / 200, 0.5 + NOMINAL / 200], axis=1)
    return np.asarray((low_N <= truth) & (truth <= high_N))
