"""Differences from the baseline in gold at the budget, and the words that a suite's family of them is given.

Of runs that store what each prompt scored (rules version 2) the two-way interval over seeds and prompts decides, and
only in a suite in which each label has its own rate. Of older ones the paired t over seeds decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from grpo_bench.analysis import words
from grpo_bench.analysis.curve import BY_PROMPT_SINCE, Curve, Floats
from grpo_bench.analysis.statistics import Estimate, Paired, holm, paired
from grpo_bench.analysis.study import View
from grpo_bench.analysis.twoway import TwoWay, two_way
from grpo_bench.errors import UserError
from grpo_bench.store.suite import ChoiceRecord

CORRECTNESS = "correctness"
"""The component of a composite gold that says whether an image is right."""

Verdict = Literal[words.Word, "rate not bracketed", "rate not as chosen", "too few common prompts", "exploratory"]
UNTESTED = TwoWay(
    mean=math.nan, variance=math.nan, df=math.nan, low=math.nan, high=math.nan, p=math.nan, seeds=0, prompts=0,
    plain=Estimate(math.nan, math.nan, math.nan, 0), plain_p=math.nan,
)  # fmt: skip
"""A contrast that has no run yet: it counts in its family."""


@dataclass(frozen=True)
class Contrast:
    """One difference from the baseline in gold at the full budget: primary (it was named before) or exploratory."""

    label: str
    baseline: str
    primary: bool
    seeds: int
    """That both have; a seed that diverged counts, with the base's gold."""
    result: Paired
    """Over seeds alone: these prompts, this noise."""
    two_way: TwoWay | None
    """For other seeds and other prompts; None of runs that do not store what each prompt scored."""
    correctness: TwoWay | None
    """The same difference in correctness, where gold has such a part."""
    margin: float
    """A difference in gold that is too small to matter; NaN where no tuning says it."""
    holm_p: float
    """Adjusted over the primary contrasts of the suite; NaN for an exploratory one."""
    equivalence_p: float
    """Of two one-sided tests at the margin, adjusted likewise."""
    verdict: Verdict

    @property
    def difference(self) -> Estimate:
        """The mean difference, with the interval that decides."""
        if self.two_way is None:
            return self.result.difference
        return Estimate(self.two_way.mean, self.two_way.low, self.two_way.high, self.two_way.seeds)

    @property
    def decided_by(self) -> tuple[str, float]:
        """The p that its word rests on, and what it is called; NaN for one that was not tested."""
        if self.verdict == "no difference that matters":
            return "Holm's p of equivalence", self.equivalence_p
        return "Holm's p", self.holm_p

    @property
    def p(self) -> float:
        """Of no difference, not adjusted."""
        return self.result.p if self.two_way is None else self.two_way.p


def contrasts(views: Sequence[View], untested: int = 0) -> tuple[tuple[Contrast, ...], ...]:
    """The contrasts of each view; the primary ones of all of them, and `untested` others, are one family."""
    found = [_differences(view) for view in views]
    named = {
        f"{place}/{one.label}": one
        for place, (view, differences) in enumerate(zip(views, found, strict=True))
        for one in differences
        if one.primary and view.protocol == "tuned"
    }
    members = words.family(
        {
            key: words.Contrast(
                one.two_way or UNTESTED, one.correctness, None if math.isnan(one.margin) else one.margin
            )
            for key, one in named.items()
        }
        | {f"{number} without a run": words.Contrast(UNTESTED) for number in range(untested)}
    )
    return tuple(
        tuple(
            _decided(view, one, members[f"{place}/{one.label}"]) if f"{place}/{one.label}" in members else one
            for one in (differences if view.protocol == "tuned" else _over_seeds(view, differences))
        )
        for place, (view, differences) in enumerate(zip(views, found, strict=True))
    )


def _differences(view: View) -> list[Contrast]:
    """Every label less the baseline, the primary ones first; nothing is decided yet."""
    if not view.baseline:
        return []
    primary = view.primary
    others = [*primary, *(label for label in view.labels if label not in (view.baseline, *primary))]
    base = ends(view, view.baseline)
    return [_difference(view, label, base) for label in others]


