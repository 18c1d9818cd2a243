"""A tuned suite's contrasts over its workloads: the mean of their differences, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo_bench.analysis.contrasts import Contrast
from grpo_bench.analysis.over_workloads import Aggregate, Scale, over_workloads
from grpo_bench.analysis.study import Study
from grpo_bench.analysis.summary import ViewSummary
from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError
from grpo_bench.registry import WORKLOADS
from grpo_bench.store.names import parse_json


@dataclass(frozen=True)
class Mean:
    """One primary contrast over all workloads of a suite that are no replication of another."""

    label: str
    baseline: str
    workloads: tuple[str, ...]
    aggregate: Aggregate | None
    """In shares of the way from each workload's base to its ceiling; None where there is none."""
    reason: str
    """Why there is none: one sentence."""


def means(study: Study, summaries: Sequence[ViewSummary]) -> tuple[Mean, ...]:
    """A mean for each primary contrast of a tuned suite with several workloads; none for any other study."""
    if study.suite is None or study.suite.protocol != "tuned":
        return ()
    named = tuple(dict.fromkeys(cell.workload for cell in study.suite.cells))
    counted = tuple(name for name in named if not _replicates(name))
    if len(counted) < 2:
        return ()
    return tuple(_mean(study, label, counted, summaries) for label in study.suite.contrasts)


def _mean(study: Study, label: str, workloads: tuple[str, ...], summaries: Sequence[ViewSummary]) -> Mean:
    assert study.suite is not None
    contrasts: dict[str, Contrast] = {}
    scales: dict[str, Scale] = {}
    for summary in summaries:
        found = [one for one in summary.contrasts if one.label == label]
        if summary.protocol == "tuned" and summary.workload in workloads and found:
            contrasts[summary.workload] = found[0]
            top = ceiling(summary.workload)
            if summary.methods and not math.isnan(top):
                scales[summary.workload] = Scale(summary.methods[0].base, top)  # one base, the same for all labels
    open_rate = [name for name, one in contrasts.items() if one.verdict in ("rate not bracketed", "rate not as chosen")]
    differences = {name: one.two_way for name, one in contrasts.items() if one.two_way is not None}
    try:
        if open_rate:
            raise UserError(f"no mean over workloads, since a rate on {open_rate[0]} is not known")
        aggregate = over_workloads(differences, scales, workloads)
    except UserError as error:
        return Mean(label, study.suite.baseline, workloads, None, str(error))
    return Mean(label, study.suite.baseline, workloads, aggregate, "")


def _replicates(workload: str) -> bool:
    return workload in WORKLOADS.names() and bool(WORKLOADS.get(workload).replicates)


def ceiling(workload: str) -> float:
    """Gold of training pictures sent through the model's autoencoder, from the model's card; NaN where it has none."""
    if workload not in WORKLOADS.names():
        return math.nan
    try:
        folder = WORKLOADS.get(workload)().model(RunConfig(workload=workload))
        card = parse_json(Path(folder, "card.json").read_text(encoding="utf-8"))
    except (UserError, OSError, ValueError):
        return math.nan
    found = card.get("ceiling") if isinstance(card, dict) else None
    return float(found) if isinstance(found, int | float) else math.nan
