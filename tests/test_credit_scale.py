"""The columns `credit_scale` and `zero_spread`: what they are, by hand, in runs, across a resume and in old stores."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from planned import plan, schedule
from running import Make, Watcher, run, same_points
from tiny import method

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import branching, chains
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Credit, Floats, Rollout, leaf_credit
from grpo_bench.training import checkpoint
from grpo_bench.training.credit_log import CreditLog
from grpo_bench.training.prepare import identify
from grpo_bench.training.session import open_session
from grpo_bench.training.slope import slopes

SCHEDULE = schedule(4)
EARLY = np.arange(4) < 3
PAIRS = branching(SCHEDULE.sigmas, {0: 2, 1: 2}, np.arange(4) < 2)
"""Two edges at depth 1, four at depth 2."""


def asked(name: str, forest: Forest, credit: Credit, weight_N: Floats | None = None, **settings: object) -> Floats:
    return slopes(method(name, **settings), forest, SCHEDULE, credit, weight_N, clip=1e-3, advantage_clip=5.0)


def rollout(forest: Forest, reward_LP: Floats, **more: Floats) -> Rollout:
    return Rollout(forest, {"r": reward_LP, **more}, np.zeros((forest.nodes, reward_LP.shape[1])))


def seen(forest: Forest, reward_LP: Floats, group_NP: np.ndarray | None = None, **more: Floats) -> CreditLog:
    """A log that has seen one iteration of leaf credit."""
    told, found = CreditLog(), rollout(forest, reward_LP, **more)
    credit = leaf_credit(found)
    if group_NP is not None:
        credit = Credit(credit.advantage_NP, group_NP)
    told.see(found, credit, asked("flat", forest, credit))
    return told


def test_the_shared_loss_pulls_by_minus_weight_times_advantage_and_advantages_are_clipped() -> None:
    forest = chains(SCHEDULE.sigmas, 2, EARLY)
    advantage_NP = np.linspace(-7, 7, forest.nodes)[:, None]
    weight_N = np.linspace(0.5, 2.0, forest.nodes)
    keep_NP = np.arange(forest.nodes)[:, None] % 3 > 0
    credit = Credit(advantage_NP, np.full(advantage_NP.shape, -1), keep_NP)
    slope_N = asked("flat", forest, credit, weight_N)[:, 0]
    trained_N = forest.trained_N & keep_NP[:, 0]
    np.testing.assert_allclose(slope_N[trained_N], (-weight_N * advantage_NP[:, 0].clip(-5, 5))[trained_N], rtol=1e-6)
    assert np.isnan(slope_N[~trained_N]).all()


def test_a_loss_of_its_own_is_asked_itself() -> None:
    # guard: d/dlogp of the loss is -A std / h
    forest = plan("guard", on=SCHEDULE, group=3)
    credit = leaf_credit(rollout(forest, np.array([[1.0], [2.0], [4.0]])))
    edge_E = forest.trained_edges_E
    step_E = forest.depth_N[edge_E] - 1
    wanted_E = -credit.advantage_NP[edge_E, 0] * SCHEDULE.std_T[step_E] / SCHEDULE.h_T[step_E]
    np.testing.assert_allclose(asked("guard", forest, credit)[edge_E, 0], wanted_E, rtol=1e-5)


def test_the_forward_process_is_measured_in_diffusion_nfts_units() -> None:
    forest = plan("nft", on=SCHEDULE, group=4)
    credit = leaf_credit(rollout(forest, np.array([[0.0], [1.0], [2.0], [7.0]])))
    slope_L = asked("nft", forest, credit, reference_weight=0.0)[forest.leaves_L, 0]
    np.testing.assert_allclose(slope_L, -credit.advantage_NP[forest.leaves_L, 0], rtol=1e-4)


def test_the_scale_is_the_root_mean_square_over_groups_with_spread() -> None:
    # two prompts: z-scores of two images are -1 and 1; the other prompt's images are equal and have no advantage
    told = seen(chains(SCHEDULE.sigmas, 2, EARLY), np.array([[0.0, 3.0], [1.0, 3.0]]))
    by_step = {f"zero_spread_step_{step}": 0.5 for step in range(3)}
    assert told.columns() == {"credit_scale": 1.0, "zero_spread": 0.5} | by_step
    # and a tree's parents have the mean of their children's, by hand: z = -1, -1, 1, 1 and both parents -1, 1
    tree = seen(PAIRS, np.array([[0.0], [0.0], [2.0], [2.0]]))
    none = {"zero_spread_step_0": 0.0, "zero_spread_step_1": 0.0}
    assert tree.columns() == {"credit_scale": 1.0, "zero_spread": 0.0} | none


def test_groups_are_those_that_the_method_declares() -> None:
    # the children of node 1 have rewards 5 and 5, those of node 2 have 1 and 2; nodes 1 and 2 are siblings too
    reward_LP = np.array([[5.0], [5.0], [1.0], [2.0]])
    siblings_NP = np.where(PAIRS.depth_N > 0, PAIRS.parent_N, -1)[:, None]
    columns = seen(PAIRS, reward_LP, siblings_NP).columns()
    assert columns["zero_spread"] == pytest.approx(1 / 3)
    assert (columns["zero_spread_step_0"], columns["zero_spread_step_1"]) == (0.0, 0.5)
    # and none declared: all images of the prompt are compared
    assert seen(PAIRS, reward_LP, np.full((PAIRS.nodes, 1), -1)).columns()["zero_spread"] == 0.0


def test_a_group_without_spread_in_one_of_two_rewards_has_spread() -> None:
    flat_LP, varied_LP = np.ones((2, 1)), np.array([[0.0], [1.0]])
    forest = chains(SCHEDULE.sigmas, 2, EARLY)
    assert seen(forest, flat_LP, s=varied_LP).columns()["zero_spread"] == 0.0
    columns = seen(forest, flat_LP, s=flat_LP).columns()
    assert columns["zero_spread"] == 1.0 and "credit_scale" not in columns


def test_a_single_image_is_compared_with_those_of_the_other_prompts() -> None:
    forest = chains(SCHEDULE.sigmas, 1, EARLY)
    none_NP = np.full((forest.nodes, 2), -1)
    assert seen(forest, np.array([[0.0, 1.0]]), none_NP).columns()["zero_spread"] == 0.0
    assert seen(forest, np.array([[1.0, 1.0]]), none_NP).columns()["zero_spread"] == 1.0


def test_groups_of_another_shape_are_refused() -> None:
    forest = chains(SCHEDULE.sigmas, 2, EARLY)
    with pytest.raises(UserError, match="group_NP has the shape"):
        seen(forest, np.zeros((2, 1)), np.zeros(forest.nodes, dtype=int))


def test_what_was_seen_goes_through_json_and_ends_at_a_point() -> None:
    told = seen(chains(SCHEDULE.sigmas, 3, EARLY), np.array([[0.1], [0.7], [0.2]]))
    again = CreditLog(**json.loads(json.dumps(told.state_dict())))
    assert again == told and again.columns() == told.columns()
    again.clear()
    assert again.columns() == {}


def test_clipped_edges_are_summed_over_updates_by_step() -> None:
    told = CreditLog()
    told.updated(np.array([0, 8, 8]), np.array([0, 2, 0]))
    told.updated(np.array([0, 8, 0]), np.array([0, 4, 0]))
    columns = told.columns()
    assert columns == {"clipped": 6 / 24, "clipped_step_1": 6 / 16, "clipped_step_2": 0.0}
    assert CreditLog(**json.loads(json.dumps(told.state_dict()))).columns() == columns


def test_a_clip_that_nothing_can_reach_and_one_that_everything_passes(make: Make, tmp_path: Path) -> None:
    # the ratio is 1 before the first update of an iteration, so that of two updates half of the edges can be clipped
    for clip, least, most in ((1e9, 0.0, 0.0), (1e-30, 0.1, 0.5)):
        training = {"updates": 2, "learning_rate": 1e-2}
        chosen = make(budget={"iterations": 1.0}, objective={"clip": clip}, training=training, evaluation={"every": 0})
        row = run(chosen, tmp_path / f"{clip:g}").store.rows()[-1]
        steps = {name: value for name, value in row.items() if name.startswith("clipped_step_")}
        assert steps and least <= row["clipped"] <= most, (clip, row["clipped"])


def test_a_run_has_both_columns_but_at_its_base(make: Make, tmp_path: Path) -> None:
    chosen = make(budget={"iterations": 2.0}, evaluation={"every": 1})
    rows = run(chosen, tmp_path).store.rows()
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    # a pair's z-scores are -1 and 1 wherever the two images differ
    assert rows[0].get("credit_scale") is None and rows[0].get("zero_spread") is None
    assert [row["credit_scale"] for row in rows[1:]] == [1.0, 1.0]
    # and of the two prompts' pairs of images none, one or both compress alike
    assert {row["zero_spread"] for row in rows[1:]} <= {0.0, 0.5, 1.0}


def test_a_resumed_run_has_the_same_columns(make: Make, tmp_path: Path) -> None:
    # given a stop between two points, so that the sums have to survive in a checkpoint
    chosen = make(
        method={"name": "tree", "window": 1, "branching": 3}, budget={"iterations": 3.0}, evaluation={"every": 0}
    )
    whole = run(chosen, tmp_path / "whole").store
    assert run(chosen, tmp_path / "parts", Watcher(stop_after=2)).record.status == "interrupted"
    parts = run(chosen, tmp_path / "parts").store
    same_points(whole, parts)
    assert not math.isnan(parts.points()["credit_scale"].iloc[-1])


def test_a_checkpoint_of_an_earlier_version_is_still_read(make: Make, tmp_path: Path) -> None:
    session = open_session(identify(make()))
    session.credit_log.groups = 7
    checkpoint.save(tmp_path, session)
    file = tmp_path / "state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    assert state.pop("credit_log")["groups"] == 7
    file.write_text(json.dumps(state), encoding="utf-8")
    checkpoint.load(tmp_path, session)
    assert session.credit_log == CreditLog()


def test_a_reward_that_tells_no_two_images_apart_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    forest, told = chains(SCHEDULE.sigmas, 2, EARLY), CreditLog()
    with caplog.at_level(logging.WARNING):
        for score in (0.5, 0.25):
            found = rollout(forest, np.full((2, 3), score), s=np.array([[0.0, 1.0, 2.0]] * 2))
            credit = leaf_credit(found)
            told.see(found, credit, asked("flat", forest, credit))
            told = CreditLog(**json.loads(json.dumps(told.state_dict())))  # as over a resume
    (said,) = [record.getMessage() for record in caplog.records]
    assert "reward 'r' gave all 6 images of an iteration the same score, 0.5" in said
