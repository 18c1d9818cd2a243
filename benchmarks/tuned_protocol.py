"""How often two labels that are equally good at their own best rates are called different, by how the rate is chosen.

    python benchmarks/tuned_protocol.py [--suites 500] [--tuning-seeds 3] [--curvature 0.07] [--sd 0.018]

A suite has two labels. Each label's gain is best - curvature x^2 plus a seed's noise, where x is how many steps
(factors of 3) its rate is from its optimum. Both have the same best gain; their optima are half a step apart, and the
first lies uniformly within half a step of the workload's own rate. The labels run at `tuned` (the rule of
grpo_bench/analysis/rate.py), at `best` (the same trials, without the parabola) and at `shared` (the workload's rate),
and a paired t-test over ten reported seeds calls them different at 5% or not. Prints one JSON line, shares in per cent.

The defaults: curvature as flat-window and tempflow have on the built-in model (.078 and .062 lost by one step), and the
standard deviation of a gain over seeds there. Noise of two labels on one seed has the correlation 0.5, so that their
difference varies as one gain does. `--steeper 2` doubles the curvature above the optimum: no parabola any more.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass

import numpy as np
from scipy import stats

from grpo_bench.analysis.rate import STEP, Choice, Trial, choose, next_factors

APART = 0.5
"""Between the two optima, in steps."""
CORRELATION = 0.5
"""Of two labels' noise on one seed."""
REPORTED = 10
PROTOCOLS = ("tuned", "best", "shared")


@dataclass(frozen=True)
class World:
    """How a label's gain depends on its rate and its seed."""

    curvature: float
    """What one step below the optimum loses."""
    steeper: float
    """Times as much is lost by one step above it."""
    sd: float
    """Of a gain over seeds."""

    def gain(self, rate: float, optimum: float) -> float:
        """Less the best, at a rate and an optimum in steps."""
        away = rate - optimum
        return -self.curvature * away**2 * (self.steeper if away > 0 else 1)


WORLD = World(curvature=0.07, steeper=1, sd=0.018)


def simulate(suites: int, tuning_seeds: int, world: World = WORLD, seed: int = 0) -> dict[str, float]:
    """Per cent of suites whose two labels are called different, by protocol; and of those with an unbracketed rate."""
    rng = np.random.default_rng((seed, tuning_seeds))
    different = dict.fromkeys(PROTOCOLS, 0)
    unbracketed = 0
    for _ in range(suites):
        first = rng.uniform(-0.5, 0.5)
        optima = (first, first + APART * rng.choice([-1, 1]))
        choices = [tune(rng, optimum, tuning_seeds, world) for optimum in optima]
        unbracketed += not all(choice.bracketed for choice in choices)
        shared = math.sqrt(CORRELATION) * rng.standard_normal(REPORTED)
        own = math.sqrt(1 - CORRELATION) * rng.standard_normal((2, REPORTED))
        noise = world.sd * (shared + own)  # the same run's luck under each protocol
        rates = {
            "tuned": [steps(choice.factor) for choice in choices],
            "best": [steps(choice.best) for choice in choices],
            "shared": [0.0, 0.0],
        }
        for protocol in PROTOCOLS:
            gain = [world.gain(rate, optimum) for rate, optimum in zip(rates[protocol], optima, strict=True)]
            difference = gain[0] - gain[1] + noise[0] - noise[1]
            different[protocol] += float(stats.ttest_1samp(difference, 0).pvalue) < 0.05
    counts = different | {"unbracketed": unbracketed}
    return {name: round(100 * count / suites, 1) for name, count in counts.items()}


def tune(rng: np.random.Generator, optimum: float, seeds: int, world: World) -> Choice:
    """What the tuning rule chooses for a label, from noisy trials of its own."""
    names = range(300, 300 + seeds)
    trials: list[Trial] = []
    while factors := next_factors(trials, names):
        for factor in factors:
            gain = world.gain(steps(factor), optimum)
            trials += [Trial(factor, name, gain + world.sd * float(rng.standard_normal())) for name in names]
    return choose(trials, names)


def steps(factor: float | None) -> float:
    """How many steps a factor is from the workload's own rate."""
    if factor is None:
        raise ValueError("a trial that diverged is not simulated here")
    return math.log(factor) / math.log(STEP)


def main() -> None:
    """Simulates the suites and prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suites", type=int, default=500)
    parser.add_argument("--tuning-seeds", type=int, default=3)
    parser.add_argument("--curvature", type=float, default=WORLD.curvature, help="lost by one step below the optimum")
    parser.add_argument("--steeper", type=float, default=WORLD.steeper, help="times as much is lost above it")
    parser.add_argument("--sd", type=float, default=WORLD.sd, help="of a gain over seeds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    world = World(options.curvature, options.steeper, options.sd)
    start = time.perf_counter()
    found = simulate(options.suites, options.tuning_seeds, world, options.seed)
    print(json.dumps(vars(options) | {"different": found, "seconds": round(time.perf_counter() - start, 1)}))


if __name__ == "__main__":
    main()
