"""What keeps two runs from being compared is said, each thing by itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from studies import write_study

from grpo_bench.analysis.comparison import Comparison, compare_runs
from grpo_bench.errors import UserError
from grpo_bench.store.points import encode, parse_table
from grpo_bench.store.run import RunStore


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two runs that differ in nothing but their method."""
    return write_study(tmp_path, {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.6}, range(1))


def compared(folder: Path) -> Comparison:
    return compare_runs(RunStore(folder / "study-flat-s0"), RunStore(folder / "study-tree-s0"))


def record(folder: Path, **changes: object) -> None:
    """Change the second run's record."""
    path = folder / "study-tree-s0" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_runs_that_differ_in_their_method_only_have_no_note_but_the_warning(pair: Path) -> None:
    assert len(compared(pair).notes) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workload": "gaussian"}, "Their workloads differ (shapes, gaussian)"),
        ({"reward": "shapes"}, "Their rewards differ (shapes-pref, shapes)"),
        ({"protocol": "paper"}, "Their protocols differ (controlled, paper)"),
        ({"tier": "real"}, "Their tiers differ (tiny, real)"),
        ({"device": "cuda"}, "Their devices differ (cpu, cuda)"),
        ({"numerics_version": 2}, "Their numerics versions differ (1, 2)"),
        ({"seed": 3}, "Their seeds differ (0, 3)"),
        ({"timed": False}, "Seconds are not compared: study-tree-s0 shared the device."),
        ({"status": "failed", "reason": "no memory"}, "study-tree-s0 is failed."),
        ({"status": "interrupted"}, "study-tree-s0 is interrupted."),
    ],
)
def test_one_difference_is_one_note(change: dict[str, object], said: str, pair: Path) -> None:
    record(pair, **change)

    first, *others = compared(pair).notes

    assert first.startswith(said)
    assert len(others) == 1


def test_seconds_are_compared_only_where_both_were_timed(pair: Path) -> None:
    assert "seconds" in {one.axis for one in compared(pair).at_cost}

    record(pair, timed=False)

    assert "seconds" not in {one.axis for one in compared(pair).at_cost}


def test_another_learning_rate_is_told_among_what_is_kept_equal(pair: Path) -> None:
    config = pair / "study-tree-s0" / "config.toml"
    text = config.read_text(encoding="utf-8")
    assert "learning_rate = " in text
    own = next(line for line in text.splitlines() if line.startswith("learning_rate = "))
    config.write_text(text.replace(own, "learning_rate = 0.5"), encoding="utf-8")

    found = {one.what: (one.second, one.equal) for one in compared(pair).equalities}

    assert found["learning rate"] == ("0.5", False)
    assert found["steps"][1]


def test_a_run_without_gold_has_none_at_any_cost(pair: Path) -> None:
    points = pair / "study-tree-s0" / "points.parquet"
    rows = parse_table(points.read_bytes(), points).to_pylist()
    points.write_bytes(encode([row | {"gold": None} for row in rows]))

    for one in compared(pair).at_cost:
        assert one.first == 0.5
        assert math.isnan(one.second)


def test_one_run_by_two_ways_is_given_twice(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("link") / "other-name"
    link.symlink_to(pair / "study-flat-s0")

    with pytest.raises(UserError, match="given twice"):
        compare_runs(RunStore(pair / "study-flat-s0"), RunStore(link))
