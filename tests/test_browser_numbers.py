"""numbers.js by itself, in a real browser: what the page computes from counters, against counts by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from studies import write_study

import grpo_bench.analysis.report
from grpo_bench.analysis.report.page import write_report

chromium = pytest.importorskip("chromium", reason="selenium is not installed")

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = chromium.MARKS

NUMBERS = Path(grpo_bench.analysis.report.__file__).with_name("numbers.js").read_text(encoding="utf-8")
T_1, T_2 = 12.706204736, 4.302652730
"""Quantiles 0.975 of Student's t with 1 and 2 degrees of freedom."""


def call(chrome: Chrome, function: str, *arguments: object) -> object:
    """What a function of numbers.js returns; a NaN comes back as None."""
    given = ", ".join(json.dumps(one) for one in arguments)
    return json.loads(chrome.execute_script(f"{NUMBERS}\nreturn JSON.stringify({function}({given}))"))


def run(label: int, seed: int, gold: list[float], **more: object) -> dict[str, object]:
    """A run of 0, 100, 200, ... evaluations and one second and one reward call for each hundred of them."""
    points = range(len(gold))
    counters = {"nfe": [100 * point for point in points], "seconds": [*points], "reward_calls": [*points]}
    return (
        {"label": label, "seed": seed, "timed": True, "gold": gold, "proxy": [2 * one for one in gold]}
        | counters
        | more
    )


def view(*runs: dict[str, object], baseline: int = 0) -> dict[str, object]:
    return {
        "runs": list(runs),
        "labels": [{}, {}],
        "baseline": baseline,
        "costs": 4,
        "t": {"2": T_1, "3": T_2},
    }


@pytest.mark.parametrize(
    ("count", "levels"), [(1, [1]), (2, [1, 2]), (3, [2, 3]), (4, [2, 3, 4]), (5, [2, 3, 4]), (10, [4, 6, 8])]
)
def test_bands_are_at_two_three_and_four_fifths_rounded_up(browser: Chrome, count: int, levels: list[int]) -> None:
    assert call(browser, "bandLevels", count) == levels


def test_what_a_seed_had_reached_stays_reached(browser: Chrome) -> None:
    # Best so far of the three at the three costs after 0: {1, 2, 6}, {3, 3, 4}, {0, 5, 5}; the k-th largest of each.
    seeds = [{"values": [9, *values]} for values in ([1, 2, 6], [3, 1, 4], [0, 5, 2])]

    assert [call(browser, "attained", seeds, level) for level in (1, 2, 3)] == [[3, 5, 6], [1, 3, 5], [0, 2, 4]]


def test_an_interval_is_student_t_over_the_seeds(browser: Chrome) -> None:
    # 1, 2, 3: s = 1, so half is t(2) / sqrt(3).
    found = call(browser, "estimate", [1, 2, 3], {"2": T_1, "3": T_2})
    alone = call(browser, "estimate", [7], {})

    half = T_2 / math.sqrt(3)
    assert found == {"mean": 2, "low": pytest.approx(2 - half), "high": pytest.approx(2 + half), "n": 3}
    assert alone == {"mean": 7, "low": None, "high": None, "n": 1}


def test_a_curve_is_linear_between_its_points_and_holds_after_the_last(browser: Chrome) -> None:
    curve = [0, 10, 30], [1, 2, 6]

    assert [call(browser, "interpolate", *curve, at) for at in (0, 5, 10, 20, 30, 31)] == [1, 1.5, 2, 4, 6, 6]


def test_over_seconds_only_timed_runs_are_shown_and_the_cut_is_theirs(browser: Chrome) -> None:
    given = view(run(0, 0, [0, 1, 2]), run(0, 1, [0, 5], timed=False), run(1, 0, [0, 3, 4, 5]))

    seconds, nfe = (call(browser, "resample", given, axis, 1, "gold") for axis in ("seconds", "nfe"))

    assert isinstance(seconds, dict) and isinstance(nfe, dict)
    assert (seconds["cut"], seconds["runs"], seconds["grid"]) == (2, 2, [0, 0.5, 1, 1.5, 2])
    assert [[(one["seed"], one["end"]) for one in label] for label in seconds["labels"]] == [[(0, 2)], [(0, 4)]]
    assert (nfe["cut"], nfe["runs"], nfe["grid"][1]) == (100, 3, 25)


