"""The two-way interval of a difference: against hand-made tables and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from grpo_bench.analysis.twoway import MeanSquares, TwoWay, mean_squares, two_way, variance, with_base
from grpo_bench.errors import UserError

TABLE = [[1.0, 2.0, 6.0], [2.0, 5.0, 8.0]]
"""Seeds' means 3 and 5, prompts' means 1.5, 3.5 and 7, mean 4.

MS_seeds = 3 (1 + 1) / 1 = 6. MS_prompts = 2 (6.25 + 0.25 + 9) / 2 = 15.5. Residuals of the first row: .5, -.5, 0 (the
second row has the opposite), so MS_error = 1 / 2.
"""


def squares(seeds: float, prompts: float, error: float) -> MeanSquares:
    return MeanSquares(np.array(0.0), np.array(seeds), np.array(prompts), np.array(error))


def test_the_table_by_hand() -> None:
    found = mean_squares(np.array(TABLE))

    assert (found.mean, found.seeds, found.prompts, found.error) == pytest.approx((4, 6, 15.5, 0.5))


def test_the_interval_by_hand() -> None:
    found = two_way(TABLE)

    # V = (6 + 15.5 - .5) / 6 = 3.5; df = 21^2 / (36 / 1 + 240.25 / 2 + .25 / 2) = 441 / 156.25.
    assert found.mean == pytest.approx(4)
    assert found.variance == pytest.approx(3.5)
    assert found.df == pytest.approx(441 / 156.25)
    half = stats.t.ppf(0.975, 441 / 156.25) * math.sqrt(3.5)
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half))
    assert found.p == pytest.approx(2 * stats.t.sf(4 / math.sqrt(3.5), 441 / 156.25))
    assert (found.seeds, found.prompts) == (2, 3)


def test_beside_it_stands_the_plain_t_over_seeds() -> None:
    table = np.random.default_rng(0).normal(0.3, 1, (6, 8))
    found = two_way(table)

    expected = stats.ttest_1samp(table.mean(axis=1), 0)
    assert found.plain_p == pytest.approx(expected.pvalue)
    assert (found.plain.low, found.plain.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_the_mean_squares_estimate_their_expectations() -> None:
    # Standard deviations .5 of seeds, 2 of prompts and 1 of the rest; each mean of 20,000 squares is within 4 standard
    # errors (a mean square's is E sqrt(2 / df / n)).
    rng = np.random.default_rng(1)
    seeds, prompts, n = 4, 6, 20_000
    table = 0.5 * rng.standard_normal((n, seeds, 1)) + 2 * rng.standard_normal((n, 1, prompts))
    found = mean_squares(table + rng.standard_normal((n, seeds, prompts)))

    for square, expected, df in (
        (found.seeds, prompts * 0.25 + 1, 3),
        (found.prompts, seeds * 4 + 1, 5),
        (found.error, 1.0, 15),
    ):
        assert square.mean() == pytest.approx(expected, abs=4 * expected * math.sqrt(2 / df / n))
    unbiased = (found.seeds + found.prompts - found.error).mean() / (seeds * prompts)
    assert unbiased == pytest.approx(0.25 / 4 + 4 / 6 + 1 / 24, rel=0.03)


def test_the_degrees_of_freedom_are_those_of_the_mean_square_that_the_maximum_takes() -> None:
    # MS_prompts < MS_error: V is MS_seeds alone.
    assert variance(squares(5, 1, 2), 10, 60) == pytest.approx((5 / 600, 9))
    # MS_seeds < MS_error: V is MS_prompts alone.
    assert variance(squares(1, 5, 2), 10, 60) == pytest.approx((5 / 600, 59))
    # Neither: all three. 25 / (16 / 9 + 9 / 59 + 4 / 531).
    assert variance(squares(4, 3, 2), 10, 60) == pytest.approx((5 / 600, 25 / (16 / 9 + 9 / 59 + 4 / 531)))


def test_the_degrees_of_freedom_are_at_least_those_of_the_fewer() -> None:
    # Satterthwaite's would be 1 / (1 / 9 + 1 / 59 + 1 / 531) = 7.7.
    assert variance(squares(1, 1, 1), 10, 60)[1] == 9
    assert variance(squares(1, 5, 2), 10, 4)[1] == 3


def test_with_one_source_only_it_is_a_t_interval_over_that_source() -> None:
    seed = np.array([0.1, 0.4, -0.2, 0.3, 0.5])
    prompt = np.array([0.3, -0.1, 0.2, 0.7])

    over_seeds = two_way(np.repeat(seed[:, None], 4, axis=1))
    over_prompts = two_way(np.repeat(prompt[None], 5, axis=0))

    assert over_seeds.p == pytest.approx(stats.ttest_1samp(seed, 0).pvalue)
    assert over_seeds.low == pytest.approx(over_seeds.plain.low)
    assert over_prompts.p == pytest.approx(stats.ttest_1samp(prompt, 0).pvalue)
    assert math.isnan(over_prompts.plain_p)  # a t over seeds that do not vary


def test_it_is_never_narrower_in_variance_than_the_plain_t() -> None:
    tables = np.random.default_rng(2).standard_normal((200, 5, 7))

    assert all((one := two_way(table)).variance * (1 + 1e-12) >= table.mean(axis=1).var(ddof=1) / 5 for table in tables)
    assert one.standard_error == pytest.approx(math.sqrt(one.variance))


def test_equivalence_is_two_one_sided_tests() -> None:
    found = two_way(TABLE)
    df, error = 441 / 156.25, math.sqrt(3.5)

    # Beyond either end of a margin of 6: (4 + 6) / s.e. above the lower, (6 - 4) / s.e. below the upper.
    expected = max(stats.t.sf(10 / error, df), stats.t.sf(2 / error, df))
    assert found.equivalence_p(6) == pytest.approx(expected)
    # At the margin the p is a half; outside it is more.
    assert found.equivalence_p(4) == pytest.approx(0.5)
    assert found.equivalence_p(3) > 0.5


def test_equivalence_at_5_percent_is_the_90_percent_interval_inside_the_margin() -> None:
    found = two_way(np.random.default_rng(3).normal(0.1, 1, (6, 9)))
    edge = found.mean + stats.t.ppf(0.95, found.df) * found.standard_error

    assert found.equivalence_p(edge) == pytest.approx(0.05)


def test_the_power_of_equivalence_at_ten_seeds() -> None:
    # docs/statistics.md: .89 at a margin of .02 and a standard deviation of .018. Four standard errors of 1,000.
    rows = np.random.default_rng(5).normal(0, 0.018, (1000, 10))
    shown = [two_way(np.repeat(row[:, None], 2, axis=1)).equivalence_p(0.02) < 0.05 for row in rows]

    assert np.mean(shown) == pytest.approx(0.888, abs=0.04)


@pytest.mark.parametrize("margin", [0, -0.1, math.nan, math.inf])
def test_a_margin_is_above_zero(margin: float) -> None:
    with pytest.raises(UserError, match="margin"):
        two_way(TABLE).equivalence_p(margin)


def test_no_difference_at_all_is_an_interval_of_zero_width() -> None:
    found = two_way(np.zeros((5, 4)))

    assert (found.mean, found.low, found.high, found.p, found.plain_p) == (0, 0, 0, 1, 1)
    assert found.equivalence_p(0.01) == 0


def test_a_constant_difference_has_no_test() -> None:
    found = two_way(np.full((5, 4), 0.1))

    assert found.mean == 0.1
    assert all(math.isnan(one) for one in (found.low, found.p, found.plain_p, found.equivalence_p(1)))


def test_one_seed_has_a_mean_only() -> None:
    found = two_way([[1.0, 2.0, 6.0]])

    assert found.mean == 3 and found.seeds == 1
    assert all(math.isnan(one) for one in (found.low, found.high, found.p, found.plain_p, found.equivalence_p(1)))


@pytest.mark.parametrize("table", [[[1.0], [2.0]], [1.0, 2.0], np.zeros((0, 3)), np.zeros((2, 3, 4))])
def test_less_than_two_prompts_or_another_shape_is_refused(table: object) -> None:
    with pytest.raises(UserError, match="two prompts"):
        two_way(table)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused_by_its_row(bad: float) -> None:
    with pytest.raises(UserError, match="row 1 "):
        two_way([[1.0, 2.0], [3.0, bad]])


def test_a_diverged_seed_enters_with_the_bases_scores() -> None:
    scores = [[0.5, 0.6], [math.nan, math.nan], [0.7, 0.8]]

    filled = with_base(scores, [False, True, False], [0.1, 0.2])

    assert filled.tolist() == [[0.5, 0.6], [0.1, 0.2], [0.7, 0.8]]
    assert with_base(scores, [0, 1, 0], np.full((3, 2), 0.3))[1].tolist() == [0.3, 0.3]


@pytest.mark.parametrize(("flags", "base"), [([True], [0.1, 0.2]), ([True, False], [0.1])])
def test_flags_and_base_that_do_not_fit_are_refused(flags: list[bool], base: list[float]) -> None:
    with pytest.raises(UserError):
        with_base([[1.0, 2.0], [3.0, 4.0]], flags, base)


def test_scale_and_sign_carry_over() -> None:
    table = np.random.default_rng(4).normal(0.2, 1, (5, 6))
    one, other = two_way(table), two_way(-1e-9 * table)

    assert (other.low, other.high) == pytest.approx((-1e-9 * one.high, -1e-9 * one.low))
    assert other.p == pytest.approx(one.p)
    assert isinstance(other, TwoWay)
