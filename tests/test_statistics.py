"""Intervals, paired tests, Holm, the IQM and its bootstrap: against hand-made values."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from grpo_bench.analysis.statistics import (
    Estimate,
    holm,
    interquartile_mean,
    paired,
    stratified_bootstrap,
    t_interval,
)
from grpo_bench.errors import UserError

T_4 = 2.7764451051977934
"""The 0.975 quantile of Student's t with 4 degrees of freedom, as tables print it: 2.776."""


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_t_interval_by_hand() -> None:
    # Mean 3, s^2 = (4 + 1 + 0 + 1 + 4) / 4 = 2.5, standard error sqrt(2.5 / 5) = sqrt(0.5).
    estimate = t_interval([1, 2, 3, 4, 5])

    assert estimate.mean == 3 and estimate.n == 5
    assert estimate.high - 3 == pytest.approx(T_4 * math.sqrt(0.5), rel=1e-12)
    assert 3 - estimate.low == pytest.approx(T_4 * math.sqrt(0.5), rel=1e-12)


def test_a_t_interval_of_two_values_uses_the_cauchy_quantile() -> None:
    # With one degree of freedom t is Cauchy: its 0.975 quantile is tan(pi 0.475); s / sqrt(2) of {0, 2} is 1.
    assert t_interval([0, 2]).high == pytest.approx(1 + math.tan(math.pi * 0.475), rel=1e-12)


@pytest.mark.parametrize(("values", "mean"), [([], math.nan), ([7.0], 7.0)])
def test_below_two_values_there_is_no_interval(values: list[float], mean: float) -> None:
    estimate = t_interval(values)

    assert estimate.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(estimate.low) and math.isnan(estimate.high) and estimate.n == len(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_left_out(bad: float) -> None:
    estimate = t_interval([1, 2, bad])

    assert math.isnan(estimate.mean) and math.isnan(estimate.low) and estimate.n == 3
    assert math.isnan(paired([1, 2, bad], [1, 2, 3]).p)
    assert math.isnan(paired([1, 2, 3], [1, 2, bad]).permutation_p)


def test_one_number_a_seed_is_taken_and_no_table() -> None:
    with pytest.raises(UserError, match="one number a seed"):
        t_interval([[1.0, 2.0], [3.0, 4.0]])


def test_a_paired_difference_by_hand() -> None:
    # Differences 1, 2, 3, 4, 5: t = 3 / sqrt(0.5) = 4.2426 with 4 degrees of freedom.
    gain, baseline = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([10.0, 7.0, 4.0, 9.0, 1.0])
    found = paired(baseline + gain, baseline)

    assert found.difference == t_interval([1, 2, 3, 4, 5])
    # The distribution function of t with 4 degrees of freedom: 1/2 + 3/8 u (1 - u^2 / 12), u = t / sqrt(1 + t^2 / 4).
    t = 3 / math.sqrt(0.5)
    u = t / math.sqrt(1 + t * t / 4)
    assert found.p == pytest.approx(2 * (0.5 - 0.375 * u * (1 - u * u / 12)), rel=1e-9)
    assert found.correlation == pytest.approx(np.corrcoef(baseline + gain, baseline)[0, 1])


def test_the_difference_is_of_seeds_and_not_of_means() -> None:
    # Both orders have the same means; only one of them is the same on every seed.
    baseline = [1.0, 5.0, 9.0, 13.0, 17.0]
    kept = paired([2.0, 6.1, 10.0, 14.0, 18.0], baseline)
    shuffled = paired([18.0, 2.0, 14.0, 6.1, 10.0], baseline)

    assert kept.difference.mean == pytest.approx(shuffled.difference.mean)
    assert kept.p < 1e-4 < 0.5 < shuffled.p
    assert kept.correlation > 0.99


def test_the_bonferroni_interval_is_the_t_interval_at_the_shared_level() -> None:
    values, baseline = np.array([1.0, 2, 3, 4, 5]), np.zeros(5)
    level = 1 - 0.05 / 4
    expected = t_interval(values, level)

    assert paired(values, baseline, family=4).bonferroni == (expected.low, expected.high)
    # The 0.99375 quantile of t with 4 degrees of freedom is 4.315 (tables of the Bonferroni t, 4 comparisons).
    assert expected.high == pytest.approx(3 + 4.315 * math.sqrt(0.5), abs=1e-3)
    alone = paired(values, baseline)
    assert alone.bonferroni == (alone.difference.low, alone.difference.high)


def test_the_permutation_p_is_that_of_all_sign_flips() -> None:
    difference = np.array([0.5, -0.1, 0.8, 1.3, -0.4, 0.9])
    flipped = [
        sum(s * d for s, d in zip(signs, difference, strict=True)) for signs in itertools.product([1, -1], repeat=6)
    ]
    as_far = sum(abs(one) >= abs(difference.sum()) - 1e-12 for one in flipped)

    found = paired(difference, np.zeros(6))

    assert found.permutation_p == as_far / 64
    assert found.permutation_floor == 2 / 64


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 13])
def test_the_permutation_p_reaches_its_floor_and_no_further(seeds: int) -> None:
    found = paired(np.arange(seeds) + 100.0, np.zeros(seeds))

    assert found.permutation_p == found.permutation_floor == 2 / 2**seeds


