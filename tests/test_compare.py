"""Two runs side by side: settings, equalities, scores, gold at equal cost, and never a verdict on methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studies import Spend, write_study

from grpo_bench.analysis.comparison import WARNING, Comparison, compare_runs
from grpo_bench.cli import app
from grpo_bench.errors import UserError
from grpo_bench.store.points import encode
from grpo_bench.store.run import RunStore


def compared(folder: Path, first: str = "study-flat-s0", second: str = "study-tree-s0") -> Comparison:
    return compare_runs(RunStore.open(first, folder), RunStore.open(second, folder))


def test_settings_that_differ_are_listed_and_no_others(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.6}, range(1))

    config = tmp_path / "study-tree-s0" / "config.toml"
    config.write_text(config.read_text().replace('name = "tree"\n', 'name = "tree"\nbranching = 3\n'))

    settings = compared(tmp_path).settings

    assert settings == (("method.name", "flat", "tree"), ("method.branching", None, "3"))


def test_what_was_equal_and_what_was_not_is_said(tmp_path: Path) -> None:
    # Tree: 500 nfe an iteration (200 rollout, 100 trained), so 128 iterations of 3 updates and 64 calls in 64,000 nfe
    spend = {"tree": Spend(rollout_nfe=200, train_nfe=100, updates=3, reward_calls=64)}
    write_study(tmp_path, {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.6}, range(1), spend=spend)

    found = {one.what: (one.first, one.second, one.equal) for one in compared(tmp_path).equalities}

    assert found["kernel"] == ("flow-sde", "flow-sde", True)
    assert found["nfe"] == ("64,000", "64,000", True)
    assert found["updates"] == ("128", "384", False)
    assert found["reward calls"] == ("2,048", "8,192", False)
    assert found["rollout nfe"] == ("25,600", "25,600", True)


def test_gold_is_read_where_the_shorter_run_ended_on_each_axis(tmp_path: Path) -> None:
    # Both rise in a line with nfe. Tree makes 6 updates an iteration, so at flat's 128 updates it has spent a third
    spend = {"tree": Spend(updates=6)}
    gold = {"flat": lambda s, n: 0.5 + n / 640_000, "tree": lambda s, n: 0.5 + 3 * n / 640_000}
    write_study(tmp_path, gold, range(1), spend=spend)

    found = {one.axis: one for one in compared(tmp_path).at_cost}

    assert set(found) == {"nfe", "rollout-nfe", "reward-calls", "updates", "seconds"}
    assert (found["nfe"].cost, found["nfe"].first, found["nfe"].second) == pytest.approx((64_000, 0.6, 0.8))
    assert (found["updates"].cost, found["updates"].first, found["updates"].second) == pytest.approx((128, 0.6, 0.6))


def test_seconds_of_untimed_runs_are_not_compared(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.6}, range(1), timed=False)

    found = compared(tmp_path)

    assert "seconds" not in {one.axis for one in found.at_cost}
    assert any("Seconds are not compared" in note for note in found.notes)


def test_scores_of_base_and_end_are_shown_and_the_warning_is_last(tmp_path: Path) -> None:
    gold = {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.5 + n / 640_000}
    write_study(tmp_path, gold, range(1))

    found = compared(tmp_path)

    assert found.second.ends["gold"] == pytest.approx((0.5, 0.6))
    assert found.second.ends["proxy"] == pytest.approx((0.6, 0.7))
    assert found.second.ends["diversity"] == (0.2, 0.2)
    assert found.notes[-1] == WARNING


def test_other_seeds_and_evaluations_are_noted(tmp_path: Path) -> None:
    gold = {"flat": lambda s, n: 0.5}
    write_study(tmp_path / "a", gold, range(2), name="a")
    write_study(tmp_path / "b", gold, range(2), name="b", every=4000, reward="shapes", protocol="paper")

    notes = compare_runs(RunStore(tmp_path / "a" / "a-flat-s0"), RunStore(tmp_path / "b" / "b-flat-s1")).notes

    said = " ".join(notes)
    for part in (
        "seeds differ (0, 1)",
        "rewards differ (shapes-pref, shapes)",
        "protocols differ",
        "evaluated differently",
    ):
        assert part in said


def test_an_axis_on_which_a_run_spends_nothing_or_has_no_figure_is_left_out(tmp_path: Path) -> None:
    gold = {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.6}
    write_study(tmp_path, gold, range(1), spend={"tree": Spend(updates=0)})
    store = RunStore.open("study-flat-s0", tmp_path)
    rows = [{name: value for name, value in row.items() if name != "reward_calls"} for row in store.rows()]
    (store.folder / "points.parquet").write_bytes(encode(rows))

    assert [one.axis for one in compared(tmp_path).at_cost] == ["nfe", "rollout-nfe", "seconds"]


def test_other_base_weights_are_noted(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.6}, range(1))
    for name, weights in (("flat", "one"), ("tree", "another")):
        path = tmp_path / f"study-{name}-s0" / "run.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"hashes": record["hashes"] | {"weights": weights}}))

    assert "Their base weights differ, so their figures do not belong side by side." in compared(tmp_path).notes


def test_runs_that_cannot_be_compared_are_refused_in_a_sentence(tmp_path: Path) -> None:
    gold = {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.5}
    write_study(tmp_path, gold, range(1), status={("tree", 0): ("failed", "no memory")})
    write_study(tmp_path / "old", {"flat": lambda s, n: 0.5}, range(1), name="old", rules_version=2)

    with pytest.raises(UserError, match="given twice"):
        compared(tmp_path, second="study-flat-s0")
    with pytest.raises(UserError, match="before its first point"):
        compared(tmp_path)
    with pytest.raises(UserError, match=r"rules version 1 and .* under 2"):
        compare_runs(RunStore(tmp_path / "study-flat-s0"), RunStore(tmp_path / "old" / "old-flat-s0"))


def test_command_prints_both_runs_and_never_says_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path, {"flat": lambda s, n: 0.5, "tree": lambda s, n: 0.5 + n / 64_000}, range(1))
    arguments = ["compare", "study-flat-s0", "study-tree-s0", "--results", str(tmp_path)]

    app(arguments, standalone_mode=False)
    shown = capsys.readouterr().out
    app([*arguments, "--json"], standalone_mode=False)
    stored = json.loads(capsys.readouterr().out)

    assert "study-tree-s0" in shown
    assert WARNING in shown
    assert "better" not in shown
    assert stored["runs"][1]["final"]["gold"] == pytest.approx(1.5)
    assert stored["notes"][-1] == WARNING
