"""results/README.md and the README say what the committed points give; the committed plots are what they draw."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from running import ROOT, benchmark_module
from scipy import stats

from grpo_bench.analysis.plots import DATA, plot_data, save_data, view_folder
from grpo_bench.analysis.reading import measured_references
from grpo_bench.analysis.study import studies
from grpo_bench.analysis.summary import summarise

REFERENCE = ROOT / "results" / "reference"


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    return benchmark_module("findings")


def test_the_page_of_findings_is_what_the_points_give(findings: ModuleType) -> None:
    assert (ROOT / "results" / "README.md").read_text(encoding="utf-8") == findings.render()


def test_the_primary_contrasts_are_what_pandas_and_scipy_alone_make_of_the_points() -> None:
    folder = REFERENCE / "shapes"
    suite = json.loads((folder / "shapes.suite.json").read_text(encoding="utf-8"))
    gold: dict[str, dict[int, float]] = {}
    for cell in suite["cells"]:
        if cell["part"] == "main":
            points = pd.read_parquet(folder / cell["run"] / "points.parquet")
            gold.setdefault(cell["label"], {})[cell["seed"]] = float(points["gold"].iloc[-1])
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    seeds = range(10)
    flat = [gold["flat"][seed] for seed in seeds]
    tests = {label: stats.ttest_rel([gold[label][seed] for seed in seeds], flat) for label in suite["contrasts"]}
    largest = 0.0
    for steps, label in zip((4, 3, 2, 1), sorted(tests, key=lambda label: tests[label].pvalue), strict=True):
        largest = max(largest, min(1.0, steps * tests[label].pvalue))
        own = [gold[label][seed] for seed in seeds]
        mean = sum(a - b for a, b in zip(own, flat, strict=True)) / len(seeds)
        near, wide = (tests[label].confidence_interval(level) for level in (0.95, 1 - 0.05 / 4))
        row = (
            f"| `{label}` | {mean:+.3f} ({near.low:+.3f} to {near.high:+.3f}) | {wide.low:+.3f} to {wide.high:+.3f} "
            f"| {largest:.2g} |"
        )
        assert row in page


def test_the_template_holds_no_figure_of_its_own() -> None:
    text = (ROOT / "results" / "README.md.jinja").read_text(encoding="utf-8")
    typed = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", text, flags=re.DOTALL)

    assert re.findall(r"(?<!SD)[-+]?\b\d+\.\d+", typed) == []


def test_the_readmes_table_is_made_of_rows_of_the_findings() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("<!-- reference results: begin -->")[2].partition("<!-- reference results: end -->")[0]
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")

    rows = [line for line in block.splitlines() if line.startswith("| `")]
    figures = re.findall(r"[-+]\d\.\d{3}(?: \([^)]*\))?", "\n".join(line for line in block.splitlines() if "`" in line))

    assert len(rows) >= 4
    assert [row for row in rows if row not in page] == []
    assert [figure for figure in figures if figure not in page] == []


def test_every_cell_of_the_reference_suites_is_in() -> None:
    found = {study.name: study for study in studies(REFERENCE)}

    for name, cells in (("shapes", 120), ("shapes-timed", 15)):
        suite = found[name].suite
        assert suite is not None and len(suite.cells) == cells
        assert found[name].missing == ()
    assert all(curve.record.timed for view in found["shapes-timed"].views for curve in view.curves)
    assert not any(curve.record.timed for view in found["shapes"].views for curve in view.curves)


@pytest.mark.slow
def test_the_frozen_references_are_the_median_flat_runs() -> None:
    found = {study.name: study for study in studies(REFERENCE)}

    for name in ("shapes", "shapes-timed"):
        (view,) = (view for view in found[name].views if view.protocol == "controlled")
        assert view.references is not None
        measured = measured_references(view)
        assert view.references.base == pytest.approx(measured.base, abs=5e-5)
        assert view.references.targets == pytest.approx(measured.targets, abs=5e-5)
        assert view.references.costs == pytest.approx(measured.costs, rel=1e-3)


def test_contrasts_of_the_reference_have_ten_seeds() -> None:
    found = {study.name: study for study in studies(REFERENCE)}
    (view,) = (view for view in found["shapes"].views if view.protocol == "controlled")

    primary = [contrast for contrast in summarise(view).contrasts if contrast.primary]

    assert [contrast.label for contrast in primary] == ["tree", "branch", "tempflow", "flat-window"]
    assert {contrast.seeds for contrast in primary} == {10}


@pytest.mark.slow
def test_the_committed_plots_draw_what_the_committed_points_give(tmp_path: Path) -> None:
    found = studies(REFERENCE)
    for study in found:
        for view in study.views:
            save_data(plot_data(view, summarise(view)), tmp_path / "redrawn.json")
            committed = view_folder(ROOT / "results" / "plots", study, view) / DATA
            again, before = (json.loads(path.read_text()) for path in (tmp_path / "redrawn.json", committed))
            assert again.keys() == before.keys()
            assert [key for key in again if not alike(again[key], before[key])] == [], (
                f"make pareto redraws {view.name}"
            )


def alike(one: object, other: object) -> bool:
    """Equal, numbers to nine digits: another machine may sum in another order."""
    if isinstance(one, float | int) and isinstance(other, float | int):
        return one == pytest.approx(other, rel=1e-9, abs=1e-12)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return one == other