@pytest.mark.parametrize("seeds", [14, 20])
def test_many_seeds_draw_permutations_and_say_so_in_the_floor(seeds: int) -> None:
    values = np.arange(seeds) + 100.0
    found = paired(values, np.zeros(seeds))

    assert found.permutation_p == found.permutation_floor == pytest.approx(2 / 10_000)
    assert paired(values, np.zeros(seeds)) == found


def test_a_method_that_equals_its_baseline_is_not_different() -> None:
    found = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], family=2)

    assert found.difference == Estimate(0, 0, 0, 3) and found.bonferroni == (0, 0)
    assert found.p == 1 and found.permutation_p == 1 and found.correlation == pytest.approx(1)


def test_a_constant_difference_has_no_t_test() -> None:
    # 1.1 - 1, 2.1 - 2 and 3.1 - 3 differ by rounding only: a t of 1e15 would be no evidence.
    found = paired([1.1, 2.1, 3.1], [1.0, 2.0, 3.0])

    assert found.difference.mean == pytest.approx(0.1)
    assert math.isnan(found.p) and found.permutation_p == found.permutation_floor == 0.25


@pytest.mark.parametrize("seeds", [0, 1])
def test_below_two_seeds_nothing_is_tested(seeds: int) -> None:
    found = paired([1.0] * seeds, [2.0] * seeds, family=3)

    for one in (found.p, found.permutation_p, found.permutation_floor, found.correlation, *found.bonferroni):
        assert math.isnan(one)
    assert found.difference.n == seeds


def test_a_spread_far_below_the_values_but_above_rounding_is_tested() -> None:
    # Differences 0, 1e-9 and 2e-9: t = sqrt(3) with 2 degrees of freedom, of which 1 - t / sqrt(2 + t^2) lies outside.
    found = paired([1.0, 2.0 + 1e-9, 3.0 + 2e-9], [1.0, 2.0, 3.0])

    assert found.p == pytest.approx(1 - math.sqrt(3 / 5), rel=1e-5)


def test_a_baseline_without_spread_has_no_correlation() -> None:
    assert math.isnan(paired([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]).correlation)


def test_two_seeds_always_lie_on_a_line_and_so_have_no_correlation() -> None:
    assert math.isnan(paired([1.0, 2.0], [1.0, 5.0]).correlation)
    assert paired([1.0, 2.0, 3.0], [1.0, 5.0, 9.0]).correlation == pytest.approx(1)


