"""Coverage of the two-way interval and what stands beside it: the stored table is what a simulation finds."""

from __future__ import annotations

import json
import math
import re
import sys

import numpy as np
import pytest
from running import ROOT, benchmark_module

from grpo_bench.analysis.coverage_table import TABLE, WELCH, two_way_sentence
from grpo_bench.analysis.coverage_twoway import (
    LAWS,
    NOISES,
    SIZES,
    SOURCES,
    SPREADS,
    Law,
    Measured,
    Size,
    draw_differences,
    measure,
    simulate,
    simulate_welch,
    true_difference,
)
from grpo_bench.analysis.twoway import mean_squares, two_way


def near(stored: float, count: int) -> object:
    """Within four and a half standard errors of a share in per cent of `count` data sets; one is the worse of two."""
    return pytest.approx(stored, abs=4.5 * math.sqrt(stored * (100 - stored) / count))


@pytest.mark.parametrize(("law", "source", "size"), [("normal", "prompts", (10, 60)), ("binary", "both", (5, 30))])
def test_a_short_simulation_agrees_with_the_table(law: Law, source: str, size: Size) -> None:
    found = simulate(law, source, size, 500)  # type: ignore[arg-type]

    for share, stored in zip(found, TABLE[law][size][source], strict=True):  # type: ignore[index]
        assert share == near(stored, 500)


def test_a_short_simulation_of_the_mean_over_workloads_agrees_with_the_table() -> None:
    assert simulate_welch("skewed", (5, 30), 500) == near(WELCH["skewed"][(5, 30)], 500)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("law", LAWS)
def test_the_stored_table_is_what_the_simulation_gives(law: Law, size: Size) -> None:
    for source in SOURCES:
        found = simulate(law, source, size, 3000)
        for share, stored in zip(found, TABLE[law][size][source], strict=True):
            assert share == near(stored, 3000), source
    assert simulate_welch(law, size, 3000) == near(WELCH[law][size], 3000)


def rows() -> list[tuple[Law, Size, str, Measured]]:
    return [
        (law, size, source, measured)
        for law, sizes in TABLE.items()
        for size, sources in sizes.items()
        for source, measured in sources.items()
    ]


def test_the_table_holds_every_law_size_and_source() -> None:
    assert [(law, size, source) for law, size, source, _ in rows()] == [
        (law, size, source) for law in LAWS for size in SIZES for source in SOURCES
    ]
    assert [(law, size) for law, sizes in WELCH.items() for size in sizes] == [(x, y) for x in LAWS for y in SIZES]


def test_the_simulated_two_way_interval_is_the_printed_one() -> None:
    tables = draw_differences(np.random.default_rng(0), "skewed, one side", SPREADS["both"], (200, 5, 6))
    held, plain, _, too_low, too_high = measure(np.random.default_rng(0), tables, 0.05)

    printed = [two_way(one) for one in tables]
    assert held.tolist() == [one.low <= 0.05 <= one.high for one in printed]
    assert plain.tolist() == [one.plain.low <= 0.05 <= one.plain.high for one in printed]
    # A truth of .05 that is called smaller than .05, or a truth of -.05 + 1 that is called larger than -.05: the far
    # edge of a wide margin never keeps a claim back.
    shifted = [two_way(one - 0.05 + 1) for one in tables], [two_way(one - 0.05 - 1) for one in tables]
    assert too_low.tolist() == [one.equivalence_p(1) < 0.05 for one in shifted[0]]
    assert too_high.tolist() == [one.equivalence_p(1) < 0.05 for one in shifted[1]]
    assert 0 < held.sum() < 200 and 0 < too_low.sum() < 200 and too_high.any()


@pytest.mark.parametrize("law", LAWS)
def test_simulated_differences_have_the_mean_they_are_measured_against(law: Law) -> None:
    values = draw_differences(np.random.default_rng(1), law, SPREADS["both"], (2000, 5, 30)).mean(axis=(1, 2))

    assert values.mean() == pytest.approx(true_difference(law), abs=4 * values.std() / math.sqrt(2000))


