"""NAME.suite.json: written whole, read back equal, and refused in one sentence where it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_bench.errors import UserError
from grpo_bench.store.suite import CellRecord, References, SuiteRecord, read_suites, suite_path, write_suite


def record(name: str = "mine") -> SuiteRecord:
    cell = CellRecord(
        label="flat-window", run="shapes-mix-s0-0123456789", method="mix", reward="a:0.5,b", workload="shapes", seed=0
    )
    references = References(base=0.5, best=0.75, costs={"nfe": 64000.0, "rollout-nfe": 4e4}, targets={"50": 0.6})
    return SuiteRecord(
        suite=name,
        digest="0" * 64,
        baseline="flat",
        contrasts=("flat-window",),
        budget={"nfe": 64000.0},
        references={"shapes/a:0.5,b": references},
        cells=(cell, cell.model_copy(update={"part": "tuning", "factor": 0.333333})),
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Given two suites in a folder that is made for them, then both come back, by name."""
    folder = tmp_path / "new" / "results"
    for name in ("two", "one"):
        write_suite(folder, record(name))
    assert read_suites(folder) == (record("one"), record("two"))
    assert sorted(item.name for item in folder.iterdir()) == ["one.suite.json", "two.suite.json"]


def test_a_folder_without_suites_has_none(tmp_path: Path) -> None:
    assert read_suites(tmp_path) == read_suites(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema_version": 1', '"schema_version": 2', "was written by a newer grpo-bench (schema 2"),
        ('"schema_version": 1', '"schema_version": "x"', "carries no schema version"),
        ('"seed": 0', '"seed": "none"', "no suite of grpo-bench (cells.0.seed"),
        ('"label": "flat-window"', '"label": "../x"', "no suite of grpo-bench (cells.0.label"),
        ('"digest"', '"diggest"', "is damaged"),
        ("}", "", "is damaged"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(old: str, new: str, message: str, tmp_path: Path) -> None:
    write_suite(tmp_path, record())
    path = suite_path(tmp_path, "mine")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_suites(tmp_path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_hidden_file_is_no_suite(tmp_path: Path) -> None:
    """Given what a writer that was killed has left behind, then it is not read."""
    write_suite(tmp_path, record())
    (tmp_path / ".other.suite.json").write_text("{", encoding="utf-8")
    assert read_suites(tmp_path) == (record(),)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.suite.json").mkdir()
    with pytest.raises(UserError, match="Could not write the suite to "):
        write_suite(tmp_path, record())
    assert [item.name for item in tmp_path.iterdir()] == ["mine.suite.json"]
