"""The synthetic studies that other tests stand on are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from studies import Spend, write_study

from grpo_bench.analysis.study import studies


def line(seed: int, nfe: float) -> float:
    return 0.5 + 0.01 * seed + nfe / 1e6


def test_a_study_is_read_back_as_it_was_given(tmp_path: Path) -> None:
    curves = {"flat": line, "flat-window": line, "tree": line}
    write_study(
        tmp_path, curves, contrasts=("tree",), spend={"tree": Spend(rollout_nfe=700, train_nfe=600)},
        status={("tree", 1): ("diverged", "gold was NaN"), ("tree", 2): ("failed", "out of memory")},
        missing=[("flat-window", 4)], bases=(0.50, 0.52), factors={0.3333: -0.1, 3.0: 0.1},
    )  # fmt: skip
    (study,) = studies(tmp_path)
    (view,) = study.views
    assert view.labels == ("flat", "flat-window", "tree") and view.primary == ("tree",)
    assert [curve.seed for curve in view.of("tree")] == [0, 3, 4]
    assert [(curve.label, curve.record.status) for curve in view.unfinished] == [
        ("tree", "diverged"),
        ("tree", "failed"),
    ]
    assert [(cell.label, cell.seed) for cell in study.missing] == [("flat-window", 4)]
    assert view.method("flat-window") == "mix"
    assert len(view.bases) == 2 and len(view.tuning) == 8
    flat, tree = view.of("flat")[3], view.of("tree")[1]
    assert flat.cost("nfe").tolist() == [8000 * k for k in range(9)]
    assert flat.gold[-1] == pytest.approx(0.5 + 0.03 + 0.064)
    assert tree.cost("nfe").tolist()[:3] == [0, 10000, 17500] and view.cut("nfe") == 62500


def test_without_a_suite_the_runs_still_make_a_view(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line, "tree": line}, range(2), suite=False, bases=(0.5, 0.5), images=True)
    (study,) = studies(tmp_path)
    (view,) = study.views
    assert study.suite is None and view.labels == ("flat", "tree") and len(view.bases) == 2
