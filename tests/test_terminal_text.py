"""Short texts for a terminal line: sparklines, numbers, durations, and untrusted text."""

from __future__ import annotations

import math

import pytest

from grpo_bench.terminal.text import change, duration, plain, score, sparkline, spent


def test_a_rising_history_uses_every_bar_once() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"


def test_a_long_history_is_averaged_into_the_width() -> None:
    # Means of the halves: 1 and 11.
    assert sparkline([0, 2, 10, 12], 2) == "▁█"
    # Equal shares, although 1001 is no multiple of 8.
    assert sparkline(list(range(1001)), 8) == "▁▂▃▄▅▆▇█"


@pytest.mark.parametrize("values", [[5.0], [0.3] * 4, [1e9, 1e9]])
def test_a_constant_history_is_level(values: list[float]) -> None:
    assert sparkline(values, 10) == "▄" * len(values)


def test_what_is_not_finite_is_left_out() -> None:
    assert sparkline([], 5) == ""
    assert sparkline([math.nan, math.inf], 5) == ""
    assert sparkline([0, math.nan, 1], 5) == "▁█"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (8040, "2 h 14 min"),
        (273_600, "3 d 4 h"),
        (math.nan, "–"),
    ],
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_scores_keep_four_decimals_and_their_sign_in_a_change() -> None:
    assert (score(0.5), score(-1.57349), score(1234.5), score(math.nan)) == ("0.5000", "-1.5735", "1,234.50", "–")
    assert (change(0.08), change(-0.0), change(math.nan)) == ("+0.0800", "-0.0000", "–")


def test_budgets_are_found_in_a_point_by_their_own_names() -> None:
    row = {"iteration": 3, "rollout_nfe": 40, "reward_calls": None}
    assert spent(row, "iterations") == 3
    assert spent(row, "rollout-nfe") == 40
    assert math.isnan(spent(row, "reward-calls"))


def test_untrusted_text_keeps_its_markup_as_letters_and_loses_its_controls() -> None:
    text = plain("[red]a\x1b[2Jb\x07[/red]\nc")
    assert text.plain == "[red]ab\ufffd[/red] c"
    assert not text.spans
