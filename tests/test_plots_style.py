"""Pages a column wide, text that is shown as it is, and ranges that neither hide nor inflate."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import pytest
from studies import write_study

from grpo_bench.analysis.plots import collect, study_styles
from grpo_bench.analysis.plots.gap import Gap
from grpo_bench.analysis.plots.gap import Path as Path_
from grpo_bench.analysis.plots.gap import draw as draw_gap
from grpo_bench.analysis.plots.style import (
    amount,
    encode,
    house_style,
    legend,
    legend_rows,
    limits,
    page,
    short,
    short_label,
)
from grpo_bench.analysis.plots.write import _figure
from grpo_bench.analysis.study import studies
from grpo_bench.analysis.summary import summarise
from grpo_bench.palette import label_styles


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (640, "640"), (64_000, "64k"), (58_752, "58.8k"), (999_840, "1M"), (1.25e6, "1.25M"), (0.5, "0.5")],
)
def test_costs_are_short(number: float, said: str) -> None:
    assert amount(number) == said


def test_a_range_holds_all_values_and_near_interval_ends_only() -> None:
    low, high = limits([0.5, 0.6])
    assert low == pytest.approx(0.495) and high == pytest.approx(0.605)
    low, high = limits([0.5, 0.6], [0.48, 5.0, math.nan])
    assert low < 0.48 and 0.62 < high < 0.65
    # noise of 0.001 about 0.5 is drawn small
    low, high = limits([0.5, 0.501], least=0.025)
    assert high - low >= 0.025
    assert all(math.isfinite(end) for end in limits([]))


def test_long_names_are_cut_and_hostile_ones_are_harmless() -> None:
    assert short("a" * 50, 10) == "a" * 9 + "…"
    assert "\x1b" not in short("\x1b[31mred", 20)
    # variants of a method differ at the end
    assert short_label("tree-at-a-learning-rate-of-1e-4", 16) == "tree-at-…of-1e-4"
    assert short_label("tree", 4) == "tree" and short_label("trees", 2) == "t…"


def test_a_legend_holds_every_label_without_two_in_one_place() -> None:
    labels = [f"label-number-{number}" for number in range(11)]
    with house_style():
        drawn = page(200)
        legend(drawn, label_styles(dict.fromkeys(labels, "flat")), labels, 10)
        drawn.figure.canvas.draw()
        boxes = [text.get_window_extent() for text in drawn.canvas.texts]
    assert len(boxes) == 11 and legend_rows(labels) * 9 < 200
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])


@pytest.mark.slow
def test_every_plot_is_a_column_wide_and_no_text_leaves_the_page(tmp_path: Path) -> None:
    # given names about as long as names get
    names = ["flat", "tree", "flat-matched-updates", "a-plugin-of-somebody-with-a-name"]

    def gold(seed: int, nfe: float) -> float:
        return 0.5 + 0.01 * seed + nfe / 1e6

    curves = dict.fromkeys(names, gold)
    write_study(tmp_path, curves, range(2), contrasts=("tree",), images=True, factors={1.0: 0, 3.0: 1})
    (study,) = studies(tmp_path)
    styles, (view,) = study_styles(study), study.views
    found = collect(view, summarise(view))
    names = ["pareto-nfe", "curves-nfe", "phases", "gap", "contrasts", "tuning", "images"]
    assert set(names) <= set(found)
    with house_style():
        for name in names:
            figure = _figure(found[name], styles)
            figure.canvas.draw()
            assert figure.get_figwidth() == pytest.approx(3.4, abs=0.01)
            for axes in figure.axes:
                for text in axes.texts:
                    box = text.get_window_extent()
                    assert figure.bbox.x0 <= box.x0 + 1 and box.x1 <= figure.bbox.x1 + 1, (name, text.get_text())
                    assert figure.bbox.y0 <= box.y0 + 1 and box.y1 <= figure.bbox.y1 + 1, (name, text.get_text())


def test_the_numbers_of_a_small_gap_touch_neither_each_other_nor_the_title() -> None:
    def path(label: str, gold: float, proxy: float) -> Path_:
        return Path_(label, (0.0, 60_000.0), (0.0, proxy), (0.0, gold))

    data = Gap("a title", (path("flat", 0.0115, 0.0091), path("tree", 0.003, 0.003)))
    with house_style():
        figure = draw_gap(data, label_styles({"flat": "flat", "tree": "tree"}))
        figure.canvas.draw()
        words = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
        for axes in figure.axes[1:]:
            for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                seen = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                words |= {f"{id(axis)} {text.get_text()}": text.get_window_extent() for text in seen}
    assert len(words) > 15
    assert [(one, other) for one, other in combinations(words, 2) if words[one].overlaps(words[other])] == []


def test_a_dollar_in_a_name_is_a_dollar() -> None:
    with house_style():
        drawn = page(30)
        drawn.text(10, 10, r"$\undefined{ [red] </script>")
        assert encode(drawn.figure, "png").startswith(b"\x89PNG")