def test_a_latency_costs_so_many_evaluations_for_each_reward_call(browser: Chrome) -> None:
    assert call(browser, "costsOf", run(0, 0, [0, 1, 2]), "latency", 30) == [0, 130, 260]
    assert call(browser, "costsOf", run(0, 0, [0, 1, 2]), "nfe", 30) == [0, 100, 200]


def test_the_gap_is_proxy_less_gold(browser: Chrome) -> None:
    assert call(browser, "scoresOf", run(0, 0, [1, 2, 4]), "gap") == [1, 2, 4]
    assert call(browser, "scoresOf", run(0, 0, [1, 2, 4]), "proxy") == [2, 4, 8]


def test_a_ranking_is_by_mean_gold_with_differences_of_common_seeds(browser: Chrome) -> None:
    # Label 1 shares the seeds 1 and 2 with the baseline: 5 - 3 and 6 - 2; its seed 9 has no partner.
    ends = {0: {0: 1.0, 1: 3.0, 2: 2.0}, 1: {1: 5.0, 2: 6.0, 9: 1.0}}
    given = view(*(run(label, seed, [0, end]) for label, seeds in ends.items() for seed, end in seeds.items()))
    table = call(browser, "resample", given, "nfe", 1, "gold")

    first, second = call(browser, "ranking", given, table)  # type: ignore[misc]

    assert (first["label"], first["gold"]["mean"], second["label"], second["gold"]["mean"]) == (1, 4, 0, 2)
    assert (first["difference"]["n"], first["difference"]["mean"]) == (2, 3)
    # 2 and 4: s = sqrt(2), half is t(1) sqrt(2) / sqrt(2)
    assert first["difference"]["high"] == pytest.approx(3 + T_1)
    assert second["difference"] is None


@pytest.fixture
def page(browser: Chrome, tmp_path: Path) -> Chrome:
    """A report of two methods whose base was evaluated twice."""
    labels = {"flat": lambda s, n: 0.5 + n / 640_000, "tree": lambda s, n: 0.5 + n / 320_000}
    write_study(tmp_path, labels, bases=(0.5, 0.53))
    write_report(tmp_path, tmp_path / "report.html")
    chromium.appear(browser)
    chromium.load(browser, tmp_path / "report.html")
    return browser


def test_a_figure_has_the_noise_floor_on_both_sides_of_the_base_and_on_gold_only(page: Chrome) -> None:
    def shapes(plot: str) -> list[tuple[str, float, float]]:
        script = "return document.querySelector(arguments[0]).layout.shapes.map(one => [one.type, one.y0, one.y1])"
        return [tuple(one) for one in page.execute_script(script, plot)]

    expected = [("line", 0.5, 0.5), ("rect", pytest.approx(0.47), pytest.approx(0.53))]
    assert shapes(".pareto") == shapes(".curves") == expected

    page.find_element("css selector", ".quantity option[value=diversity]").click()

    assert (shapes(".pareto"), shapes(".curves")) == (expected, [])


@pytest.mark.parametrize(("sign", "order"), [(1, ["−2.0", "9.0", "10.0", "–"]), (-1, ["10.0", "9.0", "−2.0", "–"])])
def test_numbers_sort_by_size_and_what_is_missing_comes_last_either_way(
    page: Chrome, sign: int, order: list[str]
) -> None:
    cells = [{"dataset": {"text": "–"}}]
    cells += [{"dataset": {"text": f"{one}".replace("-", "−"), "order": str(one)}} for one in (10.0, -2.0, 9.0)]
    script = (
        "return arguments[0].sort((one, other) => compare(one, other, arguments[1])).map(cell => cell.dataset.text)"
    )

    assert page.execute_script(script, cells, sign) == order
    assert page.execute_script(script, cells[::-1], sign) == order


@pytest.mark.parametrize(("sign", "order"), [(1, ["s2", "s10", "tree", "–"]), (-1, ["tree", "s10", "s2", "–"])])
def test_texts_sort_by_alphabet_and_a_dash_comes_last_either_way(page: Chrome, sign: int, order: list[str]) -> None:
    cells = [{"dataset": {"text": text}} for text in ("tree", "–", "s10", "s2")]
    script = (
        "return arguments[0].sort((one, other) => compare(one, other, arguments[1])).map(cell => cell.dataset.text)"
    )

    assert page.execute_script(script, cells, sign) == order
    assert page.execute_script(script, cells[::-1], sign) == order


def test_what_the_page_makes_of_data_is_text(page: Chrome) -> None:
    script = "const made = element('p', arguments[0]); return [made.childElementCount, made.textContent]"

    assert page.execute_script(script, "<b>bold</b>") == [0, "<b>bold</b>"]
