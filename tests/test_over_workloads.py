"""A mean over workloads: Welch's interval against scipy, and workloads that are missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from grpo_bench.analysis.over_workloads import Scale, over_workloads
from grpo_bench.analysis.twoway import TwoWay, two_way
from grpo_bench.errors import UserError


def over_seeds(values: np.ndarray) -> TwoWay:
    """A table that varies over seeds alone: mean, error and n - 1 degrees of freedom are those of `values`."""
    return two_way(np.repeat(values[:, None], 3, axis=1))


def test_of_two_workloads_it_is_welchs_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.3, 1, 6), rng.normal(0.2, 3, 9)
    scales = {"a": Scale(0, 1), "b": Scale(0, 1)}

    found = over_workloads({"a": over_seeds(first), "b": over_seeds(second)}, scales, ["a", "b"])

    # The sum of two means has the same error and degrees of freedom as their difference.
    expected = stats.ttest_ind(first, -second, equal_var=False)
    interval = expected.confidence_interval()
    assert found.df == pytest.approx(expected.df)
    assert found.p == pytest.approx(expected.pvalue)
    assert (2 * found.low, 2 * found.high) == pytest.approx((interval.low, interval.high))


def test_each_workload_counts_the_same_in_its_own_units() -> None:
    differences = {"a": over_seeds(np.array([0.1, 0.2, 0.3])), "b": over_seeds(np.array([0.0, 0.1, 0.2]))}
    scales = {"a": Scale(0.3, 0.7), "b": Scale(0.1, 0.6)}

    found = over_workloads(differences, scales, ["a", "b"])

    assert found.shares == pytest.approx({"a": 0.2 / 0.4, "b": 0.1 / 0.5})
    assert found.mean == pytest.approx(0.35)
    # Standard errors .1 / sqrt(3), over .4 and .5.
    assert found.standard_error == pytest.approx(0.1 / math.sqrt(3) * math.hypot(1 / 0.4, 1 / 0.5) / 2)


def test_equal_errors_add_their_degrees_of_freedom() -> None:
    one = over_seeds(np.array([0.1, 0.2, 0.4, 0.5]))
    names = ["a", "b", "c"]

    found = over_workloads(dict.fromkeys(names, one), dict.fromkeys(names, Scale(0, 1)), names)

    assert found.df == pytest.approx(3 * 3)
    assert found.mean == pytest.approx(one.mean)
    assert found.standard_error == pytest.approx(one.standard_error / math.sqrt(3))


def test_no_difference_anywhere_is_no_difference() -> None:
    nothing = dict.fromkeys("ab", two_way(np.zeros((5, 4))))

    found = over_workloads(nothing, dict.fromkeys("ab", Scale(0, 1)), ["a", "b"])

    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_workload_without_an_interval_leaves_a_mean_without_one() -> None:
    differences = {"a": two_way([[0.1, 0.2]]), "b": over_seeds(np.array([0.0, 0.1, 0.2]))}

    found = over_workloads(differences, dict.fromkeys("ab", Scale(0, 1)), ["a", "b"])

    assert found.mean == pytest.approx(0.125)
    assert math.isnan(found.low) and math.isnan(found.p)


@pytest.mark.parametrize(
    ("workloads", "told"),
    [(["a", "b", "c"], "difference of each .* c has"), (["a", "d"], "ceiling"), (["a"], "two"), (["a", "a"], "once")],
)
def test_a_workload_that_is_missing_is_named(workloads: list[str], told: str) -> None:
    one = over_seeds(np.array([0.1, 0.2, 0.3]))
    differences = {"a": one, "b": one, "d": one}
    scales = dict.fromkeys("abc", Scale(0, 1))

    with pytest.raises(UserError, match=told):
        over_workloads(differences, scales, workloads)


def test_a_ceiling_below_the_base_is_refused() -> None:
    one = over_seeds(np.array([0.1, 0.2, 0.3]))

    with pytest.raises(UserError, match="ceiling"):
        over_workloads({"a": one, "b": one}, {"a": Scale(0, 1), "b": Scale(0.5, 0.5)}, ["a", "b"])
