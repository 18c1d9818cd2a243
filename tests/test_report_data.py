"""What the report's page is given to compute with: every run's counters and scores, and which of them it may draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from studies import Spend, write_study

from grpo_bench.analysis.report.figures import styles, view_data
from grpo_bench.analysis.study import studies
from grpo_bench.analysis.summary import summarise
from grpo_bench.store.points import encode, parse_table


def flat(seed: int, nfe: float) -> float:
    return 0.123456789012 + (0.1 + 0.01 * seed) * nfe / 64_000


def given(folder: Path) -> dict[str, Any]:
    found = studies(folder)
    (view,) = found[0].views
    return view_data(view, summarise(view), styles(found))


def test_numbers_keep_nine_digits_and_whole_ones_are_whole(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat}, range(1), bases=(0.5, 0.53))

    data = given(tmp_path)

    (run,) = data["runs"]
    assert run["gold"][0] == 0.123456789
    assert run["nfe"] == [8000 * point for point in range(9)]
    assert all(type(one) is int for one in run["nfe"])
    assert (data["floor"], data["costs"], data["baseline"]) == (0.03, 20, 0)


def test_each_run_says_whether_it_was_timed(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat}, (0,), suite=False, name="alone")
    write_study(tmp_path, {"flat": flat}, (1,), suite=False, name="shared", timed=False)

    assert [(run["seed"], run["timed"]) for run in given(tmp_path)["runs"]] == [(0, True), (1, False)]


def test_a_quantity_is_offered_where_every_run_has_it_at_every_point(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat, "tree": flat}, range(2))
    everything = {one["key"] for one in given(tmp_path)["quantities"]}
    points = tmp_path / "study-tree-s1" / "points.parquet"
    rows = parse_table(points.read_bytes(), points).to_pylist()
    points.write_bytes(encode([row | {"vendi": None if place == 3 else 2.0} for place, row in enumerate(rows)]))

    assert everything == {"gold", "proxy", "gap", "diversity", "vendi", "base_distance"}
    assert everything - {one["key"] for one in given(tmp_path)["quantities"]} == {"vendi"}


def test_no_gap_is_offered_where_gold_was_trained_on(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat}, range(2), gold_is_proxy=True)

    assert "gap" not in {one["key"] for one in given(tmp_path)["quantities"]}


def test_an_interval_has_its_quantile_for_every_number_of_seeds_there_can_be(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat, "tree": flat}, range(5), missing=[("tree", 3), ("tree", 4)])

    # Student's t at 0.975, with 1, 2, 3 and 4 degrees of freedom, as tables print it
    assert given(tmp_path)["t"] == {
        2: pytest.approx(12.706, abs=5e-4),
        3: pytest.approx(4.303, abs=5e-4),
        4: pytest.approx(3.182, abs=5e-4),
        5: pytest.approx(2.776, abs=5e-4),
    }


def test_axes_are_those_of_the_view_with_their_columns(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": flat}, range(1), timed=False, spend={"flat": Spend(reward_calls=7)})

    data = given(tmp_path)

    assert [one["column"] for one in data["axes"]] == ["nfe", "rollout_nfe", "reward_calls", "updates"]
    assert data["runs"][0]["reward_calls"][-1] == 64 * 7
