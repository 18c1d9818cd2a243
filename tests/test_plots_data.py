"""What is plotted: numbers known in closed form, the same in the file as in the figure, and the same twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from studies import Spend, write_study

from grpo_bench.analysis.plots import DATA, collect, draw_studies, plot_data, study_styles, view_folder
from grpo_bench.analysis.plots.curves import Curves
from grpo_bench.analysis.plots.pareto import Pareto, draw
from grpo_bench.analysis.plots.style import encode, house_style
from grpo_bench.analysis.plots.write import plain
from grpo_bench.analysis.study import Study, studies
from grpo_bench.analysis.summary import ViewSummary, summarise


def slow(seed: int, nfe: float) -> float:
    return 0.5 + 0.01 * seed * nfe / 64_000


def fast(seed: int, nfe: float) -> float:
    return 0.5 + (0.1 + 0.01 * seed) * nfe / 64_000


def read(folder: Path) -> tuple[Study, list[ViewSummary]]:
    (study,) = studies(folder)
    return study, [summarise(view) for view in study.views]


@pytest.fixture
def study(tmp_path: Path) -> tuple[Study, list[ViewSummary]]:
    """Two straight lines on five seeds, tree at twice the cost an iteration."""
    write_study(
        tmp_path / "runs", {"flat": slow, "tree": fast}, contrasts=("tree",), bases=(0.49, 0.51),
        spend={"tree": Spend(rollout_nfe=800, train_nfe=400, updates=8)}, factors={0.5: 0.0, 1.0: 0.1},
    )  # fmt: skip
    return read(tmp_path / "runs")


def test_a_front_is_the_mean_at_twenty_costs_and_what_its_seeds_attained(
    study: tuple[Study, list[ViewSummary]],
) -> None:
    (view,), (summary,) = study[0].views, study[1]
    plot = collect(view, summary)["pareto-nfe"]
    assert isinstance(plot, Pareto)
    tree = plot.fronts[1]
    assert plot.cut == 64_000 and plot.base == pytest.approx(0.5) and plot.floor == pytest.approx(0.02)
    assert tree.cost == pytest.approx(np.linspace(0, 64_000, 21))
    # the seeds' slopes are 0.10, 0.11, 0.12, 0.13 and 0.14 per budget
    assert tree.mean == pytest.approx(0.5 + 0.12 * np.linspace(0, 1, 21))
    assert [one.level for one in tree.attained] == [2, 3, 4]
    ends = [one.value[-1] for one in tree.attained]
    assert ends == pytest.approx([0.63, 0.62, 0.61])  # two seeds reached 0.63, three 0.62, four 0.61
    assert tree.end[0] == pytest.approx(0.62)
    assert plot.leaders == (("tree", 0, 64_000),)


def test_the_curves_are_the_points_themselves(study: tuple[Study, list[ViewSummary]]) -> None:
    (view,), (summary,) = study[0].views, study[1]
    plot = collect(view, summary)["curves-updates"]
    assert isinstance(plot, Curves)
    tree = plot.learners[1]
    assert tree.seeds == (0, 1, 2, 3, 4)
    assert tree.courses[4].cost == tuple(float(32 * k) for k in range(9))  # 8 updates of 2000 nfe, a point every 8000
    assert tree.courses[4].gold == pytest.approx([0.5 + 0.14 * k / 8 for k in range(9)])
    assert tree.mean.proxy == pytest.approx([0.6 + 0.12 * k / 8 for k in range(9)])


def test_seeds_at_other_costs_are_averaged_on_a_grid_that_all_reach(tmp_path: Path) -> None:
    # given two seeds of one method whose points lie at other updates
    for seed, updates in ((0, 2), (1, 3)):
        write_study(
            tmp_path,
            {"flat": fast},
            [seed],
            name=f"s{seed}",
            suite=False,
            spend={"flat": Spend(updates=updates, planned=3)},
        )
    study, (summary,) = read(tmp_path)
    plot = collect(study.views[0], summary)["curves-updates"]
    assert isinstance(plot, Curves)
    mean = plot.learners[0].mean
    assert mean.cost == pytest.approx(np.linspace(0, 128, 21))  # the first seed ends at 128, the second at 192
    assert mean.gold[-1] == pytest.approx((0.6 + 0.5 + 0.11 * 128 / 192) / 2)


@pytest.mark.slow
def test_the_file_beside_the_plots_is_what_was_drawn(study: tuple[Study, list[ViewSummary]], tmp_path: Path) -> None:
    drawn = draw_studies([study], tmp_path / "plots", ["png"])
    (view,), (summary,) = study[0].views, study[1]
    folder = view_folder(tmp_path / "plots", study[0], view)
    stored = json.loads((folder / DATA).read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(plot_data(view, summary)))
    assert {path.stem for path in folder.glob("*.png")} == set(stored)
    assert set(drawn.files) == {*folder.iterdir()}
    tuned = {(one["label"], one["factor"]): one["gains"] for one in stored["tuning"]["tuned"]}
    assert tuned["tree", 0.5] == pytest.approx([0.1, 0.1]) and tuned["tree", 1.0] == pytest.approx([0.2, 0.2])


@pytest.mark.slow
def test_equal_data_make_equal_files(study: tuple[Study, list[ViewSummary]]) -> None:
    (view,), (summary,), styles = study[0].views, study[1], study_styles(study[0])
    data = collect(view, summary)["pareto-nfe"]
    assert isinstance(data, Pareto)
    with house_style():
        pdfs = [encode(draw(data, styles), "pdf") for _ in range(2)]
        pngs = [encode(draw(data, styles), "png") for _ in range(2)]
    assert pdfs[0] == pdfs[1] and pngs[0] == pngs[1]
    assert b"CreationDate" not in pdfs[0] and b"matplotlib" not in pngs[0].lower()


def test_numbers_are_rounded_and_nothing_else_than_numbers_is_lost() -> None:
    assert plain({"a": (1 / 3, float("nan"), float("inf"), 2, "b", None)}) == {
        "a": [0.3333333333, None, None, 2, "b", None]
    }


def test_over_seconds_only_timed_runs_are_drawn(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": slow, "tree": fast}, range(2), timed=False)
    study, (summary,) = read(tmp_path)
    names = set(collect(study.views[0], summary))
    assert "pareto-updates" in names and not {"pareto-seconds", "curves-seconds"} & names


def test_no_gap_is_drawn_where_gold_was_trained_on(tmp_path: Path) -> None:
    write_study(tmp_path / "runs", {"flat": slow}, range(1), gold_is_proxy=True)
    study, summaries = read(tmp_path / "runs")
    found = collect(study.views[0], summaries[0])
    assert "gap" not in found and "contrasts" not in found
    over = found["curves-nfe"]
    assert isinstance(over, Curves) and over.learners[0].mean.proxy == ()


def test_images_are_of_the_median_run_and_the_shared_base_is_shown_once(tmp_path: Path) -> None:
    write_study(tmp_path / "runs", {"flat": slow, "tree": fast}, range(3), images=True)
    study, summaries = read(tmp_path / "runs")
    panel = plot_data(study.views[0], summaries[0])["images"]
    assert isinstance(panel, dict)
    rows = [(row["label"], row["seed"], row["nfe"]) for row in panel["strips"]]
    assert rows == [("", 1, 0.0), ("flat", 1, 32e3), ("flat", 1, 64e3), ("tree", 1, 32e3), ("tree", 1, 64e3)]
    assert panel["prompts"] == [f"prompt {number}" for number in range(8)]