def _difference(view: View, label: str, base: Mapping[int, Curve]) -> Contrast:
    own = ends(view, label)
    seeds = sorted(own.keys() & base.keys())
    family = len(view.primary) if label in view.primary else 1
    result = paired(*([_end(one[seed]) for seed in seeds] for one in (own, base)), family=family)
    return Contrast(
        label=label,
        baseline=view.baseline,
        primary=label in view.primary,
        seeds=len(seeds),
        result=result,
        two_way=_two_way([(own[seed], base[seed]) for seed in seeds], "gold"),
        correctness=_two_way([(own[seed], base[seed]) for seed in seeds], CORRECTNESS),
        margin=margin(view.choices, view.baseline),
        holm_p=math.nan,
        equivalence_p=math.nan,
        verdict="exploratory",
    )


def ends(view: View, label: str) -> dict[int, Curve]:
    """By seed, the reported runs of a label that a difference may be taken of.

    They are the finished ones, and where prompts' scores are stored those that diverged: they enter with the base's.
    """
    diverged = [
        curve
        for curve in view.unfinished
        if (curve.label, curve.part, curve.record.status) == (label, "main", "diverged")
        and curve.base_by_prompt() is not None
    ]
    return {curve.seed: curve for curve in (*view.of(label), *diverged)}


def _end(curve: Curve) -> float:
    if curve.record.status == "done":
        return curve.final("gold")
    base_P = curve.base_by_prompt()
    return math.nan if base_P is None else float(base_P.mean())


def _two_way(pairs: Sequence[tuple[Curve, Curve]], name: str) -> TwoWay | None:
    """None without a pair, or where one of the runs has no such scores of at least two prompts."""
    rows = [(_end_P(own, name), _end_P(base, name)) for own, base in pairs]
    known = [(own_P, base_P) for own_P, base_P in rows if own_P is not None and base_P is not None]
    if not known or len(known) < len(rows) or len({len(row_P) for pair in known for row_P in pair} | {1}) > 2:
        return None
    if len(known[0][0]) < 2:
        return None
    return two_way(np.array([own_P - base_P for own_P, base_P in known]))


def _end_P(curve: Curve, name: str) -> Floats | None:
    if curve.record.status != "done":
        return curve.base_by_prompt(name)
    read = curve.by_prompt(name)
    return None if read is None else read.end_P


def _decided(view: View, one: Contrast, member: words.Member) -> Contrast:
    """A primary contrast of a tuned suite with its word; none where a rate is open or not what trials chose."""
    both = {one.label, one.baseline}
    verdict: Verdict = member.word
    if one.seeds < words.FEWEST_SEEDS:
        verdict = "too few seeds"
    elif one.two_way is None:
        nothing = replace(UNTESTED, mean=one.result.difference.mean, seeds=one.seeds)
        one, verdict = replace(one, two_way=nothing), "too few common prompts"
    elif view.contradicted & both:
        verdict = "rate not as chosen"
    elif both & {choice.label for choice in view.choices if not choice.bracketed}:
        verdict = "rate not bracketed"
    return replace(one, holm_p=member.holm_p, equivalence_p=member.equivalence_p, verdict=verdict)


def _over_seeds(view: View, differences: Sequence[Contrast]) -> list[Contrast]:
    """Of a shared rate: rules version 1 decides by the paired t, and later ones decide nothing."""
    primary = [one for one in differences if one.primary]
    adjusted = dict(zip((one.label for one in primary), holm([one.result.p for one in primary]), strict=True))
    runs = (*view.curves, *view.unfinished)
    decides = all(curve.record.rules_version < BY_PROMPT_SINCE for curve in runs)
    return [
        one
        if not one.primary
        else replace(one, holm_p=adjusted[one.label], verdict=_first_edition(one, adjusted[one.label]))
        if decides
        else replace(one, verdict="exploratory")
        for one in differences
    ]


def _first_edition(one: Contrast, holm_p: float) -> Verdict:
    if one.seeds < words.FEWEST_SEEDS:
        return "too few seeds"
    if not holm_p < words.ALPHA:
        return "not shown to differ"
    return "better" if one.result.difference.mean > 0 else "worse"


def margin(choices: Sequence[ChoiceRecord], baseline: str) -> float:
    """The margin of equivalence that the baseline's trials give; NaN where they gained nothing, or there are none."""
    own = [choice for choice in choices if choice.label == baseline and choice.best is not None]
    if not own:
        return math.nan
    gain = own[-1].best_gain
    try:
        return words.equivalence_margin(math.nan if gain is None else gain)
    except UserError:
        return math.nan
