"""DDPO's running buffer, by hand: what joins it, what it remembers, and that a stopped run does not lose it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from running import Make, Watcher, run, same_points
from tiny import method

from grpo_bench.errors import UserError
from grpo_bench.forest.rollout import Floats, Rollout
from grpo_bench.forest.schedule import Schedule
from grpo_bench.method import Method, MethodConfig
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.training.checkpoint import STATE

SCHEDULE: Schedule = make_schedule(shifted_grid(4), "flow-sde")


def advantages(ddpo: Method[MethodConfig], rewards: list[list[float]], *prompts: str) -> Floats:
    """The leaves' advantages (L, P) of one batch."""
    reward_LP = np.array(rewards).T
    forest = ddpo.plan(0, np.random.default_rng(0), SCHEDULE)
    rollout = Rollout(forest, {"r": reward_LP}, np.zeros((forest.nodes, len(prompts))), prompts=prompts)
    credit = ddpo.credit(rollout)
    assert (credit.group_NP == -1).all()
    advantage_NP = credit.advantage_NP
    for chain in forest.path_LD:  # one value along every chain
        assert (advantage_NP[chain] == advantage_NP[chain[-1]]).all()
    return advantage_NP[forest.leaves_L]


def test_below_min_count_the_whole_batch_is_the_baseline() -> None:
    ddpo = method("ddpo", group=2, buffer=4, min_count=3)
    got = advantages(ddpo, [[1, 2], [5, 8]], "a", "b")
    whole = np.array([1, 2, 5, 8.0])
    expected = (np.array([[1, 2], [5, 8.0]]).T - 4) / (whole.std() + 1e-6)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_prompts_own_newest_rewards_are_the_baseline_once_there_are_enough() -> None:
    ddpo = method("ddpo", group=2, buffer=3, min_count=3)
    advantages(ddpo, [[1, 2], [5, 8]], "a", "b")
    got = advantages(ddpo, [[4, 6], [0, 0]], "a", "c")
    # a's newest three: 2, 4, 6, with mean 4 and variance 8/3; c has only two, so the batch 4, 6, 0, 0 stands in
    np.testing.assert_allclose(got[:, 0], np.array([0, 2]) / (np.sqrt(8 / 3) + 1e-6), rtol=1e-12)
    batch = np.array([4, 6, 0, 0.0])
    np.testing.assert_allclose(got[:, 1], (0 - 2.5) / (batch.std() + 1e-6), rtol=1e-12)


def test_the_papers_sizes_are_the_defaults() -> None:
    # kvablack/ddpo-pytorch config/base.py: buffer_size 16, min_count 16; stat_tracking.py: std + 1e-6
    config = method("ddpo").config.model_dump()
    assert (config["buffer"], config["min_count"], config["std_eps"]) == (16, 16, 1e-6)


def test_equal_rewards_give_zero_and_no_nan() -> None:
    ddpo = method("ddpo", group=2, buffer=2, min_count=2)
    assert (advantages(ddpo, [[3, 3]], "a") == 0).all()


def test_several_rewards_have_buffers_of_their_own() -> None:
    ddpo = method("ddpo", group=2, buffer=2, min_count=2)
    forest = ddpo.plan(0, np.random.default_rng(0), SCHEDULE)
    rewards = {"r": np.array([[0.0], [2.0]]), "s": np.array([[10.0], [30.0]])}
    rollout = Rollout(forest, rewards, np.zeros((forest.nodes, 1)), {"r": 0.5, "s": 2.0}, prompts=("a",))
    # z-scores -1 and 1 of each, weighted .5 and 2
    got = ddpo.credit(rollout).advantage_NP[forest.leaves_L, 0]
    np.testing.assert_allclose(got, [-2.5, 2.5], rtol=1e-5)


def test_its_state_is_json_and_restores_the_buffers() -> None:
    left, right = (method("ddpo", group=2, buffer=4, min_count=4) for _ in range(2))
    advantages(left, [[1, 2], [5, 8]], "a", "b")
    right.load_state_dict(json.loads(json.dumps(left.state_dict())))
    for ddpo in (left, right):
        # a's four: 1, 2, 3, 6, mean 3, variance 3.5
        np.testing.assert_allclose(advantages(ddpo, [[3, 6]], "a")[:, 0], np.array([0, 3]) / (3.5**0.5 + 1e-6))


def test_a_buffer_too_small_for_its_min_count_is_refused() -> None:
    with pytest.raises(UserError, match="min_count is more than buffer holds"):
        method("ddpo", buffer=8)


@pytest.mark.slow
def test_the_buffer_survives_stops_and_resumes(make: Make, results: Path, tmp_path: Path) -> None:
    # 18 training prompts, 9 an iteration: each prompt comes back in iterations 2, 4 and 6, and only a buffer that was
    # kept reaches min_count
    chosen = make(
        method={"name": "ddpo", "group": 2, "buffer": 8, "min_count": 4},
        budget={"iterations": 5.0},
        training={"prompts": 9, "checkpoint_every": 1},
    )
    whole = run(chosen, tmp_path / "whole").store
    for stop in (1, 2):
        assert run(chosen, results, Watcher(stop_after=stop)).record.status == "interrupted"
    pieces = run(chosen, results).store
    same_points(whole, pieces)
    states = []
    for store in (whole, pieces):
        checkpoint = store.rewind()
        assert checkpoint is not None
        states.append(json.loads((checkpoint.path / STATE).read_text(encoding="utf-8"))["method"])
    assert states[0] == states[1]
    buffers = states[0]["buffers"]["jpeg-compressibility"]
    assert len(buffers) == 18
    assert {len(kept) for kept in buffers.values()} == {4, 6}
