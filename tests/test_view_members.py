"""What a view takes in and what it leaves out: scenes, parts, unfinished runs, the baseline, contrasts, references."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from studies import write_study

from grpo_bench.analysis.study import Study, View, studies
from grpo_bench.analysis.summary import summarise
from grpo_bench.errors import UserError
from grpo_bench.store.points import encode, parse_table
from grpo_bench.store.suite import References, read_suites, suite_path, write_suite


def rising(seed: int, nfe: float) -> float:
    return 0.5 + 0.1 * nfe / 64_000 + 0.001 * seed


def only(folder: Path) -> View:
    (view,) = studies(folder)[0].views
    return view


def by_reward(study: Study) -> dict[str, View]:
    return {view.reward: view for view in study.views}


def record(folder: Path, run: str, **changes: object) -> None:
    """Change a stored run's run.json."""
    path = folder / run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def joined(folder: Path) -> Study:
    """The suites of a folder as one, with the first one's name, contrasts and baseline."""
    first, *others = read_suites(folder)
    references = {key: value for one in (first, *others) for key, value in one.references.items()}
    cells = tuple(cell for one in (first, *others) for cell in one.cells)
    for one in others:
        suite_path(folder, one.suite).unlink()
    write_suite(folder, first.model_copy(update={"cells": cells, "references": references}))
    (study,) = studies(folder)
    return study


def test_a_labels_runs_are_by_seed_in_whatever_order_they_were_made(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, (3, 1, 2))

    assert [curve.seed for curve in only(tmp_path).of("flat")] == [1, 2, 3]


def test_the_median_run_is_of_golds_and_not_of_seeds(tmp_path: Path) -> None:
    ends = (0.9, 0.6, 0.7)
    write_study(tmp_path, {"flat": lambda seed, nfe: 0.5 + (ends[seed] - 0.5) * nfe / 64_000}, range(3))

    view = only(tmp_path)

    assert view.median("flat").seed == 2
    ends_of_four = (*ends, 0.8)
    write_study(tmp_path / "four", {"flat": lambda seed, nfe: ends_of_four[seed]}, range(4))
    assert only(tmp_path / "four").median("flat").seed == 2  # of 0.6, 0.7, 0.8 and 0.9 the lower middle one


def test_an_interrupted_run_is_in_no_curve_though_it_has_points(tmp_path: Path) -> None:
    status = {("tree", 0): ("interrupted", ""), ("tree", 1): ("running", "")}
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(2), status=status)  # type: ignore[arg-type]

    view = only(tmp_path)

    assert (view.labels, view.all_labels) == (("flat",), ("flat", "tree"))
    assert {curve.record.status for curve in view.unfinished} == {"interrupted", "running"}


def test_a_run_that_diverged_at_its_first_point_is_no_evaluation_of_the_base(tmp_path: Path) -> None:
    # Half of a budget of 1500 holds no iteration of 1000: the run that diverged has its first point only.
    status = {("flat", 1): ("diverged", "a NaN")}
    write_study(tmp_path, {"flat": rising}, range(2), budget=1500, suite=False, status=status)  # type: ignore[arg-type]

    view = only(tmp_path)

    assert [len(curve.points) for curve in view.unfinished] == [1]
    assert view.bases == ()


def test_a_base_that_failed_before_its_point_is_none(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(2), bases=(0.5, 0.6, 0.9))
    (tmp_path / "study-base-base2" / "points.parquet").unlink()
    record(tmp_path, "study-base-base2", status="failed", reason="no memory")

    summary = summarise(only(tmp_path))

    assert summary.floor is not None
    assert (summary.floor.evaluations, summary.floor.gold) == (2, pytest.approx(0.1))