def test_unpaired_seeds_are_refused() -> None:
    with pytest.raises(UserError, match="3 against 2"):
        paired([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="at least one member"):
        paired([1, 2], [1, 2], family=0)


def test_holm_by_hand() -> None:
    # Sorted .01 .03 .04 -> x3 = .03, x2 = .06, x1 = .04, the last raised to .06 by monotony.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_never_exceeds_one() -> None:
    assert holm([0.5, 0.9, 0.6, 0.7]) == [1, 1, 1, 1]


def test_an_untestable_contrast_counts_in_the_family_and_stays_untested() -> None:
    adjusted = holm([0.01, math.nan, 0.04])

    assert adjusted[0] == pytest.approx(0.03) and adjusted[2] == pytest.approx(0.08)
    assert math.isnan(adjusted[1])


def test_holm_rejects_what_its_step_down_procedure_rejects() -> None:
    rng = np.random.default_rng(3)
    for p in rng.uniform(0, 0.06, (200, 4)):
        # Holm's own words: go through the sorted p, stop at the first above alpha / (m - j).
        rejected = set()
        for j, place in enumerate(np.argsort(p)):
            if p[place] > 0.05 / (4 - j):
                break
            rejected.add(int(place))
        assert {place for place, one in enumerate(holm(list(p))) if one <= 0.05} == rejected


def test_the_interquartile_mean_by_hand() -> None:
    # Of eight values two are dropped at either end: (3 + 4 + 5 + 6) / 4.
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -50]) == pytest.approx(3.5)
    # Of five values one is dropped at either end (floor of 5 / 4).
    assert interquartile_mean([9, 1, 2, 3, 100]) == pytest.approx((2 + 3 + 9) / 3)
    assert interquartile_mean([[0, 1, 2, 9], [4, 5, 6, 70]], axis=1).tolist() == [1.5, 5.5]


def test_a_stratified_bootstrap_keeps_each_workload_at_its_own_size() -> None:
    # Workloads without spread of their own: within a stratum every resample is the same, so the interval is a point.
    scores = [np.full(10, level, dtype=float) for level in (0, 1, 2, 3)]
    found = stratified_bootstrap(scores, interquartile_mean)

    assert (found.mean, found.low, found.high, found.n) == (1.5, 1.5, 1.5, 40)


def test_a_stratified_bootstrap_of_the_mean_has_the_normal_width() -> None:
    # The bootstrap's standard deviation of a mean of four strata of ten is sqrt(sum of variances / 10) / 4.
    rng = np.random.default_rng(0)
    scores = [rng.standard_normal(10) + level for level in range(4)]
    found = stratified_bootstrap(scores, np.mean, resamples=20_000)

    width = 2 * 1.96 * math.sqrt(sum(one.var() / 10 for one in scores)) / 4
    assert found.mean == pytest.approx(np.mean(scores))
    assert found.high - found.low == pytest.approx(width, rel=0.03)


def test_a_stratified_bootstrap_takes_workloads_with_different_numbers_of_seeds() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.standard_normal(10 + extra) for extra in range(4)]

    assert stratified_bootstrap(scores, interquartile_mean).n == 46


def test_a_stratified_bootstrap_repeats_itself_and_obeys_its_seed() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.standard_normal(10) for _ in range(4)]
    first = stratified_bootstrap(scores, interquartile_mean, resamples=200)

    assert stratified_bootstrap(scores, interquartile_mean, resamples=200) == first
    assert stratified_bootstrap(scores, interquartile_mean, resamples=200, seed=1) != first
    assert stratified_bootstrap(scores, interquartile_mean, resamples=201) != first


@pytest.mark.parametrize(
    ("workloads", "seeds", "words"), [(3, 10, "at least 4"), (4, 9, "at least 10"), (0, 0, "not 0")]
)
def test_an_aggregate_of_too_little_is_refused(workloads: int, seeds: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        stratified_bootstrap([np.arange(seeds, dtype=float)] * workloads, interquartile_mean)


def test_one_workload_with_too_few_seeds_is_enough_to_refuse() -> None:
    with pytest.raises(UserError, match="at least 10 seeds on each, and one has 9"):
        stratified_bootstrap([np.arange(seeds, dtype=float) for seeds in (10, 9, 10, 10)], interquartile_mean)


def test_an_aggregate_with_a_diverged_run_is_nan() -> None:
    scores = [np.arange(10.0) for _ in range(4)]
    scores[2][3] = np.nan

    assert math.isnan(stratified_bootstrap(scores, interquartile_mean).mean)
