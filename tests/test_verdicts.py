"""When a figure may be called better, worse, a gain or a loss: each line between two words, crossed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from studies import write_study

from grpo_bench.analysis.study import studies
from grpo_bench.analysis.summary import Contrast, ViewSummary, summarise

BUDGET = 64_000
SPREAD = (-2, -1, 0, 1, 2)
"""Over five seeds s times this has a standard error of s sqrt(1 / 2)."""
T_95, T_975 = 2.7764451, 3.4954059
"""Quantiles 0.975 and 0.9875 of Student's t with 4 degrees of freedom, as tables print them: 2.776 and 3.495."""


def ends(gains: Sequence[float]) -> Callable[[int, float], float]:
    """Straight from 0.5 to 0.5 plus the seed's own gain."""
    return lambda seed, nfe: 0.5 + gains[seed] * nfe / BUDGET


def spread(mean: float, step: float) -> list[float]:
    return [mean + step * place for place in SPREAD]


def summary(folder: Path) -> ViewSummary:
    (view,) = studies(folder)[0].views
    return summarise(view)


def contrasts(folder: Path) -> dict[str, Contrast]:
    return {one.label: one for one in summary(folder).contrasts}


FLAT = ends([0.1] * 5)
AHEAD = ends(spread(0.1 + 3 * 0.01 * math.sqrt(0.5), 0.01))
"""Ahead of FLAT by three standard errors: a paired t of 3."""
U = 3 / math.sqrt(1 + 3 * 3 / 4)
P = 2 * (0.5 - 0.375 * U * (1 - U * U / 12))
"""Of t = 3 with 4 degrees of freedom, by its distribution function: 0.040."""


def test_one_contrast_alone_is_better_at_a_p_of_four_per_cent(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": FLAT, "tree": AHEAD}, contrasts=("tree",))

    tree = contrasts(tmp_path)["tree"]

    assert 0.03 < P < 0.05
    assert (tree.result.p, tree.holm_p) == pytest.approx((P, P))
    assert tree.verdict == "better"


def test_the_same_contrast_is_not_shown_where_two_were_named(tmp_path: Path) -> None:
    """Holm's p decides, and the Bonferroni interval is that of the named ones; an exploratory one has its own alone."""
    write_study(tmp_path, {"flat": FLAT, "tree": AHEAD, "mix": AHEAD, "nft": AHEAD}, contrasts=("tree", "mix"))

    found = contrasts(tmp_path)

    mean, error = 0.03 * math.sqrt(0.5), 0.01 * math.sqrt(0.5)
    for label in ("tree", "mix"):
        assert (found[label].verdict, found[label].holm_p) == ("not shown to differ", pytest.approx(2 * P))
        assert found[label].result.difference.low == pytest.approx(mean - T_95 * error, rel=1e-6)
        assert found[label].result.bonferroni == pytest.approx((mean - T_975 * error, mean + T_975 * error), rel=1e-5)
    assert found["nft"].verdict == "exploratory"
    assert found["nft"].result.bonferroni == pytest.approx((mean - T_95 * error, mean + T_95 * error), rel=1e-5)


def test_a_contrast_below_the_baseline_is_worse(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": FLAT, "tree": ends(spread(0.02, 0.001))}, contrasts=("tree",))

    assert contrasts(tmp_path)["tree"].verdict == "worse"


def test_a_difference_without_spread_has_no_p_and_so_no_verdict(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": FLAT, "tree": ends([0.2] * 5)}, contrasts=("tree",))

    tree = contrasts(tmp_path)["tree"]

    assert math.isnan(tree.holm_p)
    assert tree.verdict == "not shown to differ"


# The half-width over five seeds is 2.776 s sqrt(1 / 2): 0.020 at a step of 0.01, and 0.059 at one of 0.03.
@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        (spread(0.04, 0.01), "gain"),  # its mean is beyond the floor of 0.03, its interval (0.020, 0.060) clear of 0
        (spread(-0.04, 0.01), "loss"),
        (spread(0.02, 0.001), "within the noise floor"),
        (spread(-0.02, 0.001), "within the noise floor"),
        (spread(0.04, 0.03), "not shown"),
        (spread(-0.04, 0.03), "not shown"),
    ],
)
def test_a_gain_is_beyond_the_noise_floor_with_an_interval_clear_of_zero(
    gains: list[float], expected: str, tmp_path: Path
) -> None:
    write_study(tmp_path, {"flat": ends(gains)}, bases=(0.5, 0.515, 0.485))

    assert summary(tmp_path).method("flat").learned == expected


def test_one_evaluation_of_the_base_makes_no_noise_floor(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": ends(spread(0.04, 0.01))}, bases=(0.5,))

    assert summary(tmp_path).floor is None
