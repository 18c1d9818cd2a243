"""Attainment surfaces against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from grpo_bench.analysis.attainment import attainment, band_levels
from grpo_bench.errors import UserError

CURVES = [
    ([1.0, 2.0, 3.0], [0.1, 0.2, 0.6]),
    ([1.0, 2.0, 3.0], [0.3, 0.1, 0.4]),
    ([1.0, 2.0, 3.0], [0.0, 0.5, 0.2]),
]


def test_surfaces_by_hand() -> None:
    # Best so far of the three seeds: at cost 1 {.1, .3, .0}, at 2 {.2, .3, .5}, at 3 {.6, .4, .5}; the k-th largest.
    one, two, three = attainment(CURVES, levels=(1, 2, 3))

    assert one.cost_P.tolist() == [1, 2, 3] and one.value_P.tolist() == [0.3, 0.5, 0.6]
    assert two.cost_P.tolist() == [1, 2, 3] and two.value_P.tolist() == [0.1, 0.3, 0.5]
    assert three.cost_P.tolist() == [1, 2, 3] and three.value_P.tolist() == [0.0, 0.2, 0.4]


def test_a_surface_says_what_it_is() -> None:
    surfaces = attainment(CURVES[:1] * 5)

    assert [one.label for one in surfaces] == [f"attained by at least {k} of 5 seeds" for k in (2, 3, 4)]


@pytest.mark.parametrize(
    ("seeds", "levels"),
    [(0, ()), (1, (1,)), (2, (1, 2)), (3, (2, 3)), (5, (2, 3, 4)), (10, (4, 6, 8)), (15, (6, 9, 12))],
)
def test_bands_are_at_two_three_and_four_fifths_of_the_seeds(seeds: int, levels: tuple[int, ...]) -> None:
    assert band_levels(seeds) == levels


def test_seeds_need_not_share_their_costs() -> None:
    # Seed one holds 0.5 from cost 1 on, seed two from 4 on: both hold it from 4 on.
    (both,) = attainment([([1.0], [0.5]), ([4.0], [0.7])], levels=(2,))

    assert both.cost_P.tolist() == [4] and both.value_P.tolist() == [0.5]


@pytest.mark.parametrize("seeds", [3, 5, 7, 9, 10, 13])
def test_every_level_is_the_kth_largest_of_the_seeds_best_so_far(seeds: int) -> None:
    # Of nine seeds, moocore's percentage of k of them times nine is a little less than k hundred for some k.
    rng = np.random.default_rng(seeds)
    cost = np.arange(1.0, 9.0)
    value_SM = rng.uniform(size=(seeds, 8))
    best_SM = np.maximum.accumulate(value_SM, axis=1)

    surfaces = attainment([(cost, value) for value in value_SM], levels=range(1, seeds + 1))

    assert [one.level for one in surfaces] == list(range(1, seeds + 1))
    for surface in surfaces:
        expected = np.sort(best_SM, axis=0)[seeds - surface.level]
        held = surface.value_P[np.searchsorted(surface.cost_P, cost, side="right") - 1]
        assert held.tolist() == expected.tolist()


def test_no_curves_have_no_surfaces() -> None:
    assert attainment([]) == ()


@pytest.mark.parametrize("level", [0, 4, -1])
def test_a_level_that_no_number_of_seeds_makes_is_refused(level: int) -> None:
    with pytest.raises(UserError, match="from 1 to the number of seeds, 3"):
        attainment(CURVES, levels=(level,))


def test_a_pool_in_place_of_a_seed_is_refused() -> None:
    pooled = ([1.0, 2.0, 1.0, 2.0], [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(UserError, match="never pooled"):
        attainment([pooled, CURVES[0]])
