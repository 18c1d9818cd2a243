"""The figures of docs/proxy-gold.md are what the committed points give, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from running import ROOT, benchmark_module

from grpo_bench.errors import UserError

RUNS = ROOT / "results" / "archive" / "proxy-gold"
PAGE = (ROOT / "docs" / "proxy-gold.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return benchmark_module("proxy_gold")


def test_the_table_is_the_curve_of_the_points(benchmark: ModuleType) -> None:
    curve = benchmark.summarise(RUNS)["curve"]
    rows = re.findall(r"^\| ([\d,]+) \|(.*)\|$", PAGE, flags=re.MULTILINE)
    shown = [[int(nfe.replace(",", "")), *map(float, cells.split("|"))] for nfe, cells in rows]
    names = ("proxy", "gold", "correctness", "appeal", "diversity")
    assert shown == [[row["nfe"], *(round(row[name], 3) for name in names)] for row in curve]


def test_the_sentences_give_the_points_gains(benchmark: ModuleType) -> None:
    figures = benchmark.summarise(RUNS)
    text = " ".join(PAGE.split())
    for name in ("proxy", "gold", "correctness", "appeal"):
        for since in ("end", "after"):
            gain = figures["gains"][name][since]
            assert f"{name} {gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})" in text
    assert f"{figures['seeds']} seeds" in text


def test_the_proxy_rises_after_gold_has_stopped(benchmark: ModuleType) -> None:
    # what the page concludes, from the stored rows: over the last two thirds of the budget
    gains = benchmark.summarise(RUNS)["gains"]
    assert gains["proxy"]["after"]["low"] > 0
    assert gains["gold"]["default"]["low"] > 0
    assert gains["gold"]["after"]["mean"] < 0.1 * gains["gold"]["default"]["mean"]
    assert gains["correctness"]["after"]["mean"] < 0 < gains["appeal"]["after"]["mean"]


def test_the_runs_are_as_the_page_says() -> None:
    configs = [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(RUNS.glob("*/config.toml"))]
    assert sorted(config["seed"] for config in configs) == [0, 1, 2]
    command = re.search(r"grpo-bench run (.*)", PAGE)
    assert command is not None
    for config in configs:
        assert config["method"]["name"] == "flat" and config["reward"]["name"] == "shapes-pref"
        assert f"--budget nfe={config['budget']['nfe']:.0f}" in command[1]
        assert f"training.learning_rate={config['training']['learning_rate']}" in command[1]
        assert f"evaluation.every={config['evaluation']['every']}" in command[1]


def test_the_runs_read_the_shipped_file() -> None:
    import json

    from grpo_bench.workloads.shapes.preference import MODEL

    card = json.loads((MODEL / "card.json").read_text(encoding="utf-8"))
    for path in RUNS.glob("*/run.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["status"] == "done" and not record["gold_is_proxy"] and not record["timed"]
        assert any(str(card["sha256"]) in str(value) for value in record["hashes"].values())


def test_a_folder_without_runs_is_refused(benchmark: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two seeds"):
        benchmark.summarise(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_s_agreement_is_that_of_the_shipped_models(benchmark: ModuleType) -> None:
    figures = benchmark.agreement()
    text = " ".join(PAGE.split())
    assert f"On {figures['images']} images" in text
    assert f"rank correlation is {figures['shapes_overall']:.2f}" in text
    assert f"and {figures['shapes_within']:.2f} among" in text
