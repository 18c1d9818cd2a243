"""Which stored runs speak to a claim: those of its method beside its baseline's, in the view that suits it best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from grpo_bench.analysis.effects import Metric, Pair, usable
from grpo_bench.analysis.study import Study, View
from grpo_bench.analysis.words import FEWEST_SEEDS

__all__ = ["FEWEST_SEEDS", "TIERS", "Evidence", "Tier", "best_evidence"]

Tier = Literal["analytic", "tiny", "geometry", "real"]
TIERS: tuple[str, ...] = get_args(Tier)
"""From the cheapest kind of run to the real thing."""


@dataclass(frozen=True)
class Evidence:
    """The runs of one method and of its baseline in one view."""

    study: str
    view: View
    label: str
    """The method's cell in its suite: one method may have several."""
    baseline: str
    pairs: tuple[Pair, ...]
    """The usable runs, by the seeds that both have."""

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of all runs used, the method's first."""
        return tuple(pair[side].record.run for side in (0, 1) for pair in self.pairs)


def best_evidence(
    metric: Metric, method: str, baseline: str, tier: str, protocol: str, studies: Sequence[Study]
) -> tuple[Evidence | None, str]:
    """The evidence to use, and what is missing where it has no pair of runs.

    Evidence of the claim's own tier comes first, then the highest tier, then the claim's own protocol, then the cells
    that are named as the method and the view's baseline are (and not a variant's), then the most paired seeds.
    """
    found = [one for study in studies for one in _candidates(metric, method, baseline, study)]
    if not found:
        return None, _no_runs(method, baseline, studies)

    def rank(one: Evidence) -> tuple[bool, bool, int, bool, bool, bool, int]:
        view = one.view
        return (
            bool(one.pairs),
            view.tier == tier,
            TIERS.index(view.tier),
            view.protocol == protocol,
            one.label == method,
            one.baseline == (view.baseline or baseline),
            len(one.pairs),
        )

    best = max(found, key=rank)
    return best, "" if best.pairs else _no_pairs(metric, best)


def _candidates(metric: Metric, method: str, baseline: str, study: Study) -> Iterator[Evidence]:
    for view in study.views:
        labels = {label: view.method(label) for label in view.labels}
        for label in (label for label, name in labels.items() if name == method):
            for other in (other for other, name in labels.items() if name == baseline and other != label):
                yield Evidence(study.name, view, label, other, _pairs(metric, view, label, other))


def _pairs(metric: Metric, view: View, label: str, other: str) -> tuple[Pair, ...]:
    own, rival = ({curve.seed: curve for curve in view.of(name) if usable(metric, curve)} for name in (label, other))
    return tuple((own[seed], rival[seed]) for seed in sorted(own.keys() & rival.keys()))


def _no_runs(method: str, baseline: str, studies: Sequence[Study]) -> str:
    there = {curve.method for study in studies for view in study.views for curve in view.curves}
    absent = [name for name in dict.fromkeys((method, baseline)) if name not in there]
    if absent:
        return f"no finished run of {' and of '.join(absent)}"
    return f"no finished runs of {method} and {baseline} with the same workload, reward and protocol"


def _no_pairs(metric: Metric, best: Evidence) -> str:
    label, other = best.label, best.baseline
    if metric == "seconds_per_iteration" and not best.view.on("seconds"):
        return f"no timed runs of {label} and {other}: theirs shared their device"
    if metric == "updates_to_target":
        return f"no runs of {label} and {other} with a common seed whose updates grow from point to point"
    timed = "timed " if metric == "seconds_per_iteration" else ""
    return f"no {timed}runs of {label} and {other} with a common seed"
