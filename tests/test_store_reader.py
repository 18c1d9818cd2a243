"""All runs of a folder are read as one table; a damaged one is named and hides no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_bench.store.points import RUN_COLUMNS
from grpo_bench.store.reader import read_runs
from grpo_bench.store.record import RunRecord, Status
from grpo_bench.store.run import RunStore


def make(results: Path, run: str, points: int, *, seed: int = 0, status: Status = "done") -> RunStore:
    record = RunRecord(
        run=run, status=status, method="flat", reward="shapes", workload="shapes", seed=seed, tier="tiny",
        rules_version=1, numerics_version=1, device="cpu",
    )  # fmt: skip
    store = RunStore.create(results, run, "", record)
    for index in range(points):
        store.append_point({"iteration": index * 5, "nfe": index * 100, "gold": 0.5 + seed + index / 10})
    return store


def test_points_of_all_runs_carry_their_runs_columns(tmp_path: Path) -> None:
    make(tmp_path, "b", 1, seed=1)
    make(tmp_path, "a", 2)
    runs = read_runs(tmp_path)
    assert list(runs.points.columns) == [*RUN_COLUMNS, "iteration", "nfe", "gold"]
    assert runs.points[["run", "seed", "iteration", "nfe", "gold"]].to_numpy().tolist() == [
        ["a", 0, 0, 0, 0.5],
        ["a", 0, 5, 100, 0.6],
        ["b", 1, 0, 0, 1.5],
    ]
    assert [record.run for record in runs.records] == ["a", "b"]
    assert runs.skipped == ()


def test_a_run_without_points_is_still_counted(tmp_path: Path) -> None:
    make(tmp_path, "a", 1)
    make(tmp_path, "oom", 0, status="failed")
    runs = read_runs(tmp_path)
    assert [(record.run, record.status) for record in runs.records] == [("a", "done"), ("oom", "failed")]
    assert set(runs.points["run"]) == {"a"}


def test_damaged_runs_are_named_and_hide_no_other(tmp_path: Path) -> None:
    make(tmp_path, "good", 1)
    (make(tmp_path, "no-record", 1).folder / "run.json").unlink()
    (make(tmp_path, "torn", 1).folder / "points.parquet").write_bytes(b"PAR1")
    (tmp_path / ".half.1-ab.tmp").mkdir()
    (tmp_path / "plots.png").touch()
    runs = read_runs(tmp_path)
    assert set(runs.points["run"]) == {"good"}
    assert len(runs.skipped) == 2
    assert "no-record is not a whole run" in runs.skipped[0]
    assert "points.parquet is damaged" in runs.skipped[1]


@pytest.mark.parametrize("exists", [True, False])
def test_no_runs_is_an_empty_table(exists: bool, tmp_path: Path) -> None:
    runs = read_runs(tmp_path if exists else tmp_path / "gone")
    assert runs.records == ()
    assert list(runs.points.columns) == list(RUN_COLUMNS)