def test_each_reward_has_a_view_with_its_own_base_and_references(tmp_path: Path) -> None:
    one, two = (References(base=base, best=1.0, costs={"nfe": 1000}, targets={}) for base in (0.1, 0.2))
    gold = {"flat": rising}
    write_study(tmp_path, gold, range(2), name="one", reward="shapes", bases=(0.5, 0.51), references=one)
    write_study(tmp_path, gold, range(2), name="two", reward="shapes-pref", bases=(0.6, 0.7, 0.8), references=two)

    views = by_reward(joined(tmp_path))

    assert {reward: len(view.bases) for reward, view in views.items()} == {"shapes": 2, "shapes-pref": 3}
    assert {reward: view.references for reward, view in views.items()} == {"shapes": one, "shapes-pref": two}


def test_runs_of_two_rewards_without_a_suite_have_views_of_their_own_and_plain_labels(tmp_path: Path) -> None:
    for reward, bases in (("shapes", (0.5,)), ("shapes-pref", (0.6, 0.7))):
        write_study(tmp_path, {"flat": rising}, range(1), name=reward, reward=reward, suite=False, bases=bases)

    views = by_reward(studies(tmp_path)[0])

    assert {reward: view.labels for reward, view in views.items()} == {"shapes": ("flat",), "shapes-pref": ("flat",)}
    assert {reward: len(view.bases) for reward, view in views.items()} == {"shapes": 1, "shapes-pref": 2}


def test_runs_of_two_budgets_without_a_suite_stand_in_figures_of_their_own(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(1), name="short", suite=False, budget=32_000)
    write_study(tmp_path, {"flat": rising}, range(1), name="long", suite=False)

    assert sorted(view.cut("nfe") for view in studies(tmp_path)[0].views) == [32_000, 64_000]


def test_a_suite_of_two_budgets_is_refused_by_name(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(1))
    path = tmp_path / "study-tree-s0" / "config.toml"
    assert "nfe = 64000" in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace("nfe = 64000", "nfe = 32000"), encoding="utf-8")

    with pytest.raises(UserError, match=r"different grids or budgets.*\(study-flat-s0, study-tree-s0\)"):
        studies(tmp_path)


@pytest.mark.parametrize("run", ["study-base-base1", "study-tree-x3-s101"])
def test_a_base_or_tuning_run_under_other_rules_is_refused_too(tmp_path: Path, run: str) -> None:
    write_study(
        tmp_path, {"flat": rising, "tree": rising}, range(1), contrasts=("tree",), bases=(0.5, 0.5), factors={3.0: 0.1}
    )
    record(tmp_path, run, rules_version=2)

    with pytest.raises(UserError, match=f"{run} under 2"):
        studies(tmp_path)


def test_contrasts_are_those_of_the_view_that_has_their_cells(tmp_path: Path) -> None:
    """Given a label with a paper's settings in a suite, then its view has neither the contrasts nor a baseline."""
    write_study(tmp_path, {"flat": rising, "tree": rising}, range(2), name="one", contrasts=("tree",))
    write_study(tmp_path, {"dance": rising}, range(2), name="two", protocol="paper", baseline="dance")

    controlled, paper = joined(tmp_path).views

    assert (controlled.protocol, controlled.baseline, controlled.primary) == ("controlled", "flat", ("tree",))
    assert (paper.protocol, paper.baseline, paper.primary) == ("paper", "", ())


def test_without_a_suite_a_method_whose_name_begins_like_the_baselines_is_another(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising, "flatter": rising}, range(1), suite=False)

    assert only(tmp_path).baseline == "flat"


def test_missing_cells_of_every_part_are_told(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(2), bases=(0.5, 0.5), factors={3.0: 0.1})
    for run in ("study-flat-s1", "study-base-base1", "study-flat-x3-s100"):
        shutil.rmtree(tmp_path / run)

    (study,) = studies(tmp_path)

    assert {(cell.part, cell.run) for cell in study.missing} == {
        ("main", "study-flat-s1"),
        ("base", "study-base-base1"),
        ("tuning", "study-flat-x3-s100"),
    }


