"""Gradient quality, exploration potential and rank correlations, against hand counts and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grpo_bench.analysis.diagnosis import rank_correlation, whole
from grpo_bench.analysis.gradients import Measured, Products, Quality, enough, own_target_snr, quality
from grpo_bench.analysis.potential import components, share


def products(g_KW: np.ndarray, h_JW: np.ndarray, nfe: float) -> Products:
    return Products(g_KW @ g_KW.T, g_KW @ h_JW.T, h_JW @ h_JW.T, nfe)


def drawn(seed: int, *, count: int = 20, width: int = 400, noise: float = 0.2, nfe: float = 4000) -> Products:
    """Estimates (1, 0, ...) + noise and twelve targets (.8, .6, 0, ...) + noise, so that b is .8."""
    stream = np.random.default_rng(seed)
    g_KW, h_JW = noise * stream.standard_normal((count, width)), 0.05 * stream.standard_normal((12, width))
    g_KW[:, 0] += 1
    h_JW[:, 0] += 0.8
    h_JW[:, 1] += 0.6
    return products(g_KW, h_JW, nfe)


def test_the_figures_of_three_vectors_are_those_worked_out_by_hand() -> None:
    # given g = (2, 0), (2, 1), (2, -1) and h = (1, 0) three times: S = (4 + 4 + 3) / 3, T = (4 + 5 + 5) / 3, A = 2,
    # H = 1, N = 1, and n = 16,000 / 8,000 = 2
    g_KW = np.array([[2.0, 0.0], [2.0, 1.0], [2.0, -1.0]])
    found = quality(products(g_KW, np.tile([1.0, 0.0], (3, 1)), 8000))

    assert found.signal.value == pytest.approx(11 / 3)
    assert found.noise == pytest.approx(1)
    assert found.q.value == pytest.approx(2 / math.sqrt(11 / 3 + 1 / 2))
    assert found.b.value == pytest.approx(2 / math.sqrt(11 / 3))
    assert found.snr.value == pytest.approx(1000 * (11 / 3) / 8000)

    # and S without each in turn is 3, 4 and 4, whose jackknife error is sqrt(2 / 3 (4 / 9 + 1 / 9 + 1 / 9))
    assert found.signal.error == pytest.approx(2 / 3)


def test_the_figures_do_not_depend_on_the_gradients_units() -> None:
    given = drawn(0)
    scaled = Products(9 * given.gg_KK, 3 * 5 * given.gh_KJ, 25 * given.hh_JJ, given.nfe)

    one, other = quality(given), quality(scaled)

    for name in ("q", "b", "snr"):
        assert getattr(one, name).value == pytest.approx(getattr(other, name).value)
        assert getattr(one, name).error == pytest.approx(getattr(other, name).error)


def test_the_figures_are_unbiased_and_their_errors_those_of_repetition() -> None:
    # given 300 repetitions; S = 1, N = 400 x .04 = 16, n = 4: q = .8 / sqrt(1 + 4), b = .8, snr = 1000 / (16 x 4000)
    found = [quality(drawn(seed)) for seed in range(300)]

    for name, true in (("q", 0.8 / math.sqrt(5)), ("snr", 1 / 64)):
        values = np.array([getattr(one, name).value for one in found])
        errors = np.array([getattr(one, name).error for one in found])
        assert values.mean() == pytest.approx(true, abs=4 * values.std() / math.sqrt(300) + 0.02 * true)
        assert np.sqrt(np.square(errors).mean()) == pytest.approx(values.std(), rel=0.2), name
    b = np.array([one.b.value for one in found if math.isfinite(one.b.value)])
    assert np.median(b) == pytest.approx(0.8, abs=0.05)


def test_no_bias_is_given_where_the_signal_is_not_shown() -> None:
    # given estimates of noise alone
    stream = np.random.default_rng(1)
    found = quality(products(stream.standard_normal((10, 50)), np.tile(stream.standard_normal(50), (12, 1)), 1000))

    assert found.signal.value < 2 * found.signal.error
    assert math.isnan(found.b.value) and math.isfinite(found.q.value)


def test_two_estimates_or_none_at_all_give_no_figures() -> None:
    for count in (0, 1, 2):
        found = quality(products(np.ones((count, 2)), np.ones((12, 2)), 1000))
        assert math.isnan(found.q.value) and found.iterations == count


@pytest.mark.parametrize(
    ("iterations", "error", "nfe", "stops"),
    [
        (7, 0.001, 100, False),
        (8, 0.019, 100, True),
        (8, 0.021, 100, False),
        (40, 0.5, 4000, True),
        (8, math.nan, 20_000, True),
    ],
)
def test_measuring_stops_when_it_is_known_well_enough_or_dear_enough(
    iterations: int, error: float, nfe: float, stops: bool
) -> None:
    nothing = Measured(0.5, 0.1)

    assert enough(Quality(iterations, nfe, Measured(0.5, error), nothing, nothing, nothing, 1.0)) is stops


def test_signal_to_noise_against_known_targets_is_the_share_along_them() -> None:
    # given g = 3 e + noise orthogonal to e, |e|^2 = 2 and 1, |noise|^2 = 4 and 2: signal 9 x 3 of 33, noise 6
    found = own_target_snr([6.0, 3.0], [2.0, 1.0], [22.0, 11.0], 500)

    assert found.value == pytest.approx(1000 * 27 / (6 * 500))


def test_a_triangle_becomes_the_whole_matrix() -> None:
    assert whole([[1.0], [2.0, 3.0]]).tolist() == [[1.0, 2.0], [2.0, 3.0]]


def test_the_share_decided_later_is_that_of_a_known_mixture() -> None:
    # given variance 1 between trunks and 3 within, over 4 trunks x 6 children of 2,000 prompts
    stream = np.random.default_rng(0)
    trunk = stream.standard_normal((4, 1, 2000))
    within_P, between_P = components(trunk + math.sqrt(3) * stream.standard_normal((4, 6, 2000)))
    found = share(within_P, between_P)

    assert found.value == pytest.approx(0.75, abs=4 * found.error)
    assert 0.001 < found.error < 0.01


def test_the_error_of_a_share_is_that_of_repetition() -> None:
    shares, errors = [], []
    for seed in range(300):
        stream = np.random.default_rng(seed)
        score_MCP = stream.standard_normal((4, 1, 24)) + stream.standard_normal((4, 6, 24))
        found = share(*components(score_MCP))
        shares.append(found.value)
        errors.append(found.error)

    assert np.sqrt(np.square(errors).mean()) == pytest.approx(np.std(shares), rel=0.2)


def test_children_alike_decide_nothing_and_trunks_alike_leave_everything() -> None:
    alike_MCP = np.broadcast_to(np.arange(4.0)[:, None, None], (4, 6, 3))
    assert share(*components(alike_MCP)).value == 0

    # siblings of variance 3.5 about one mean: B = -3.5 / 6, so that the unbiased share passes 1
    free_MCP = np.broadcast_to(np.arange(6.0)[None, :, None], (4, 6, 3))
    assert share(*components(free_MCP)).value == pytest.approx(6 / 5)
    assert math.isnan(share(np.zeros(3), np.zeros(3)).value)


def test_a_rank_correlation_is_spearmans_with_bonett_and_wrights_interval() -> None:
    # given one neighbouring pair of six exchanged: rho = 1 - 6 x 2 / (6 x 35)
    found = rank_correlation([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5])

    rho = 1 - 12 / 210
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 3)
    assert (found.labels, found.value) == (6, pytest.approx(rho))
    assert found.low == pytest.approx(math.tanh(math.atanh(rho) - half), abs=1e-6)
    assert found.high == pytest.approx(math.tanh(math.atanh(rho) + half), abs=1e-6)


def test_equal_orders_are_no_certainty() -> None:
    same = rank_correlation([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    reverse = rank_correlation([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1])

    assert (same.value, same.high) == (1, 1) and 0 < same.low < 1
    assert (reverse.value, reverse.low) == (-1, -1) and reverse.high == pytest.approx(-same.low)


def test_few_labels_or_ties_throughout_have_no_rank_correlation() -> None:
    assert math.isnan(rank_correlation([1, 2, 3], [1, 2, 3]).value)
    assert math.isnan(rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).value)
    assert rank_correlation([1, 2, 3, 4, math.nan], [1, 2, 4, 3, 5]).labels == 4
