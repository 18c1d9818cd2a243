"""The words of a family of contrasts: from differences to "better", and no stronger than they allow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from grpo_bench.analysis.statistics import holm, permutation_floor
from grpo_bench.analysis.twoway import TwoWay
from grpo_bench.errors import UserError

FEWEST_SEEDS = 5
"""Below this many seeds no word is given."""
ALPHA = 0.05
MARGIN_SHARE = 0.1
"""The margin as a share of the gain that flat-window had in tuning."""

Word = Literal[
    "better",
    "worse",
    "better, correctness not shown",
    "better in appeal only",
    "no difference that matters",
    "not shown to differ",
    "too few seeds",
]


@dataclass(frozen=True)
class Contrast:
    """One label against its baseline on one workload, as it was named before anything ran."""

    gold: TwoWay
    correctness: TwoWay | None = None
    """The same contrast in the part of a composite gold that says whether an image is right; None for another gold."""
    margin: float | None = None
    """In gold (`equivalence_margin`, the workload's own); without one nothing is called equivalent."""


@dataclass(frozen=True)
class Correctness:
    """What a word takes of the difference in correctness."""

    low: float
    high: float
    equivalence_p: float
    """Holm's over the family; nan without a margin."""


@dataclass(frozen=True)
class Member:
    """One contrast of a family."""

    holm_p: float
    equivalence_p: float
    """Holm's over the family; nan without a margin."""
    correctness: Correctness | None
    """None where gold is not composite."""
    word: Word


def word(
    *,
    seeds: int,
    mean: float,
    holm_p: float,
    equivalence_p: float,
    margin: float | None = None,
    correctness: Correctness | None = None,
) -> Word:
    """The word for a contrast.

    A difference that is shown (Holm's p below 0.05) comes before one that does not matter, since both may hold. A gain
    in correctness that lies within the margin is none that matters: "better in appeal only", also where its interval
    is above 0; and so it is where the interval is below 0. A nan, for what could not be tested, shows nothing.
    """
    if seeds < FEWEST_SEEDS:
        return "too few seeds"
    if holm_p < ALPHA and mean < 0:
        return "worse"
    if holm_p < ALPHA and mean > 0:
        return "better" if correctness is None else _by_correctness(correctness, margin)
    return "no difference that matters" if equivalence_p < ALPHA else "not shown to differ"


def family(contrasts: Mapping[str, Contrast]) -> dict[str, Member]:
    """A word for each contrast of a family, which may lie on several workloads; Holm's correction over all of them.

    The tests of a difference, of equivalence, and of equivalence in correctness (of those that have it) are three
    families of p. A contrast that cannot be tested still counts.
    """
    holm_p = _holm({name: one.gold.p for name, one in contrasts.items()})
    equivalence_p = _holm({name: _equivalence(one.gold, one.margin) for name, one in contrasts.items()})
    composite = {name: one.correctness for name, one in contrasts.items() if one.correctness is not None}
    correctness_p = _holm({name: _equivalence(part, contrasts[name].margin) for name, part in composite.items()})
    correctness = {name: Correctness(part.low, part.high, correctness_p[name]) for name, part in composite.items()}
    return {
        name: Member(
            holm_p[name],
            equivalence_p[name],
            correctness.get(name),
            word(
                seeds=one.gold.seeds,
                mean=one.gold.mean,
                holm_p=holm_p[name],
                equivalence_p=equivalence_p[name],
                margin=one.margin,
                correctness=correctness.get(name),
            ),
        )
        for name, one in contrasts.items()
    }


def equivalence_margin(tuning_gain: float) -> float:
    """A tenth of flat-window's tuning gain (at its tuned rate, in gold): frozen before the reported seeds run.

    Raises `UserError` unless it gained something.
    """
    if not tuning_gain > 0 or not math.isfinite(tuning_gain):
        raise UserError(
            f"the margin is a tenth of what flat-window gained in tuning, and it gained {tuning_gain:g}: "
            "go without a margin, and nothing is called equivalent"
        )
    return MARGIN_SHARE * tuning_gain


def seeds_to_reject(contrasts: int) -> int:
    """The fewest seeds at which a permutation p could be below 0.05 after Holm's correction for so many contrasts.

    Its floor, times `contrasts`, has to be below 0.05: 6 seeds for one contrast, 8 for four. Raises `UserError` where
    no number of seeds is enough, since beyond 13 seeds the floor is that of 9,999 drawn permutations.
    """
    if contrasts < 1:
        raise UserError(f"a family of contrasts has at least one member, not {contrasts}")
    for seeds in range(2, 15):
        if contrasts * permutation_floor(seeds) < ALPHA:
            return seeds
    raise UserError(f"with {contrasts} contrasts no permutation test of ours can reject: name fewer")


def _by_correctness(correctness: Correctness, margin: float | None) -> Word:
    inside = margin is not None and -margin < correctness.low and correctness.high < margin
    if inside or correctness.equivalence_p < ALPHA or correctness.high < 0:
        return "better in appeal only"
    return "better" if correctness.low > 0 else "better, correctness not shown"


def _equivalence(difference: TwoWay, margin: float | None) -> float:
    return math.nan if margin is None else difference.equivalence_p(margin)


def _holm(p: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(p, holm(list(p.values())), strict=True))
