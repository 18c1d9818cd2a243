"""Who leads where rewards and backward passes are dearer or cheaper than here: from stored counters alone.

A run's cost is rollout + reference + (1 + c) train + p reward calls, where a backward pass costs c forward ones (2 on
the nfe axis) and a reward call p network evaluations. All runs are read where the one that spent least ends, at their
gold by linear interpolation between points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo_bench.analysis.hypervolume import resample
from grpo_bench.analysis.study import Curve, Floats, View

PRICES = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Of a reward call, in network evaluations."""
BACKWARDS = (1.0, 2.0, 3.0, 5.0, 10.0)
"""Cost of a backward pass, in forward passes."""


@dataclass(frozen=True)
class Lead:
    """One cell of the map.

    `label` has the highest mean gold over `seeds` seeds at `cost`, and the highest in `led` of them; `margin` is its
    mean less that of `runner_up`.
    """

    price: float
    backward: float
    cost: float
    label: str
    led: int
    seeds: int
    runner_up: str
    margin: float


def break_even(
    view: View, prices: Sequence[float] = PRICES, backwards: Sequence[float] = BACKWARDS
) -> tuple[Lead, ...]:
    """The map, price by price: over the seeds that all labels have; empty for fewer than two labels or no such seed."""
    seeds = shared_seeds(view)
    if len(view.labels) < 2 or not seeds:
        return ()
    runs = [[next(curve for curve in view.of(label) if curve.seed == seed) for seed in seeds] for label in view.labels]
    return tuple(_lead(view.labels, runs, price, backward) for price in prices for backward in backwards)


def shared_seeds(view: View) -> tuple[int, ...]:
    """Seeds of which every label has a finished run."""
    common = set.intersection(*({curve.seed for curve in view.of(label)} for label in view.labels or ("",)))
    return tuple(sorted(common))


def spent(curve: Curve, price: float, backward: float) -> Floats:
    """(K,) a run's cost at its points."""
    free = curve.column("rollout_nfe") + curve.column("reference_nfe")
    return np.asarray(
        free + (1 + backward) * curve.column("train_nfe") + price * curve.column("reward_calls"), dtype=np.float64
    )


def _lead(labels: Sequence[str], runs: Sequence[Sequence[Curve]], price: float, backward: float) -> Lead:
    costs = [[spent(curve, price, backward) for curve in own] for own in runs]
    cut = min(float(cost_K[-1]) for own in costs for cost_K in own)
    gold_LS = np.array(
        [
            [resample(cost_K, curve.gold, [cut])[0] for curve, cost_K in zip(own, paid, strict=True)]
            for own, paid in zip(runs, costs, strict=True)
        ]
    )
    order = np.argsort(-gold_LS.mean(1), kind="stable")
    best, second = int(order[0]), int(order[1])
    return Lead(
        price=price,
        backward=backward,
        cost=cut,
        label=labels[best],
        led=int((gold_LS.argmax(0) == best).sum()),
        seeds=gold_LS.shape[1],
        runner_up=labels[second],
        margin=float(gold_LS[best].mean() - gold_LS[second].mean()),
    )
