"""References that are measured from runs, and one run's area against them: closed forms of straight lines."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import Spend, write_study

from grpo_bench.analysis.reading import area, at_cost, measured_references
from grpo_bench.analysis.study import View, studies
from grpo_bench.store.suite import References

BUDGET = 64_000


def line(base: float, end: float) -> Callable[[int, float], float]:
    return lambda seed, nfe: base + (end - base) * nfe / BUDGET


def only(folder: Path) -> View:
    (view,) = studies(folder)[0].views
    return view


def test_a_cost_is_the_budget_on_its_own_axis_and_the_median_baseline_runs_total_on_others(tmp_path: Path) -> None:
    # 64,000 nfe hold 21 iterations of 3,000 (63,000 nfe); the three seeds call the reward 10, 60 and 20 times in each.
    for seed, calls in enumerate((10, 60, 20)):
        spend = {"flat": Spend(rollout_nfe=2400, reward_calls=calls), "tree": Spend(updates=7)}
        labels = {"tree": line(0.5, 0.8), "flat": line(0.5, 0.6)}
        write_study(tmp_path, labels, (seed,), name=f"run{seed}", suite=False, spend=spend)

    costs = measured_references(only(tmp_path)).costs

    assert costs["nfe"] == BUDGET
    assert costs["reward-calls"] == 21 * 20
    assert (costs["updates"], costs["rollout-nfe"]) == (21 * 2, 21 * 2400)


def test_the_cost_in_seconds_is_of_timed_runs(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.5, 0.6)}, (0,), name="alone", suite=False)
    write_study(
        tmp_path, {"flat": line(0.5, 0.6)}, (1, 2), name="shared", suite=False, timed=False,
        spend={"flat": Spend(seconds=20.0)},
    )  # fmt: skip

    assert measured_references(only(tmp_path)).costs["seconds"] == 64 * 2

    write_study(tmp_path / "none", {"flat": line(0.5, 0.6)}, (0,), timed=False)
    assert "seconds" not in measured_references(only(tmp_path / "none")).costs


def test_base_and_targets_are_the_baselines_and_the_best_is_anybodys(tmp_path: Path) -> None:
    # Flat's three seeds start at 0.50, 0.52, 0.54 (mean 0.52) and end at 0.7, 0.6 and 0.8 after a peak; the median is
    # 0.7 and gains 0.18.
    ends = (0.7, 0.6, 0.8)

    def flat(seed: int, nfe: float) -> float:
        return 0.95 if nfe == BUDGET / 2 else 0.5 + 0.02 * seed + (ends[seed] - 0.5 - 0.02 * seed) * nfe / BUDGET

    write_study(tmp_path, {"tree": line(0.1, 1.3), "flat": flat}, range(3))

    found = measured_references(only(tmp_path))

    assert (found.base, found.best) == pytest.approx((0.52, 1.3))
    assert found.targets == pytest.approx({"25": 0.565, "50": 0.61, "90": 0.682})


def test_the_best_is_one_where_no_gold_is_above_it_and_the_first_label_stands_for_a_baseline(tmp_path: Path) -> None:
    write_study(tmp_path, {"tree": line(0.4, 0.8), "mix": line(0.5, 0.9)}, range(1), suite=False)

    view = only(tmp_path)

    assert (view.baseline, view.labels) == ("", ("mix", "tree"))
    found = measured_references(view)
    assert (found.best, found.base) == (1.0, pytest.approx(0.5))


def test_a_baseline_that_gained_nothing_sets_no_target(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.5, 0.4), "tree": line(0.5, 0.9)}, range(2))

    assert measured_references(only(tmp_path)).targets == {}


def test_gold_is_read_by_interpolation_and_held_from_the_last_point_on(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.5, 0.6)}, range(1))
    (curve,) = only(tmp_path).curves

    assert [at_cost(curve, "nfe", cost) for cost in (0, 4_000, 64_000, 70_000)] == pytest.approx(
        [0.5, 0.50625, 0.6, 0.6]
    )


def test_a_run_that_ended_before_the_reference_cost_holds_its_last_gold_up_to_it(tmp_path: Path) -> None:
    # A line to 0.6 at 64,000, read at 6,400, 12,800, ..., 128,000: k tenths of the gain ten times, then all of it. The
    # stairs are (1 + ... + 9) / 10 and ten steps more, of twenty; the last of the twenty costs has no width.
    write_study(tmp_path, {"flat": line(0.5, 0.6)}, range(1))
    (curve,) = only(tmp_path).curves
    references = References(base=0.5, best=1.0, costs={"nfe": 128_000}, targets={})

    assert area(curve, "nfe", references) == pytest.approx(0.1 / 0.5 * (4.5 + 10) / 20)
    assert math.isnan(area(curve, "updates", references))
