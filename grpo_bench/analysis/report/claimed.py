"""Published sentences beside what these runs say of them: all of the shipped ones, or none where none can be judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grpo_bench.analysis.claims import SCALES, Claim, Judged, Relation, judge, read_claims
from grpo_bench.analysis.effects import METRICS
from grpo_bench.analysis.report.words import NOTHING, Cell, Head, Table, clean
from grpo_bench.analysis.study import Study

SIGNS: dict[Relation, str] = {
    "ratio_at_most": "≤", "ratio_at_least": "≥", "greater": ">", "less": "<", "relative_gain_at_least": "≥",
}  # fmt: skip


@dataclass(frozen=True)
class Claims:
    """The verdicts, and whether any of them is about a claim itself."""

    table: Table
    binding: bool


def claims(found: Sequence[Study]) -> Claims | None:
    """Every shipped claim judged by these studies; None where they have figures for none of them."""
    judged = judge(read_claims().claim, found)
    if not any(one.effect for one in judged):
        return None
    heads = (
        Head("claim", numeric=False),
        Head("verdict", "Reproduced or refuted at the claim's own tier and protocol only", numeric=False),
        Head("measured", "With its interval, over paired seeds"),
        Head("claimed", "As a predicate, and the tier and protocol that it is about"),
        Head("sentence", "Below it, what was compared here", numeric=False),
    )
    rows = tuple(
        (Cell(one.claim.id), Cell(one.words), _measured(one), _claimed(one.claim), _said(one)) for one in judged
    )
    table = Table("Every claim that grpo-bench ships, judged by these runs", heads, rows, labels=False)
    return Claims(table, any(one.binding for one in judged))


def _measured(one: Judged) -> Cell:
    if one.effect is None:
        return Cell(NOTHING)
    found = one.effect.interval
    ends = f"{_number(found.low)} to {_number(found.high)}" if math.isfinite(found.low) else ""
    return Cell(_number(found.mean), ends)


def _claimed(claim: Claim) -> Cell:
    scale = {"ratio": "ratio ", "difference": "", "relative gain": "gain "}[SCALES[claim.relation]]
    return Cell(f"{scale}{SIGNS[claim.relation]} {claim.value:g}", f"tier {claim.tier}, {claim.protocol}")


def _said(one: Judged) -> Cell:
    """The sentence, quoted; below it the metric, the two labels and where they stand, and what is missing."""
    found = one.evidence
    told = METRICS[one.claim.metric]
    if found is not None and found.pairs:
        where = f"{len(found.pairs)} paired seeds of {found.study}, tier {found.view.tier}, {found.view.protocol}"
        told += f", {found.label} against {found.baseline}, {where}"
    missing = f" Missing: {one.missing}." if one.missing else ""
    return Cell(f"“{one.claim.text}”", clean(f"{told}.{missing}", 400))


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if math.isfinite(value) else NOTHING
