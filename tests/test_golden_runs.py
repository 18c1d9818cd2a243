"""Whole small runs come out as they did before the engine was rebuilt, bit for bit; golden_runs.py has the settings.

On a machine that rounds otherwise (another CPU, another torch) the counters must still agree, and the numbers nearly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from golden_runs import FIXTURE, SIZES, golden_config, machine, names, outcome
from running import run

from grpo_bench.registry import METHODS

RECORDED = json.loads(FIXTURE.read_text(encoding="utf-8"))


def test_every_method_that_ships_is_recorded() -> None:
    assert set(RECORDED["runs"]) == set(names())
    assert set(SIZES) == {entry.name for entry in METHODS.entries()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name.startswith("gaussian") else pytest.mark.slow) for name in names()]
)
def test_a_run_is_what_it_was(name: str, tmp_path: Path) -> None:
    found = json.loads(json.dumps(outcome(run(golden_config(name, tmp_path), tmp_path / "results").store)))
    recorded = RECORDED["runs"][name]

    if machine() == RECORDED["machine"]:
        assert json.dumps(found) == json.dumps(recorded)  # as text, in which NaN equals NaN
    counters = {column for column, values in recorded["points"].items() if all(type(value) is int for value in values)}
    assert len(counters) == 12
    assert {column: found["points"][column] for column in counters} == _of(recorded["points"], counters)
    for part, close in (("weights", 1e-4), ("moments", 0.02)):
        assert found[part]["norm"] == pytest.approx(recorded[part]["norm"], rel=close)


def _of(points: Mapping[str, list[float]], columns: set[str]) -> dict[str, list[float]]:
    return {column: points[column] for column in columns}
