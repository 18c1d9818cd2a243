"""Whether contrasts come out again on seeds that nobody has used: where the new mean should lie, and where it does."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from grpo_bench.analysis.statistics import LEVEL, Estimate
from grpo_bench.analysis.summary import ViewSummary


@dataclass(frozen=True)
class Replicated:
    """One contrast, published and again; both are means over seeds, of the same prompts."""

    label: str
    baseline: str
    published: Estimate
    again: Estimate
    low: float
    high: float
    """Where the new mean lies in 95% of replications, for all contrasts of the family together."""

    @property
    def inside(self) -> bool:
        """Whether it does."""
        return self.low <= self.again.mean <= self.high


def replications(published: ViewSummary, again: ViewSummary) -> tuple[Replicated, ...]:
    """The primary contrasts of which both have at least two seeds."""
    fresh = {one.label: one.result.difference for one in again.contrasts if one.primary}
    named = [one for one in published.contrasts if one.primary]
    found = []
    for one in named:
        first, second = one.result.difference, fresh.get(one.label)
        if second is not None and first.n > 1 and second.n > 1:
            low, high = prediction(first, second.n, len(named))
            found.append(Replicated(one.label, one.baseline, first, second, low, high))
    return tuple(found)


def prediction(published: Estimate, further: int, family: int = 1) -> tuple[float, float]:
    """Where the mean of `further` new seeds lies with probability 1 - 0.05 / family, for normal differences.

    mean +- t(1 - 0.05 / (2 family), n - 1) s sqrt(1 / n + 1 / further), with s the standard deviation over the n seeds
    of the published mean, read back from its 95% t interval. G. J. Hahn (1969), Factors for calculating two-sided
    prediction intervals for samples from a normal distribution, J. Am. Statist. Assoc. 64.
    """
    degrees = published.n - 1
    error = (published.high - published.low) / 2 / float(special.stdtrit(degrees, (1 + LEVEL) / 2))
    wide = float(special.stdtrit(degrees, 1 - (1 - LEVEL) / (2 * family)))
    half = wide * error * math.sqrt(1 + published.n / further)
    return published.mean - half, published.mean + half
