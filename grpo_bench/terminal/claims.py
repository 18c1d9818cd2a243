"""`grpo-bench claims`: each published sentence, what was measured of it, and which runs were used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from grpo_bench.analysis.claims import SCALES
from grpo_bench.analysis.effects import METRICS
from grpo_bench.terminal.text import NOTHING, plain

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_bench.analysis.claims import Claim, Judged

STYLES = {
    "reproduced": "bold green",
    "same direction": "green",
    "refuted": "bold red",
    "opposite direction": "red",
    "inconclusive": "yellow",
    "no runs": "dim",
}
SIGNS = {"ratio_at_most": "<=", "ratio_at_least": ">=", "greater": ">", "less": "<", "relative_gain_at_least": ">="}


class ClaimJson(TypedDict):
    """One claim as `claims --json` prints it; a figure that is not there is null."""

    id: str
    text: str
    source: str
    metric: str
    method: str
    baseline: str
    relation: str
    value: float
    protocol: str
    tier: str
    verdict: str
    words: str
    binding: bool
    scale: str | None
    measured: float | None
    low: float | None
    high: float | None
    interval: str | None
    seeds: int
    study: str | None
    view: str | None
    runs_tier: str | None
    runs_protocol: str | None
    labels: tuple[str, str] | None
    runs: tuple[str, ...]
    missing: str


def claims_json(judged: Sequence[Judged]) -> list[ClaimJson]:
    """The verdicts with all they rest on."""
    return [_claim_json(one) for one in judged]


def _claim_json(one: Judged) -> ClaimJson:
    claim, found, measured = one.claim, one.evidence, one.effect
    return {
        "id": claim.id,
        "text": claim.text,
        "source": claim.source,
        "metric": claim.metric,
        "method": claim.method,
        "baseline": claim.baseline,
        "relation": claim.relation,
        "value": claim.value,
        "protocol": claim.protocol,
        "tier": claim.tier,
        "verdict": one.verdict,
        "words": one.words,
        "binding": one.binding,
        "scale": measured.scale if measured else None,
        "measured": _finite(measured.interval.mean) if measured else None,
        "low": _finite(measured.interval.low) if measured else None,
        "high": _finite(measured.interval.high) if measured else None,
        "interval": measured.how if measured else None,
        "seeds": len(found.pairs) if found else 0,
        "study": found.study if found else None,
        "view": found.view.name if found else None,
        "runs_tier": found.view.tier if found else None,
        "runs_protocol": found.view.protocol if found else None,
        "labels": (found.label, found.baseline) if found else None,
        "runs": found.runs if found else (),
        "missing": one.missing,
    }


def print_claims(judged: Sequence[Judged], console: Console) -> None:
    """A row a claim; under the table, each sentence with the runs that were used or what is missing."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("claim", no_wrap=True)
    table.add_column("measured", no_wrap=True)
    table.add_column("n", justify="right")
    table.add_column("verdict", min_width=20)
    for one in judged:
        seeds = str(len(one.evidence.pairs)) if one.evidence else NOTHING
        verdict = Text(one.words, style=STYLES[one.verdict])
        table.add_row(plain(one.claim.id, "bold cyan", 64), Text(_measured(one)), seeds, verdict)
    console.print(table)
    for one in judged:
        _print_basis(one, console)
    if judged and not any(one.binding for one in judged):
        line = "No verdict binds: a claim is decided by runs of its own tier and protocol, and these are others."
        console.print(Text(line, style="yellow"), soft_wrap=True)


def _says(claim: Claim) -> str:
    scale = {"ratio": "ratio ", "difference": "", "relative gain": "gain "}[SCALES[claim.relation]]
    return f"{scale}{SIGNS[claim.relation]} {claim.value:g}"


def _measured(one: Judged) -> str:
    if one.effect is None or (math.isnan(one.effect.interval.mean) and math.isnan(one.effect.interval.low)):
        return NOTHING
    interval = one.effect.interval
    return f"{_number(interval.mean)} [{_number(interval.low)}, {_number(interval.high)}]"


def _print_basis(one: Judged, console: Console) -> None:
    """What was claimed, by whom, and the runs that were used or are missing."""
    claim, found = one.claim, one.evidence
    console.print(Text.assemble(plain(claim.id, "bold cyan", 64), "  ", plain(claim.text, limit=300)), soft_wrap=True)
    lines = [(f"claimed: {_says(claim)}, tier {claim.tier}, protocol {claim.protocol}; {claim.source}", "dim")]
    if found is not None and found.pairs:
        n = len(found.pairs)
        used = (
            f"{METRICS[claim.metric]}, {found.label} against {found.baseline}, {n} paired seed{'' if n == 1 else 's'} "
            f"of {found.study}/{found.view.name}, tier {found.view.tier}, protocol {found.view.protocol}"
        )
        lines.append((f"{used}; {one.effect.how}" if one.effect else used, ""))
    if one.missing:
        lines.append((f"missing: {one.missing}", "yellow"))
    for line, style in lines:
        console.print(Text.assemble("  ", plain(line, style)), soft_wrap=True)


def _number(number: float) -> str:
    if math.isnan(number):
        return NOTHING
    return f"{number:.3g}"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
