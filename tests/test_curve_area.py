"""The area under a curve: known areas, and what a lucky point adds."""

from __future__ import annotations

import numpy as np
import pytest

from grpo_bench.analysis.curve_area import curve_area
from grpo_bench.errors import UserError


def area(cost: object, value: object, **changed: float) -> float:
    return curve_area(cost, value, **{"budget": 100.0, "base": 0.0, "ceiling": 1.0} | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cost", "value", "expected"),
    [
        ([0, 100], [0.5, 0.5], 0.5),
        ([0, 7, 31, 100], [0.5, 0.5, 0.5, 0.5], 0.5),
        ([0, 100], [0, 1], 0.5),
        ([0, 3, 50, 64, 100], [0, 0.03, 0.5, 0.64, 1], 0.5),  # the same line, from uneven points
        ([0, 100], [0, 0], 0),
        ([0, 100], [1, 1], 1),
        ([0, 100], [0, 0.6], 0.3),
        ([0, 50, 100], [0, 0.6, 0.6], 0.45),  # a triangle of .15 and a rectangle of .3
        ([0, 50, 100, 200], [0, 0.6, 0.6, 9], 0.45),  # what comes past the budget is not read
        ([0, 100], [0, -0.2], -0.1),  # below the base counts below 0
        ([0, 50, 100], [0, 2, 2], 0.875),  # above the ceiling as the ceiling: a triangle of .125 up to cost 25, then 1
    ],
)
def test_areas_by_hand(cost: list[float], value: list[float], expected: float) -> None:
    assert area(cost, value) == pytest.approx(expected)


def test_a_lucky_point_lifts_a_constant_curve_by_its_own_share_only() -> None:
    cost = np.linspace(0, 100, 21)
    value = np.full(21, 0.5)
    value[3] = 1.0

    # A triangle of height .5 over two of twenty widths. A running maximum would add .5 from there on.
    assert area(cost, value) == pytest.approx(0.5 + 0.5 / 20)


def test_the_area_is_measured_from_the_base_to_the_ceiling() -> None:
    assert area([0, 100], [0.2, 0.6], base=0.2, ceiling=0.7) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cost": [0, 99]},  # ends before the last of the costs
        {"cost": [1, 100]},  # the base is missing
        {"cost": [0, 0]},
        {"value": [0.5, float("nan")]},
        {"base": 1.0},
        {"budget": 0.0},
    ],
)
def test_what_has_no_area_is_refused(wrong: dict[str, object]) -> None:
    given: dict[str, object] = {"cost": [0, 100], "value": [0.5, 0.5]} | wrong

    with pytest.raises(UserError):
        area(**given)  # type: ignore[arg-type]
