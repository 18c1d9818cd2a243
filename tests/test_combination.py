"""Several rewards: raw, normalised and combined values are stored at every point."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Make, Watcher, run, same_points

from grpo_bench.config import RewardSection
from grpo_bench.evaluation.combination import combination
from grpo_bench.store.run import RunStore
from grpo_bench.training.run import resume

# a: 0.2 with a spread of 0.1, then 0.35; b: 30 with a spread of 4, then 28
BASE = {"reward/a": 0.2, "spread/a": 0.1, "reward/b": 30.0, "spread/b": 4.0}
LATER = {"reward/a": 0.35, "spread/a": 0.5, "reward/b": 28.0, "spread/b": 9.0}


def test_rewards_are_normalised_by_the_bases_spread_and_added_by_weight() -> None:
    found = combination(BASE, LATER, RewardSection(name="a:0.8,b:0.2"))
    # 0.15 / 0.1 and -2 / 4; 0.8 x 1.5 - 0.2 x 0.5
    assert found == pytest.approx({"normalised/a": 1.5, "normalised/b": -0.5, "combined": 1.1})
    # at the base all of it is zero
    assert combination(BASE, BASE, RewardSection(name="a:0.8,b:0.2")) == {
        "normalised/a": 0, "normalised/b": 0, "combined": 0,
    }  # fmt: skip


def test_raw_combination_adds_the_raw_means() -> None:
    found = combination(BASE, LATER, RewardSection(name="a:0.8,b:0.2", combine="raw"))
    assert found == pytest.approx({"normalised/a": 1.5, "normalised/b": -0.5, "combined": 0.8 * 0.35 + 0.2 * 28})


def test_one_reward_is_not_combined() -> None:
    assert combination(BASE, LATER, RewardSection(name="a")) == {}


def test_a_reward_that_is_constant_at_the_base_is_not_divided_by_nothing() -> None:
    found = combination(BASE | {"spread/a": 0.0}, LATER, RewardSection(name="a,b"))
    assert found["normalised/a"] == pytest.approx(0.15 / 1e-6)


@pytest.mark.slow
def test_a_run_on_two_rewards_stores_them_and_resumes_to_the_same(make: Make, results: Path) -> None:
    reward = {"name": "jpeg-compressibility:0.8,jpeg-incompressibility:0.2"}
    whole = run(make(reward=reward), results / "whole").store
    first, last = whole.rows()[0], whole.rows()[-1]
    assert first["combined"] == 0 and first["spread/jpeg-compressibility"] > 0
    # one is minus the other: so are their normalised values, and 0.8 - 0.2 of one is the combination
    one = last["normalised/jpeg-compressibility"]
    raw = last["reward/jpeg-compressibility"] - first["reward/jpeg-compressibility"]
    assert one == pytest.approx(raw / first["spread/jpeg-compressibility"])
    assert last["normalised/jpeg-incompressibility"] == pytest.approx(-one)
    assert last["combined"] == pytest.approx(0.6 * one)

    stopped = run(make(reward=reward), results, Watcher(stop_after=1)).store
    resume(RunStore(stopped.folder), Watcher())
    same_points(RunStore(stopped.folder), whole)
