"""The learning figures in the README are what the committed points give, and nothing else."""

from __future__ import annotations

import re

import numpy as np
import pytest
from running import ROOT, benchmark_module
from scipy import stats


def summarise() -> dict[str, dict[str, object]]:
    figures: dict[str, dict[str, object]] = benchmark_module("learning").summarise(
        ROOT / "results" / "archive" / "learning"
    )
    return figures


def readme_rows() -> dict[str, list[str]]:
    """The table's cells by method."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = text.partition("## Measured")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", measured, flags=re.MULTILINE)
    return {method: [cell.strip() for cell in cells.split("|")] for method, cells in rows}


def shown(figures: dict[str, object], name: str) -> str:
    part = figures[name]
    assert isinstance(part, dict)
    return f"{part['mean']:+.3f} ({part['low']:+.3f} to {part['high']:+.3f})"


def test_readme_shows_what_the_points_give() -> None:
    figures, rows = summarise(), readme_rows()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"(gold {figures['flat']['base_gold']:.3f})" in text
    assert f"Flat spends {figures['flat']['train_share']:.0%} of this budget" in text
    assert set(rows) == set(figures) == {"flat", "mix", "tree"}
    for method, part in figures.items():
        assert rows[method][:3] == [shown(part, name) for name in ("gold", "correctness", "appeal")]
        assert rows[method][3:] == [str(part["iterations"]), f"{part['seconds']:.0f}"]


def test_the_built_in_workload_is_learned_within_its_budget() -> None:
    # the promise of the default configuration: every method gains, one of them 0.10, correctness is not given away
    figures = summarise()
    for part in figures.values():
        gold, correctness = part["gold"], part["correctness"]
        assert isinstance(gold, dict) and isinstance(correctness, dict)
        assert part["seeds"] == 5 and gold["low"] > 0 and correctness["low"] > -0.02
        assert isinstance(part["seconds"], float) and part["seconds"] < 120
    assert max(part["gold"]["mean"] for part in figures.values() if isinstance(part["gold"], dict)) >= 0.10


def test_interval_is_students_t() -> None:
    module = benchmark_module("learning")
    gains = np.array([0.1, 0.12, 0.08, 0.11, 0.09])

    # scipy's own interval of the mean, an independent route to the same formula
    low, high = stats.t.interval(0.95, 4, loc=gains.mean(), scale=stats.sem(gains))
    assert module.interval(gains) == pytest.approx({"mean": 0.1, "low": round(low, 4), "high": round(high, 4)})
