"""Published sentences as predicates on stored figures, and whether these runs bear them out.

A verdict binds only where the runs have the claim's own tier and protocol. Elsewhere the runs can only say whether the
effect has the claimed direction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grpo_bench.analysis.effects import FEWEST_FOR_MEDIAN, MEDIAN, Effect, Interval, Metric, Scale, effect
from grpo_bench.analysis.evidence import FEWEST_SEEDS, Evidence, Tier, best_evidence
from grpo_bench.analysis.study import Study
from grpo_bench.errors import UserError
from grpo_bench.store.names import clean_text, parse_toml
from grpo_bench.store.record import Name

SHIPPED = Path(__file__).with_name("claims.toml")

Relation = Literal["ratio_at_most", "ratio_at_least", "greater", "less", "relative_gain_at_least"]
Verdict = Literal["reproduced", "refuted", "inconclusive", "same direction", "opposite direction", "no runs"]

SCALES: dict[Relation, Scale] = {
    "ratio_at_most": "ratio",
    "ratio_at_least": "ratio",
    "greater": "difference",
    "less": "difference",
    "relative_gain_at_least": "relative gain",
}
DOWNWARD: tuple[Relation, ...] = ("ratio_at_most", "less")
"""Relations that say the method's figure is the smaller one."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Claim(_Strict):
    """One published sentence: `metric` of `method` against `baseline` stands in `relation` to `value`."""

    id: Name
    metric: Metric
    method: Name
    baseline: Name
    relation: Relation
    value: Annotated[float, Field(allow_inf_nan=False)]
    protocol: Literal["controlled", "paper"]
    tier: Tier
    text: str
    source: str

    @model_validator(mode="after")
    def _has_a_direction(self) -> Claim:
        """A bound on the other side of no effect would be a claim without a direction to test."""
        none = no_effect(self.relation)
        if self.value > none if self.relation in DOWNWARD else self.value < none:
            side = "below" if self.relation in DOWNWARD else "above"
            raise ValueError(
                f"{self.relation} claims an effect, so its value is not {self.value:g} but {side} {none:g}"
            )
        return self


class PublishedTable(_Strict):
    """Figures as a paper or project page prints them, for people to compare with."""

    id: Name
    setting: str
    confidence: Literal["figure", "repo", "notes"]
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]

    @model_validator(mode="after")
    def _is_rectangular(self) -> PublishedTable:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"each row has one value for each of the {len(self.columns)} columns")
        return self


class Published(_Strict):
    """The content of claims.toml."""

    claim: tuple[Claim, ...]
    table: tuple[PublishedTable, ...] = ()

    @model_validator(mode="after")
    def _names_each_once(self) -> Published:
        twice = [name for name, times in Counter(claim.id for claim in self.claim).items() if times > 1]
        if twice:
            raise ValueError(f"two claims have the id {twice[0]}")
        return self


@dataclass(frozen=True)
class Judged:
    """What the runs say of one claim."""

    claim: Claim
    verdict: Verdict
    evidence: Evidence | None
    """The runs that were used; None where there are none."""
    effect: Effect | None
    missing: str
    """What stands in the way of a verdict, one sentence; empty where nothing does."""

    @property
    def binding(self) -> bool:
        """Whether the runs have the claim's tier and protocol, so that the verdict is about the claim itself."""
        return self.evidence is not None and _binds(self.claim, self.evidence)

    @property
    def words(self) -> str:
        """The verdict as it is printed, with the tier where it does not bind."""
        if self.evidence is None or self.binding or self.verdict == "no runs":
            return self.verdict
        return f"{self.verdict} at tier {self.evidence.view.tier}"


def read_claims(path: Path = SHIPPED) -> Published:
    """The claims of a TOML file, by default the shipped ones.

    Raises:
        UserError: it cannot be read, or an entry has an unknown metric, relation, tier or field.
    """
    try:
        raw = parse_toml(path.read_text(encoding="utf-8"))
        return Published.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, said = ".".join(map(str, first["loc"])), f"{first['msg']} ({first['input']!r})"
        detail = f"{where}: {said}" if where else first["msg"]
    except (OSError, ValueError) as error:
        detail = str(error)
    raise UserError(f"{path} is no file of claims: {clean_text(detail, 250)}")


def judge(claims: Sequence[Claim], studies: Sequence[Study]) -> tuple[Judged, ...]:
    """Each claim, judged by the best evidence among the studies' views (`evidence.best_evidence`)."""
    return tuple(_judge(claim, studies) for claim in claims)


def no_effect(relation: Relation) -> float:
    """What a relation's figure is where the method changes nothing: a ratio of 1, a difference or gain of 0."""
    return 1.0 if SCALES[relation] == "ratio" else 0.0


def _judge(claim: Claim, studies: Sequence[Study]) -> Judged:
    found, missing = best_evidence(claim.metric, claim.method, claim.baseline, claim.tier, claim.protocol, studies)
    if found is None or not found.pairs:
        return Judged(claim, "no runs", found, None, missing)
    try:
        measured = effect(claim.metric, SCALES[claim.relation], found.view, found.pairs)
    except UserError as error:
        return Judged(claim, "inconclusive", found, None, str(error))
    n = measured.interval.n
    if n < FEWEST_SEEDS:
        needed = f"{n} paired seed{'' if n == 1 else 's'} of at least {FEWEST_SEEDS}"
        return Judged(claim, "inconclusive", found, measured, needed)
    if math.isnan(measured.interval.low) or math.isnan(measured.interval.high):
        return Judged(claim, "inconclusive", found, measured, _no_interval(measured))
    verdict = verdict_of(claim, measured.interval) if _binds(claim, found) else direction_of(claim, measured.interval)
    return Judged(claim, verdict, found, measured, "")


def verdict_of(claim: Claim, interval: Interval) -> Verdict:
    """The claim's relation against a whole interval: it holds all over it, nowhere in it, or in a part of it."""
    low, high, value = interval.low, interval.high, claim.value
    holds = {
        "ratio_at_most": (high <= value, low > value),
        "ratio_at_least": (low >= value, high < value),
        "greater": (low > value, high <= value),
        "less": (high < value, low >= value),
        "relative_gain_at_least": (low >= value, high < value),
    }
    everywhere, nowhere = holds[claim.relation]
    return "reproduced" if everywhere else "refuted" if nowhere else "inconclusive"


def direction_of(claim: Claim, interval: Interval) -> Verdict:
    """Whether the effect has the claimed sign, with its interval clear of no effect."""
    none = no_effect(claim.relation)
    below, above = interval.high < none, interval.low > none
    if not (below or above):
        return "inconclusive"
    return "same direction" if below == (claim.relation in DOWNWARD) else "opposite direction"


def _no_interval(measured: Effect) -> str:
    n = measured.interval.n
    if measured.how == MEDIAN and n < FEWEST_FOR_MEDIAN:
        needed = f"at least {FEWEST_FOR_MEDIAN} paired seeds, not {n}"
        return f"an interval: some runs ended before the target, and a median of bounds then needs {needed}"
    return f"an interval: a figure of these {n} seeds is not finite"


def _binds(claim: Claim, evidence: Evidence) -> bool:
    return (evidence.view.tier, evidence.view.protocol) == (claim.tier, claim.protocol)
