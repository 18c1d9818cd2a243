"""Coverage of the intervals: what the report prints is what a simulation finds."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grpo_bench.analysis.coverage import (
    INTERVALS,
    LAWS,
    SEEDS,
    TABLE,
    WORKLOADS,
    Interval,
    Law,
    draw,
    law_iqm,
    law_mean,
    measured_coverage,
    permutation_accepts,
    simulate,
    t_covers,
)
from grpo_bench.analysis.statistics import paired, t_interval

REPOSITORY = Path(__file__).parent.parent


def test_t_intervals_of_five_normal_seeds_hold_the_mean_95_times_in_a_hundred() -> None:
    # 20,000 intervals: their share has a standard error of 0.15 points.
    rows = np.random.default_rng(5).standard_normal((20_000, 5)) + 3
    held = sum(estimate.low <= 3 <= estimate.high for estimate in map(t_interval, rows))

    assert 0.94 <= held / len(rows) <= 0.96


@pytest.mark.parametrize("interval", [one for one in INTERVALS if one != "iqm"])
def test_the_stored_table_is_what_the_simulation_gives(interval: Interval) -> None:
    for law in LAWS:
        for seeds in SEEDS[interval]:
            # The same draws, unless numpy changes its streams: then within three standard errors of 40,000.
            assert simulate(interval, law, seeds) == pytest.approx(TABLE[interval][law][seeds], abs=0.6), (law, seeds)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seeds", SEEDS["iqm"])
def test_the_stored_coverage_of_the_bootstrap_is_what_the_simulation_gives(law: Law, seeds: int) -> None:
    assert simulate("iqm", law, seeds) == pytest.approx(TABLE["iqm"][law][seeds], abs=1.8)


def test_a_short_simulation_of_the_bootstrap_agrees_with_the_table() -> None:
    # 200 simulations at 93% have a standard error of 1.8 points.
    assert simulate("iqm", "exponential", 10, 200) == pytest.approx(TABLE["iqm"]["exponential"][10], abs=5.5)


def test_the_table_holds_every_interval_law_and_number_of_seeds() -> None:
    assert tuple(TABLE) == INTERVALS
    for interval, laws in TABLE.items():
        assert tuple(laws) == LAWS
        assert all(tuple(row) == SEEDS[interval] for row in laws.values())


@pytest.mark.parametrize("interval", ["t", "paired"])
def test_on_normal_data_t_covers_what_it_says(interval: Interval) -> None:
    assert all(94 <= share <= 96 for share in TABLE[interval]["normal"].values())


def test_on_skewed_data_t_covers_less_and_more_seeds_help_slowly() -> None:
    for law in ("exponential", "lognormal"):
        row = TABLE["t"][law]
        assert 76 <= row[5] <= 90 and row[5] < row[20] < 95


def test_bonferroni_intervals_hold_together() -> None:
    assert all(share >= 95 for law in LAWS for share in TABLE["bonferroni"][law].values())


def test_five_seeds_cannot_be_found_different_by_permutation() -> None:
    # The floor at five seeds is 2 / 32, above 0.05.
    assert [TABLE["permutation"][law][5] for law in LAWS] == [100, 100, 100]


def test_the_simulated_t_interval_is_the_printed_one() -> None:
    rows = draw(np.random.default_rng(0), "lognormal", (500, 4))
    truth = law_mean("lognormal")

    expected = [estimate.low <= truth <= estimate.high for estimate in map(t_interval, rows)]
    assert t_covers(rows, truth).tolist() == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize("seeds", [3, 6, 8])
def test_the_simulated_permutation_test_is_the_printed_one(seeds: int) -> None:
    rows = draw(np.random.default_rng(0), "exponential", (60, seeds)) - 0.5

    expected = [paired(row, np.zeros(seeds)).permutation_p > 0.05 for row in rows]
    assert permutation_accepts(rows).tolist() == expected
    assert seeds == 3 or 0 < sum(expected) < len(expected)


def test_the_laws_means_and_iqms_are_their_closed_forms() -> None:
    assert [law_mean(law) for law in LAWS] == pytest.approx([0, 1, math.exp(0.5)])
    # Exponential: 2 [-(x + 1) exp(-x)] between ln(4/3) and ln 4.
    assert law_iqm("exponential") == pytest.approx(1.5 * (math.log(4 / 3) + 1) - 0.5 * (math.log(4) + 1))
    # Lognormal: 2 exp(1/2) (Phi(z - 1) - Phi(-z - 1)) with z the upper quartile of the normal.
    z, phi = 0.6744897501960817, lambda x: 0.5 * math.erfc(-x / math.sqrt(2))
    assert law_iqm("lognormal") == pytest.approx(2 * math.exp(0.5) * (phi(z - 1) - phi(-z - 1)))
    # By symmetry.
    assert law_iqm("normal") == pytest.approx(0, abs=1e-12)
    assert law_iqm("normal", WORKLOADS) == pytest.approx(1.5)


@pytest.mark.parametrize("law", LAWS)
def test_drawn_values_have_the_laws_mean(law: Law) -> None:
    values = draw(np.random.default_rng(0), law, (200_000,))

    assert values.mean() == pytest.approx(law_mean(law), abs=5 * values.std() / math.sqrt(200_000))


def test_coverage_is_looked_up_at_the_next_smaller_number_of_seeds() -> None:
    five, seven = measured_coverage(5), measured_coverage(7)

    assert five is not None and seven == five and five.seeds == 5
    assert five.normal == TABLE["t"]["normal"][5]
    assert five.skewed == (TABLE["t"]["lognormal"][5], TABLE["t"]["exponential"][5])
    assert five.sentence == "nominal 95%, measured about 95% on normal data and 82 to 88% on skewed data"


def test_where_there_is_no_interval_there_is_no_coverage() -> None:
    assert measured_coverage(1) is None
    assert measured_coverage(9, "iqm") is None
    assert measured_coverage(10, "iqm") is not None


def test_the_user_documentation_prints_the_table() -> None:
    lines = (REPOSITORY / "docs" / "statistics.md").read_text(encoding="utf-8").splitlines()
    names = {
        "t interval": "t",
        "paired t": "paired",
        "Bonferroni, four together": "bonferroni",
        "permutation": "permutation",
        "IQM, bootstrap": "iqm",
    }
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    printed = {
        (names[row[0]], law, int(row[1])): float(share)
        for row in cells
        if row[0] in names
        for law, share in zip(LAWS, row[2:], strict=True)
    }

    expected = {
        (i, law, n): share for i, laws in TABLE.items() for law, row in laws.items() for n, share in row.items()
    }
    assert printed == expected


def test_the_benchmark_prints_one_line_of_json() -> None:
    script = [sys.executable, str(REPOSITORY / "benchmarks" / "coverage.py"), "--interval", "t", "--simulations", "500"]
    found = subprocess.run(script, capture_output=True, text=True, check=True)

    (line,) = found.stdout.splitlines()
    coverage = json.loads(line)["coverage"]["t"]
    assert set(coverage) == set(LAWS) and set(coverage["normal"]) == {str(seeds) for seeds in SEEDS["t"]}
    assert 92 <= coverage["normal"]["5"] <= 98