def test_a_tuning_run_that_did_not_finish_is_in_no_mean(tmp_path: Path) -> None:
    # Gains of the tuning runs at three times the rate: 0.1 + 0.2, and 0.001 more on seed 101.
    write_study(tmp_path, {"flat": rising}, range(2), factors={3.0: 0.2})
    record(tmp_path, "study-flat-x3-s101", status="diverged", reason="a NaN")

    view = only(tmp_path)

    assert [curve.record.run for curve in view.tuning] == ["study-flat-x3-s100"]
    assert 3.0 not in {row.factor for row in summarise(view).tuning}  # a rate at which one diverged ranks last


def test_the_shared_rate_is_read_on_the_tuning_seeds_where_it_was_run_there(tmp_path: Path) -> None:
    """Given a label with the shared rate among its tuning runs, then the reported runs are not taken for it."""
    labels = {"flat": rising, "tree": rising, "mix": rising}
    write_study(tmp_path, labels, range(5), contrasts=("tree",), factors={1.0: 0.3, 3.0: 0.2})

    tuned = {(row.label, row.factor): row.gain for row in summarise(only(tmp_path)).tuning}

    assert set(tuned) == {(label, factor) for label in ("flat", "tree") for factor in (1.0, 3.0)}
    # The tuning runs are 0.3 above seed 0's curve, which gains 0.1; seed 101's starts and ends 0.001 higher.
    assert (tuned["tree", 1.0].n, tuned["tree", 1.0].mean) == (2, pytest.approx(0.4))


def test_two_suites_in_a_folder_share_it_without_a_note(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_study(tmp_path, {"flat": rising}, range(1), name=name)

    found = studies(tmp_path)

    assert [(study.name, study.notes) for study in found] == [("one", ()), ("two", ())]


def test_a_damaged_run_beside_runs_without_a_suite_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(2), suite=False)
    (tmp_path / "study-flat-s1" / "run.json").write_text("{", encoding="utf-8")

    (study,) = studies(tmp_path)

    assert any("study-flat-s1" in note for note in study.notes)


def test_runs_in_hidden_folders_are_none(tmp_path: Path) -> None:
    write_study(tmp_path / ".trash", {"flat": rising}, range(1))

    with pytest.raises(UserError, match="holds no runs"):
        studies(tmp_path)


def test_runs_of_one_method_by_two_sources_are_told_apart(tmp_path: Path) -> None:
    """Given the same settings and an edited method file, then neither label is the other's, nor the plain name."""
    write_study(tmp_path, {"flat": rising}, range(2), suite=False, name="old")
    write_study(tmp_path, {"flat": rising}, range(2), suite=False, name="new")
    for seed in range(2):
        record(tmp_path, f"new-flat-s{seed}", hashes={"method": "another source"})

    view = only(tmp_path)

    assert len(view.labels) == 2
    assert all(label.startswith("flat@") for label in view.labels)
    assert [len(view.of(label)) for label in view.labels] == [2, 2]


def test_runs_of_one_method_by_two_recipes_are_named_by_them(tmp_path: Path) -> None:
    for recipe in ("flow-grpo", "dancegrpo"):
        write_study(tmp_path, {"flat": rising}, range(1), suite=False, name=recipe, recipe=recipe, protocol="paper")

    assert set(only(tmp_path).labels) == {"flat(flow-grpo)", "flat(dancegrpo)"}


def test_a_column_with_a_gap_is_kept_and_an_empty_one_is_not(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": rising}, range(1))
    points = tmp_path / "study-flat-s0" / "points.parquet"
    rows = parse_table(points.read_bytes(), points).to_pylist()
    points.write_bytes(encode([row | {"vendi": 2.0 if place else None, "gap": None} for place, row in enumerate(rows)]))

    (curve,) = only(tmp_path).curves

    assert "gap" not in curve.points.columns
    assert [value == 2.0 for value in curve.column("vendi")] == [False] + [True] * 8


@pytest.mark.parametrize("proxy", [True, False])
def test_a_view_says_whether_gold_was_trained_on(tmp_path: Path, proxy: bool) -> None:
    write_study(tmp_path, {"flat": rising}, range(1), gold_is_proxy=proxy)

    assert only(tmp_path).gold_is_proxy is proxy