@pytest.mark.parametrize("law", ["normal", "skewed", "skewed, one side"])
def test_simulated_differences_have_the_variances_of_their_parts(law: Law) -> None:
    spread = SPREADS["both"]
    squares = mean_squares(draw_differences(np.random.default_rng(2), law, spread, (4000, 5, 30)))

    error = spread.error**2 / NOISES
    assert squares.error.mean() == pytest.approx(error, rel=0.02)
    assert squares.seeds.mean() == pytest.approx(30 * spread.seed**2 + error, rel=0.08)
    assert squares.prompts.mean() == pytest.approx(5 * (spread.prompt**2 + spread.noise**2 / NOISES) + error, rel=0.04)


def test_with_fewer_prompts_than_seeds_the_degrees_of_freedom_are_the_prompts() -> None:
    # 95.4% held of 8,000; with S - 1 degrees of freedom at the least it would be 92.3%. Four standard errors of 2,000.
    tables = draw_differences(np.random.default_rng(4), "normal", SPREADS["prompts"], (2000, 10, 5))

    assert measure(np.random.default_rng(0), tables, 0.05)[0].mean() == pytest.approx(0.954, abs=0.019)


@pytest.mark.parametrize("law", ["normal", "skewed", "binary"])
def test_the_two_way_interval_covers_93_to_97_percent(law: Law) -> None:
    assert all(93 <= measured.two_way <= 97 for one, _, _, measured in rows() if one == law)
    assert all(93 <= share <= 97 for share in WELCH[law].values())


def test_it_falls_short_where_one_labels_seeds_are_skewed_and_nothing_else_counts() -> None:
    short = [(size, source) for law, size, source, one in rows() if law == "skewed, one side" and one.two_way < 93]

    assert short == [(size, "seeds") for size in SIZES]


def test_the_bootstrap_resamples_seeds_and_prompts() -> None:
    # Far from every value it covers nothing, at the mean of a wide table nearly always.
    tables = draw_differences(np.random.default_rng(3), "normal", SPREADS["both"], (200, 10, 30))

    assert not measure(np.random.default_rng(0), tables, 9)[2].any()
    assert measure(np.random.default_rng(0), tables, 0.05)[2].mean() > 0.9


def test_the_user_documentation_prints_the_table() -> None:
    text = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    sizes = {f"{seeds} × {prompts}": (seeds, prompts) for seeds, prompts in SIZES}
    printed = {
        (row[0], sizes[row[1]]): [tuple(map(float, re.findall(r"[\d.]+", cell))) for cell in row[2:]]
        for row in cells
        if row[0] in LAWS and row[1] in sizes
    }

    assert printed == {
        (law, size): [*(tuple(TABLE[law][size][source]) for source in SOURCES), (WELCH[law][size],)]
        for law in LAWS
        for size in SIZES
    }


def test_the_benchmark_prints_a_line_of_json_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["coverage_twoway.py", "--law", "normal", "--simulations", "40"])
    benchmark_module("coverage_twoway").main()

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(SIZES) * (len(SOURCES) + 1)
    assert all(80 < line["two_way"] <= 100 for line in lines if "source" in line)


def test_what_is_printed_is_the_row_of_the_next_smaller_size() -> None:
    # at ten seeds and sixty prompts: 94.7 to 95.5 on even laws, 91.1 to 94.7 where one side is skewed
    assert two_way_sentence(11, 64) == (
        "nominal 95%, measured 95 to 96% at 10 seeds and 60 prompts, and 91 to 95% where one method's part alone is "
        "skewed"
    )
    assert "at 5 seeds and 30 prompts" in two_way_sentence(5, 31)
    for seeds, prompts in ((2, 8), (5, 5), (4, 64)):
        assert f"not measured for {seeds} seeds and {prompts} prompts" in two_way_sentence(seeds, prompts)
