"""Time to a target: first passages that the next point confirms."""

from __future__ import annotations

import math

import pytest

from grpo_bench.analysis.targets import gain_targets, reached, time_to_target
from grpo_bench.errors import UserError


def test_a_passage_is_interpolated_within_its_segment() -> None:
    # From (10, 0.2) to (20, 0.6) the line is at 0.5 three quarters of the way.
    assert time_to_target([0, 10, 20, 30], [0, 0.2, 0.6, 0.7], 0.5) == pytest.approx(17.5)


def test_a_target_never_reached_is_infinitely_far() -> None:
    assert time_to_target([0, 10, 20], [0, 0.2, 0.4], 0.5) == math.inf


def test_a_passage_that_the_next_point_takes_back_does_not_count() -> None:
    # The spike at 10 is not confirmed; from (20, 0.3) to (30, 0.7) the line is at 0.5 half way, and 40 confirms it.
    assert time_to_target([0, 10, 20, 30, 40], [0, 0.9, 0.3, 0.7, 0.6], 0.5) == pytest.approx(25)


def test_a_passage_at_the_last_point_is_confirmed_by_nothing() -> None:
    assert time_to_target([0, 10, 20], [0, 0.2, 0.6], 0.5) == math.inf


def test_exactly_the_target_is_reached() -> None:
    assert time_to_target([0, 10, 20], [0, 0.5, 0.5], 0.5) == 10


def test_a_base_already_there_takes_its_own_cost() -> None:
    assert time_to_target([0, 10, 20], [0.6, 0.7, 0.2], 0.5) == 0
    assert time_to_target([5, 10], [0.6, 0.7], 0.5) == 5


def test_one_point_reaches_nothing() -> None:
    assert time_to_target([0], [0.6], 0.5) == math.inf


def test_a_pool_of_seeds_has_no_time() -> None:
    with pytest.raises(UserError, match="never pooled"):
        time_to_target([0, 10, 0, 10], [0, 1, 0, 1], 0.5)


@pytest.mark.parametrize(
    ("times", "median", "count"),
    [
        ([3.0, 1.0, 2.0], 2, 3),
        ([3.0, math.inf, 2.0], 3, 2),
        ([1.0, math.inf, math.inf], math.inf, 1),
        ([1.0, 2.0, math.inf, math.inf], math.inf, 2),
        ([math.inf, math.inf], math.inf, 0),
    ],
)
def test_unreached_seeds_count_in_the_median(times: list[float], median: float, count: int) -> None:
    found = reached(times)

    assert (found.median, found.reached, found.of) == (median, count, len(times))


def test_no_seeds_have_no_median() -> None:
    found = reached([])

    assert math.isnan(found.median) and found.reached == found.of == 0


def test_targets_are_shares_of_the_median_seeds_gain() -> None:
    # Finals 0.5, 0.6, 0.9 from 0.2: the median seed gains 0.4.
    assert gain_targets(0.2, [0.9, 0.5, 0.6]) == pytest.approx({"25": 0.3, "50": 0.4, "90": 0.56})
