"""The exploration potential: the decided share on made-up tables, and on a forest whose variance is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grpo_bench.evaluation.potential import decided_share


def table(trunk: float, child: float) -> np.ndarray:
    """Rewards (P, T, C) of many prompts with these standard deviations between trunks and between children."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((4000, 1, 1))
    return mean + trunk * rng.standard_normal((4000, 4, 1)) + child * rng.standard_normal((4000, 4, 6))


@pytest.mark.parametrize(("trunk", "child"), [(1.0, 1.0), (2.0, 1.0), (0.5, 1.0)])
def test_the_share_is_that_of_the_variances(trunk: float, child: float) -> None:
    assert decided_share(table(trunk, child)) == pytest.approx(child**2 / (child**2 + trunk**2), abs=0.02)


def test_children_that_differ_only_by_chance_decide_everything() -> None:
    assert decided_share(table(0.0, 1.0)) > 0.97


def test_equal_children_decide_nothing() -> None:
    assert decided_share(table(1.0, 0.0)) == pytest.approx(0, abs=1e-12)


def test_a_reward_without_variance_has_no_share() -> None:
    assert math.isnan(decided_share(np.ones((3, 4, 6))))


def test_a_small_table_by_hand() -> None:
    # Children 0, 2 and 4, 6: within (2 + 2) / 2 = 2; between 2 * var(1, 5) = 16; trunks (16 - 2) / 2 = 7.
    assert decided_share(np.array([[[0.0, 2.0], [4.0, 6.0]]])) == pytest.approx(2 / (2 + 7))
