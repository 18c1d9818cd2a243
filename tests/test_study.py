"""How runs are sorted into views: what may stand in one figure, what is refused, and what a label is."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import Spend, write_study

from grpo_bench.analysis.study import studies
from grpo_bench.analysis.summary import summarise
from grpo_bench.errors import UserError


def rising(seed: int, nfe: float) -> float:
    return 0.5 + 0.1 * nfe / 64_000 + 0.001 * seed


def test_a_suite_gives_its_labels_its_order_and_its_contrasts(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising, "flat-window": rising, "tree": rising}, range(2), contrasts=("tree",))

    (study,) = studies(tmp_path)
    (view,) = study.views

    assert (study.name, view.labels, view.baseline, view.primary) == (
        "study",
        ("flat", "flat-window", "tree"),
        "flat",
        ("tree",),
    )
    assert view.method("flat-window") == "mix"
    assert [curve.seed for curve in view.of("tree")] == [0, 1]


def test_runs_without_a_suite_are_named_by_the_setting_that_sets_them_apart(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising, "flat-matched-updates": rising, "tree": rising}, range(2), suite=False)

    (study,) = studies(tmp_path)
    (view,) = study.views

    assert study.suite is None
    assert view.labels == ("flat(ema_decay=0.58)", "flat(ema_decay=0.0)", "tree")
    assert sorted(view.method(label) for label in view.labels) == ["flat", "flat", "tree"]
    assert view.baseline == ""  # two kinds of flat: neither is the baseline


def test_a_folder_of_folders_gives_each_its_own_study(tmp_path: Path) -> None:
    write_study(tmp_path / "one", {"flat": rising}, range(2), name="one")
    write_study(tmp_path / "two", {"flat": rising}, range(2), suite=False)
    (tmp_path / "empty").mkdir()

    assert [study.name for study in studies(tmp_path)] == ["one", "two"]


def test_protocols_never_share_a_view(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(2), suite=False)
    write_study(tmp_path, {"mix": rising}, range(2), suite=False, protocol="paper", name="paper")

    (study,) = studies(tmp_path)

    assert [(view.protocol, view.labels) for view in study.views] == [
        ("controlled", ("flat", "tree")),
        ("paper", ("mix",)),
    ]


def test_a_view_is_cut_at_the_smallest_maximum_of_its_runs(tmp_path: Path) -> None:
    # 64,000 nfe hold 64 iterations of 1,000 and 21 of 3,000 (63,000); each makes two updates.
    costly = Spend(rollout_nfe=2400)
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(2), spend={"tree": costly})

    (view,) = studies(tmp_path)[0].views

    assert (view.cut("nfe"), view.cut("updates"), view.cut("rollout-nfe")) == (63_000, 42, 25_600)


def test_runs_that_shared_their_device_are_in_no_view_over_seconds(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(2), timed=False, name="shared")
    write_study(tmp_path, {"tree": rising}, range(2), suite=False)

    view = next(view for study in studies(tmp_path) for view in study.views if "flat" in view.labels)

    assert [curve.label for curve in view.on("nfe")] == ["flat", "flat"]
    assert view.on("seconds") == ()


def test_unfinished_runs_are_counted_and_in_no_curve(tmp_path: Path) -> None:
    status = {("tree", 1): ("diverged", "a NaN in the gradient"), ("tree", 2): ("failed", "out of memory")}
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(3), status=status, missing=[("flat", 2)])  # type: ignore[arg-type]

    (study,) = studies(tmp_path)
    (view,) = study.views

    assert [(curve.label, curve.seed) for curve in view.curves] == [("flat", 0), ("flat", 1), ("tree", 0)]
    assert {(curve.seed, curve.record.status) for curve in view.unfinished} == {(1, "diverged"), (2, "failed")}
    assert [(cell.label, cell.seed) for cell in study.missing] == [("flat", 2)]


def test_the_untrained_base_is_beside_the_runs_and_not_among_them(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(2), bases=(0.5, 0.53))

    (view,) = studies(tmp_path)[0].views

    assert view.labels == ("flat",)
    assert [float(curve.gold[0]) for curve in view.bases] == [0.5, 0.53]


def test_the_base_is_recognised_without_a_suite(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(2), bases=(0.5, 0.53), suite=False)

    (view,) = studies(tmp_path)[0].views

    assert (view.labels, len(view.bases)) == (("flat",), 2)


def test_the_median_run_is_the_lower_of_two_middle_ones(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(4))

    (view,) = studies(tmp_path)[0].views

    assert view.median("flat").seed == 1


def test_mixed_rules_versions_are_refused_by_name(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(1), suite=False, name="old")
    write_study(tmp_path, {"tree": rising}, range(1), suite=False, name="new", rules_version=2)

    with pytest.raises(UserError, match=r"new-tree-s0 was measured under rules version 2 and old-flat-s0 under 1"):
        studies(tmp_path)


def test_a_suite_of_two_evaluation_grids_is_refused_by_name(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(1))
    path = tmp_path / "study-tree-s0" / "config.toml"
    path.write_text(path.read_text().replace("every = 8000", "every = 4000"))

    with pytest.raises(UserError, match="flat and tree were evaluated on different grids or budgets"):
        studies(tmp_path)


def test_runs_of_two_grids_without_a_suite_stand_in_figures_of_their_own(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(1), suite=False, name="one")
    write_study(tmp_path, {"tree": rising}, range(1), suite=False, name="two", every=16_000)

    (study,) = studies(tmp_path)

    assert sorted(view.labels for view in study.views) == [("flat",), ("tree",)]
    assert len({view.name for view in study.views}) == 2


def test_a_half_deleted_run_is_named_and_hides_no_other(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(2))
    (tmp_path / "study-flat-s1" / "run.json").unlink()

    (study,) = studies(tmp_path)

    assert study.views[0].labels == ("flat", "tree")
    assert any("study-flat-s1" in note for note in study.notes)
    assert [(cell.label, cell.seed) for cell in study.missing] == [("flat", 1)]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("[[[")])
def test_a_run_without_its_config_is_named_and_hides_no_other(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(2))
    damage(tmp_path / "study-tree-s1" / "config.toml")

    (study,) = studies(tmp_path)

    assert [(curve.label, curve.seed) for curve in study.views[0].curves] == [("flat", 0), ("flat", 1), ("tree", 0)]
    assert [note for note in study.notes if note.startswith("study-tree-s1") and "config.toml" in note]
    assert [(cell.label, cell.seed) for cell in study.missing] == [("tree", 1)]


def test_a_run_whose_points_lack_a_figure_is_told_and_in_no_mean(tmp_path: Path) -> None:
    gap = lambda seed, nfe: math.nan if seed == 1 and nfe > 32_000 else 0.5  # noqa: E731
    never = lambda seed, nfe: math.nan if seed == 1 else 0.5  # noqa: E731
    dear = {"mix": Spend(rollout_nfe=70_000)}
    write_study(tmp_path, {"flat": rising, "tree": gap, "nft": never, "mix": rising}, range(2), spend=dear)
    (tmp_path / "study-flat-s1" / "points.parquet").unlink()

    (view,) = studies(tmp_path)[0].views

    assert [(curve.label, curve.seed) for curve in view.curves] == [("flat", 0), ("tree", 0), ("nft", 0)]
    assert {(curve.label, curve.seed): curve.unfinished for curve in view.unfinished} == {
        ("flat", 1): "its points are gone",
        ("tree", 1): "not all of its points have a finite gold",
        ("nft", 1): "not all of its points have a finite gold",
        ("mix", 0): "no iteration fits its budget",
        ("mix", 1): "no iteration fits its budget",
    }


def test_a_budget_of_seconds_is_read_at_the_budget_between_the_points_on_either_side(tmp_path: Path) -> None:
    # Points every 16 s (8,000 nfe), the last at 128 s; at 120 s the line had got to 60,000 nfe
    write_study(tmp_path, {"flat": rising}, range(2))
    for path in tmp_path.glob("*/config.toml"):
        path.write_text(path.read_text().replace("nfe = 64000.0", "seconds = 120.0"))

    (view,) = studies(tmp_path)[0].views
    figures = summarise(view).method("flat")

    finals = [rising(seed, 60_000) for seed in range(2)]
    assert [curve.final("gold") for curve in view.curves] == pytest.approx(finals)
    assert figures.gold.mean == pytest.approx(sum(finals) / 2)
    assert (figures.gain.mean, figures.proxy_gain.mean) == pytest.approx((0.1 * 60 / 64, 0.1 * 60 / 64))
    assert figures.costs["seconds"] == 128


def test_nothing_is_shown_over_an_axis_on_which_a_run_spends_nothing(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(2), spend={"tree": Spend(updates=0)})

    (study,) = studies(tmp_path)
    (view,) = study.views
    summary = summarise(view)

    assert math.isnan(view.cut("updates"))
    assert [axis.axis for axis in summary.axes] == ["nfe", "rollout-nfe", "reward-calls", "seconds"]
    assert all("updates" not in method.hypervolume for method in summary.methods)
    assert [note for note in study.notes if "nothing is shown over updates, since study-tree-s0 spent none" in note]


@pytest.mark.parametrize(
    "change",
    [
        {"hashes": {"method": "source of flat", "weights": "other"}},
        {"hashes": {"method": "source of flat", "prompts": "other"}},
        {"hashes": {"method": "source of flat", "reward/shapes-pref/shapes_pref.pt": "other"}},
        {"device": "cuda"},
        {"numerics_version": 2},
    ],
)
def test_runs_of_other_weights_prompts_or_devices_are_neither_more_seeds_nor_rivals(
    tmp_path: Path, change: dict[str, object]
) -> None:
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(2), suite=False, name="old")
    write_study(tmp_path, {"flat": rising}, range(2), suite=False, name="new")
    for path in tmp_path.glob("new-*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    (study,) = studies(tmp_path)

    found = [(view.labels, [curve.seed for curve in view.of("flat")]) for view in study.views]
    assert sorted(found) == [(("flat",), [0, 1]), (("flat", "tree"), [0, 1])]


def test_a_suite_of_two_base_models_is_refused_by_name(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(1))
    path = tmp_path / "study-tree-s0" / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"hashes": record["hashes"] | {"weights": "another"}}))

    with pytest.raises(UserError, match=r"flat and tree were .* or given other base weights"):
        studies(tmp_path)


def test_the_noise_of_the_base_counts_once_and_only_as_the_runs_were_evaluated(tmp_path: Path) -> None:
    # Two of three evaluations share their noise, and one of another folder drew other numbers of images
    write_study(tmp_path, {"flat": rising}, range(2), bases=(0.5, 0.53, 0.5), suite=False)
    write_study(tmp_path, {}, range(0), bases=(0.1,), suite=False, name="other")
    again, fewer = (tmp_path / f"{name}" / "config.toml" for name in ("study-base-base2", "other-base-base0"))
    again.write_text(again.read_text().replace("seed = 2", "seed = 0"))
    fewer.write_text(fewer.read_text().replace("images = 2", "images = 1"))

    (study,) = studies(tmp_path)
    floor = summarise(study.views[0]).floor

    assert floor is not None
    assert (floor.evaluations, floor.gold) == (2, pytest.approx(0.03))


def test_runs_of_changed_cells_are_left_out_and_told(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(2))
    shutil.copytree(tmp_path / "study-flat-s0", tmp_path / "old-flat-s0")
    path = tmp_path / "old-flat-s0" / "run.json"
    path.write_text(path.read_text().replace("study-flat-s0", "old-flat-s0"))

    (study,) = studies(tmp_path)

    assert len(study.views[0].curves) == 2
    assert any("1 run" in note and "no suite" in note for note in study.notes)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None, lambda path: path.write_text("")])
def test_a_folder_without_runs_is_one_sentence(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    make(tmp_path / "empty")

    with pytest.raises(UserError, match=r"holds no runs|is no folder"):
        studies(tmp_path / "empty")
