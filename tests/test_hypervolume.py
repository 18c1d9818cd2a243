"""The hypervolume of one seed's curve: against rectangles by hand, and never of a pool."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grpo_bench.analysis.hypervolume import COSTS, grid, hypervolume, hypervolumes, noise_floor, resample
from grpo_bench.errors import UserError


def test_one_point_dominates_its_rectangle() -> None:
    # Cost 4 of 10, value 0.6 between 0.2 and 1: (6 / 10) (0.4 / 0.8).
    assert hypervolume([4.0], [0.6], cost_ref=10, base=0.2, best=1) == pytest.approx(0.3)


def test_three_points_make_a_staircase() -> None:
    # Slabs of value times what is left of the cost: 10 x 8, then 20 x 6 more, then 30 x 1 more; the box is 10 x 100.
    area = hypervolume([2, 4, 9], [10, 30, 60], cost_ref=10, base=0, best=100)

    assert area == pytest.approx((10 * 8 + 20 * 6 + 30 * 1) / 1000)


def test_a_point_below_an_earlier_one_adds_nothing() -> None:
    assert hypervolume([2, 5], [10, 9], cost_ref=10, base=0, best=100) == pytest.approx(80 / 1000)


def test_values_above_the_best_count_as_the_best() -> None:
    assert hypervolume([0.0], [7.0], cost_ref=10, base=0, best=1) == 1
    assert hypervolume([5], [7], cost_ref=10, base=0, best=1) == 0.5


@pytest.mark.parametrize(("cost", "value"), [(10, 0.9), (11, 0.9), (5, 0.0), (5, -3.0)])
def test_points_outside_the_box_count_nothing(cost: float, value: float) -> None:
    assert hypervolume([cost], [value], cost_ref=10, base=0, best=1) == 0


def test_the_hypervolume_does_not_depend_on_units() -> None:
    cost, value = np.array([1.0, 3.0, 7.0]), np.array([0.1, 0.5, 0.6])
    share = hypervolume(cost, value, cost_ref=8, base=0, best=1)

    assert hypervolume(1000 * cost, 5 + 20 * value, cost_ref=8000, base=5, best=25) == pytest.approx(share)


def test_the_callers_curve_is_left_as_it_was() -> None:
    cost, value = np.array([1.0, 3.0]), np.array([0.1, 2.0])
    hypervolume(cost, value, cost_ref=8, base=0, best=1)

    assert cost.tolist() == [1, 3] and value.tolist() == [0.1, 2]


def test_pooled_seeds_are_refused_however_they_are_pooled() -> None:
    # Two seeds on the same costs: their union would score more than either, and grow with every seed.
    cost, first, second = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.5, 0.6]), np.array([0.3, 0.4, 0.7])
    alone = hypervolumes([(cost, first), (cost, second)], cost_ref=4, base=0, best=1)
    assert alone.shape == (2,)

    ordered = np.argsort(np.tile(cost, 2), kind="stable")
    pools = [
        (np.tile(cost, 2), np.concatenate([first, second])),
        (np.tile(cost, 2)[ordered], np.concatenate([first, second])[ordered]),
        (np.stack([cost, cost]), np.stack([first, second])),
        (cost, np.stack([first, second])),
    ]
    for pooled_cost, pooled_value in pools:
        with pytest.raises(UserError, match="never pooled into one front"):
            hypervolume(pooled_cost, pooled_value, cost_ref=4, base=0, best=1)
        with pytest.raises(UserError, match="never pooled into one front"):
            resample(pooled_cost, pooled_value, [2.0])


def test_the_mean_over_seeds_does_not_grow_with_their_number() -> None:
    # Seeds of pure noise: a pooled front's hypervolume would rise toward 1 with every seed; their mean does not.
    rng = np.random.default_rng(0)
    curves = [(grid(1.0), rng.uniform(0, 1, COSTS)) for _ in range(400)]
    few = hypervolumes(curves[:40], cost_ref=1, base=0, best=1)
    many = hypervolumes(curves, cost_ref=1, base=0, best=1)
    front = np.max([value for _, value in curves], axis=0)

    assert many.mean() == pytest.approx(few.mean(), abs=0.03)
    assert hypervolume(grid(1.0), front, cost_ref=1, base=0, best=1) > many.mean() + 0.05


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"best": 0.0}, "must be above the base"),
        ({"cost_ref": 0.0}, "must be above zero"),
        ({"cost_M": [-1.0, 2.0]}, "cannot be below zero"),
        ({"value_M": [0.1, math.nan]}, "finite"),
        ({"value_M": [0.1]}, "a value for each cost"),
        ({"cost_M": [], "value_M": []}, "at least one"),
    ],
)
def test_bad_input_is_one_sentence(arguments: dict[str, float | list[float]], words: str) -> None:
    given = {"cost_M": [1.0, 2.0], "value_M": [0.1, 0.2], "cost_ref": 4.0, "base": 0.0, "best": 1.0} | arguments
    with pytest.raises(UserError, match=words):
        hypervolume(given.pop("cost_M"), given.pop("value_M"), **given)


def test_the_grid_is_twenty_equal_steps_to_the_budget_itself() -> None:
    costs = grid(64_000)

    assert len(costs) == 20 and costs[0] == 3_200 and costs[-1] == 64_000
    assert np.diff(costs) == pytest.approx(np.full(19, 3_200))
    # The view's cut is a run's own last cost: rounding must not put the grid's end beyond it.
    for cut in np.random.default_rng(0).uniform(0, 1e5, 1000):
        assert grid(cut)[-1] == cut


@pytest.mark.parametrize("budget", [0, -1, math.nan, math.inf])
def test_a_grid_needs_a_budget(budget: float) -> None:
    with pytest.raises(UserError, match="above zero"):
        grid(budget)


def test_resampling_is_linear_between_points() -> None:
    assert resample([0, 10, 30], [1, 2, 6], [0, 5, 10, 20, 30]).tolist() == [1, 1.5, 2, 4, 6]


@pytest.mark.parametrize("beyond", [[5.0, 30.1], [-0.1, 5.0]])
def test_resampling_never_extrapolates(beyond: list[float]) -> None:
    with pytest.raises(UserError, match="never extrapolated: it was evaluated from cost 0 to 30"):
        resample([0, 10, 30], [1, 2, 6], beyond)


def test_the_noise_floor_is_the_largest_difference_between_evaluations_of_the_base() -> None:
    gold, share = noise_floor([0.50, 0.53, 0.49, 0.51], base=0.5, best=0.9)

    assert gold == pytest.approx(0.04) and share == pytest.approx(0.1)
    assert noise_floor([0.50, 0.53], base=0.5, best=0.9) == pytest.approx((0.03, 0.075))


@pytest.mark.parametrize("values", [[], [0.5]])
def test_one_evaluation_of_the_base_says_nothing_of_noise(values: list[float]) -> None:
    assert all(math.isnan(one) for one in noise_floor(values, base=0.5, best=0.9))


def test_a_method_that_learns_nothing_stays_within_the_noise_floor() -> None:
    # Given evaluations of the base that differ by noise, and runs whose every point is one of them,
    rng = np.random.default_rng(1)
    evaluations = 0.5 + 0.02 * rng.standard_normal(5)
    _, floor = noise_floor(evaluations, base=float(evaluations[0]), best=0.9)

    # when their hypervolume is taken, then noise has made some, and none is beyond the floor.
    curves = [(grid(100.0), rng.choice(evaluations, COSTS)) for _ in range(50)]
    areas = hypervolumes(curves, cost_ref=100, base=float(evaluations[0]), best=0.9)
    assert 0 < areas.max() <= floor
