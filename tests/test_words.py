"""The words of a family: a table of them, and Holm's correction by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grpo_bench.analysis.statistics import paired, permutation_floor, sign_flip
from grpo_bench.analysis.twoway import two_way
from grpo_bench.analysis.words import (
    Contrast,
    Correctness,
    Word,
    equivalence_margin,
    family,
    seeds_to_reject,
    word,
)
from grpo_bench.errors import UserError

MARGIN = 0.02
NONE = math.nan


def correctness(low: float, high: float, p: float = NONE) -> Correctness:
    return Correctness(low, high, p)


@pytest.mark.parametrize(
    ("seeds", "mean", "p", "equivalence_p", "part", "expected"),
    [
        (10, 0.1, 0.01, 0.9, None, "better"),
        (10, -0.1, 0.01, 0.9, None, "worse"),
        (10, 0.1, 0.05, 0.9, None, "not shown to differ"),
        (10, 0.1, 0.2, 0.9, None, "not shown to differ"),
        (10, 0.001, 0.2, 0.04, None, "no difference that matters"),
        (10, 0.001, 0.2, 0.05, None, "not shown to differ"),
        (10, 0.01, 0.01, 0.01, None, "better"),  # shown, though it is small
        (10, -0.01, 0.01, 0.01, None, "worse"),
        (4, 0.1, 0.01, 0.9, None, "too few seeds"),
        (5, 0.1, 0.01, 0.9, None, "better"),
        (4, 0.001, 0.2, 0.01, None, "too few seeds"),
        (10, 0.1, NONE, NONE, None, "not shown to differ"),
        (10, 0.1, 0.2, NONE, None, "not shown to differ"),
        # A composite gold: by the interval of its correctness.
        (10, 0.1, 0.01, 0.9, correctness(0.01, 0.09), "better"),
        (10, 0.1, 0.01, 0.9, correctness(-0.01, 0.09), "better, correctness not shown"),
        (10, 0.1, 0.01, 0.9, correctness(-0.01, 0.01), "better in appeal only"),
        (10, 0.1, 0.01, 0.9, correctness(0.001, 0.019), "better in appeal only"),
        (10, 0.1, 0.01, 0.9, correctness(-0.011, 0.021), "better, correctness not shown"),
        (10, 0.1, 0.01, 0.9, correctness(-0.011, 0.021, 0.03), "better in appeal only"),
        (10, 0.1, 0.01, 0.9, correctness(-0.09, -0.01), "better in appeal only"),
        (10, 0.1, 0.01, 0.9, correctness(NONE, NONE), "better, correctness not shown"),
        # It qualifies "better" alone.
        (10, -0.1, 0.01, 0.9, correctness(0.01, 0.09), "worse"),
        (10, 0.001, 0.2, 0.04, correctness(0.01, 0.09), "no difference that matters"),
        (10, 0.1, 0.2, 0.9, correctness(0.01, 0.09), "not shown to differ"),
        (4, 0.1, 0.01, 0.9, correctness(0.01, 0.09), "too few seeds"),
    ],
)
def test_the_table_of_words(
    seeds: int, mean: float, p: float, equivalence_p: float, part: Correctness | None, expected: Word
) -> None:
    found = word(seeds=seeds, mean=mean, holm_p=p, equivalence_p=equivalence_p, margin=MARGIN, correctness=part)

    assert found == expected


def test_without_a_margin_correctness_can_only_be_shown_or_not() -> None:
    part = correctness(-0.01, 0.01)

    assert (
        word(seeds=10, mean=0.1, holm_p=0.01, equivalence_p=NONE, correctness=part) == "better, correctness not shown"
    )


def differences(mean: float, sd: float, seed: int) -> np.ndarray:
    """Ten seeds by 40 prompts, of exactly this mean."""
    table = sd * np.random.default_rng(seed).standard_normal((10, 40))
    return table - table.mean() + mean


def contrast(mean: float, seed: int) -> Contrast:
    return Contrast(two_way(differences(mean, 0.1, seed)), margin=MARGIN)


def test_a_family_is_corrected_together() -> None:
    contrasts = {"a": contrast(0.1, 0), "b": contrast(0, 1), "c": contrast(-0.1, 2)}
    gold = {name: one.gold for name, one in contrasts.items()}

    found = family(contrasts)

    assert {name: one.word for name, one in found.items()} == {
        "a": "better",
        "b": "no difference that matters",
        "c": "worse",
    }
    # Holm: the smallest three times, the middle twice, the largest once; and the same for equivalence.
    p = sorted(gold, key=lambda name: gold[name].p)
    assert [found[name].holm_p for name in p] == pytest.approx(
        [3 * gold[p[0]].p, max(3 * gold[p[0]].p, 2 * gold[p[1]].p), gold[p[2]].p]
    )
    assert found["b"].equivalence_p == pytest.approx(3 * gold["b"].equivalence_p(MARGIN))


def test_a_larger_family_needs_more() -> None:
    one = contrast(0.0125, 0)
    assert 0.05 / 4 < one.gold.p < 0.05

    others = {name: contrast(0, k) for k, name in enumerate("bcd", start=1)}
    assert family({"a": one})["a"].word == "better"
    assert family({"a": one, **others})["a"].word == "not shown to differ"


def test_a_family_over_workloads_has_correctness_and_margins_of_each() -> None:
    gold = two_way(differences(0.1, 0.1, 0))
    right = two_way(differences(0, 0.05, 4))

    found = family(
        {
            "shown": Contrast(gold, two_way(differences(0.05, 0.1, 3)), MARGIN),
            "appeal": Contrast(gold, right, MARGIN),
            "unknown": Contrast(gold, two_way(differences(0.01, 0.5, 5)), MARGIN),
            "a smaller margin": Contrast(gold, right, MARGIN / 100),
            "no margin": Contrast(gold, right),
            "another gold": Contrast(gold, None, MARGIN),
        }
    )

    assert [one.word for one in found.values()] == [
        "better",
        "better in appeal only",
        "better, correctness not shown",
        "better, correctness not shown",
        "better, correctness not shown",
        "better",
    ]
    appeal = found["appeal"].correctness
    # Five have a correctness, and this one's equivalence is the surest.
    assert appeal is not None and appeal.equivalence_p == pytest.approx(5 * right.equivalence_p(MARGIN))
    assert (appeal.low, appeal.high) == (right.low, right.high)
    assert found["another gold"].correctness is None


def test_what_cannot_be_tested_still_counts_in_the_family() -> None:
    one = contrast(0.1, 0)
    found = family({"a": one, "b": Contrast(two_way(np.full((5, 4), 0.1)), margin=MARGIN)})

    assert found["a"].holm_p == pytest.approx(2 * one.gold.p)
    assert found["b"].word == "not shown to differ"


def test_the_margin_is_a_tenth_of_the_tuning_gain() -> None:
    assert equivalence_margin(0.15) == pytest.approx(0.015)


@pytest.mark.parametrize("gain", [0, -0.1, math.nan, math.inf])
def test_a_baseline_that_gained_nothing_has_no_margin(gain: float) -> None:
    with pytest.raises(UserError, match="margin"):
        equivalence_margin(gain)


def test_seeds_at_which_a_permutation_could_reject() -> None:
    # 2 / 2^5 = .0625 and 2 / 2^6 = .031; four contrasts: 4 x 2 / 2^7 = .0625 and 4 x 2 / 2^8 = .031.
    assert [seeds_to_reject(m) for m in (1, 2, 4, 12)] == [6, 7, 8, 9]
    # Beyond 13 seeds the floor is 2 / 10,000: times 249 it is below .05, times 250 it is not.
    assert seeds_to_reject(249) == 14
    for impossible in (0, 250):
        with pytest.raises(UserError):
            seeds_to_reject(impossible)


def test_the_sign_flip_p_of_differences_is_the_paired_one() -> None:
    values = np.random.default_rng(0).normal(0.5, 1, 8)
    found = paired(values + 3, np.full(8, 3.0))

    assert sign_flip(values) == pytest.approx((found.permutation_p, found.permutation_floor))
    # All of one sign: as far from zero as any of the 2^8 flips.
    assert sign_flip(np.arange(1.0, 9.0)) == (2 / 2**8, permutation_floor(8))
