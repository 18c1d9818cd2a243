"""results/README.md and the README say what the committed rows give; the committed plots are what they draw."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from running import ROOT, benchmark_module
from scipy import stats
from test_tuned_verdicts import chosen, study

from grpo_bench.analysis.plots import DATA, plot_data, save_data, view_folder
from grpo_bench.analysis.study import studies
from grpo_bench.analysis.summary import summarise

REFERENCE = ROOT / "results" / "reference"
SUITE = REFERENCE / "shapes" / "shapes-tuned.suite.json"
PAGE = ROOT / "results" / "README.md"
BUDGET = 64_000
REPORTED, TUNING = range(200, 210), range(300, 303)


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    return benchmark_module("findings")


def test_the_page_of_findings_is_what_the_rows_give(findings: ModuleType) -> None:
    assert PAGE.read_text(encoding="utf-8") == findings.render()


def test_the_template_holds_no_figure_of_its_own() -> None:
    text = (ROOT / "results" / "README.md.jinja").read_text(encoding="utf-8")
    typed = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", text, flags=re.DOTALL)

    assert re.findall(r"(?<!SD)[-+]?\b\d+\.\d+", typed) == []


def test_the_verdicts_are_what_numpy_and_scipy_alone_make_of_the_prompts_scores() -> None:
    """Holm, the two-way interval and the reading at the budget, written out once more with nothing of ours."""
    suite = json.loads(SUITE.read_text(encoding="utf-8"))
    rows: dict[str, dict[int, np.ndarray]] = {}
    for cell in suite["cells"]:
        if cell["part"] == "main" and (REFERENCE / "shapes" / cell["run"] / "points.parquet").exists():
            rows.setdefault(cell["label"], {})[cell["seed"]] = at_the_budget(REFERENCE / "shapes" / cell["run"])
    base = rows.get(suite["baseline"], {})
    both = {label: sorted(base.keys() & rows.get(label, {}).keys()) for label in suite["contrasts"]}
    if min(map(len, both.values())) < 2:
        pytest.skip("fewer than two seeds of a contrast are there yet")
    tests = {label: two_way(np.array([rows[label][s] - base[s] for s in both[label]])) for label in both}
    page, largest = PAGE.read_text(encoding="utf-8"), 0.0
    for steps, label in zip((4, 3, 2, 1), sorted(tests, key=lambda one: tests[one][3]), strict=True):
        mean, low, high, p = tests[label]
        largest = max(largest, min(1.0, steps * p))
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{label}` | {mean:+.3f} ({low:+.3f} to"))
        assert f"to {high:+.3f})" in line and f"| {largest:.2g} |" in line


def at_the_budget(run: Path) -> np.ndarray:
    """(P,) gold by prompt, the mean over noises, between the two points around the budget."""
    points = pd.read_parquet(run / "points.parquet")
    scores = pd.read_parquet(run / "prompt_scores.parquet")
    before, after = (points[points["nfe"] <= BUDGET].iloc[-1], points[points["nfe"] >= BUDGET].iloc[0])
    ends = [
        scores[scores["iteration"] == end["iteration"]].groupby("prompt")["shapes"].mean().to_numpy()
        for end in (before, after)
    ]
    gone = after["nfe"] - before["nfe"]
    share = (BUDGET - before["nfe"]) / gone if gone else 0.0
    return (1 - share) * ends[0] + share * ends[1]


def two_way(d_SP: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, interval and p of measuring.md's table of seeds and prompts, with Satterthwaite's degrees of freedom."""
    s, p = d_SP.shape
    mean, of_seed, of_prompt = d_SP.mean(), d_SP.mean(1), d_SP.mean(0)
    ms_s, ms_p = p * of_seed.var(ddof=1), s * of_prompt.var(ddof=1)
    rest = d_SP - of_seed[:, None] - of_prompt[None, :] + mean
    ms_e = (rest**2).sum() / ((s - 1) * (p - 1))
    total = ms_s + ms_p - ms_e
    df = total**2 / (ms_s**2 / (s - 1) + ms_p**2 / (p - 1) + ms_e**2 / ((s - 1) * (p - 1)))
    if total < max(ms_s, ms_p):
        total, df = (ms_s, s - 1) if ms_s >= ms_p else (ms_p, p - 1)
    df, error = max(df, s - 1), np.sqrt(total / (s * p))
    half = stats.t.ppf(0.975, df) * error
    return mean, mean - half, mean + half, 2 * stats.t.sf(abs(mean) / error, df)


def test_reported_and_tuning_seeds_are_those_that_nobody_had_used() -> None:
    suite = json.loads(SUITE.read_text(encoding="utf-8"))
    seeds = {part: {cell["seed"] for cell in suite["cells"] if cell["part"] == part} for part in ("main", "tuning")}

    assert seeds["main"] <= set(REPORTED) and seeds["tuning"] == set(TUNING)


def test_what_is_missing_is_said(findings: ModuleType) -> None:
    (found,) = (one for one in studies(REFERENCE) if one.name == "shapes-tuned")
    page = PAGE.read_text(encoding="utf-8")

    assert ("**Not finished.**" in page) == bool(found.missing or findings.waiting(found))
    for label in {cell.label for cell in found.missing}:
        count = sum(cell.label == label for cell in found.missing)
        assert f"{count} of `{label}`" in page


def test_a_page_of_finished_runs_has_the_answer_the_verdicts_and_the_prices(
    findings: ModuleType, tmp_path: Path
) -> None:
    """Given runs in closed form, then every table is there, and each word is the verdict's."""
    name = {"name": "shapes-tuned"}
    found = study(tmp_path / "shapes", choices=(chosen("flat"), chosen("tree", gain=0.2)), **name)
    (contrast,) = summarise(found.views[0]).contrasts

    page = findings.render(tmp_path, tmp_path)

    assert "- **Who buys most.** " in page and "tree, by +0.100" in page
    low, high = contrast.difference.low, contrast.difference.high
    assert f"| `tree` | +0.100 ({low:+.3f} to {high:+.3f}) |" in page and f"| 5 | {contrast.verdict} |" in page
    assert "| 1,000 | `tree` (5) | `tree` (5) | `tree` (5) | `tree` (5) | `tree` (5) |" in page
    assert "| `tree` | +0.180 | +0.200 | +0.180 | × 1 | × 1 | yes |" in page
    assert "Not finished" not in page and "explains" not in page


def test_the_readme_says_no_figure_that_the_findings_do_not() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("<!-- reference results: begin -->")[2].partition("<!-- reference results: end -->")[0]
    page = PAGE.read_text(encoding="utf-8")

    figures = re.findall(r"[-+]\d\.\d{3}(?: \([^)]*\))?", block)
    assert block.strip()
    assert [figure for figure in figures if figure not in page] == []


@pytest.mark.slow
def test_the_committed_plots_draw_what_the_committed_rows_give(tmp_path: Path) -> None:
    found = studies(REFERENCE)
    for one in found:
        for view in one.views:
            save_data(plot_data(view, summarise(view)), tmp_path / "redrawn.json")
            committed = view_folder(ROOT / "results" / "plots", one, view) / DATA
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
