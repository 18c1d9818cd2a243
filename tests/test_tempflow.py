"""tempflow: the trunk and its counts, z-scores among siblings, weights by noise level."""

from __future__ import annotations

import numpy as np
import pytest
from planned import SCHEDULE, costs, credited, plan, schedule, trained_steps
from tiny import method

from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats, Rollout
from grpo_bench.forest.schedule import Schedule
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.schedule import shifted_grid


def weights_by_step(forest: Forest, on: Schedule, **settings: object) -> Floats:
    """The weight of each trained step, the same for all its edges."""
    weight_N = method("tempflow", **settings).weights(forest, on)
    assert weight_N is not None
    assert weight_N.shape == (forest.nodes,)
    assert (weight_N[~forest.trained_N] == 1).all()
    rows = [np.unique(weight_N[forest.trained_N & (forest.depth_N == step + 1)]) for step in trained_steps(forest)]
    assert {len(row) for row in rows} == {1}
    return np.concatenate(rows)


def test_tempflow_counts() -> None:
    # per root 9 + 6 * 45 evaluations, 9 parents, 54 edges, 54 images; four roots
    assert costs(plan("tempflow", roots=1)) == (279, 9, 54, 54)
    assert costs(plan("tempflow")) == (1116, 36, 216, 216)
    # at two steps: the trunk's 8 evaluations, then 3 * (8 + 2) of the children of steps 1 and 7
    assert costs(plan("tempflow", roots=2, branching=3, steps=(1, 7))) == (2 * (8 + 3 * (8 + 2)), 4, 12, 12)


def test_every_step_branches_off_a_deterministic_trunk() -> None:
    forest = plan("tempflow", roots=2)
    assert trained_steps(forest) == list(range(9))
    np.testing.assert_array_equal(forest.trained_N, forest.stochastic_N)
    # a way from root to image has one stochastic edge
    assert (forest.stochastic_N[forest.path_LD].sum(axis=1) == 1).all()
    # a node of the trunk has six stochastic children and, but for the last, the trunk's own
    children = forest.child_count_N[forest.trained_parents]
    assert children.tolist() == [7, 7] * 8 + [6, 6]


def test_tempflow_is_the_same_forest_in_every_iteration() -> None:
    assert plan("tempflow").same_as(plan("tempflow", iteration=77, seed=3))


def test_a_childs_advantage_is_its_zscore_among_its_siblings() -> None:
    forest = plan("tempflow", roots=2, branching=3)
    reward_LP = np.random.default_rng(0).standard_normal((forest.images, 4))
    credit = credited(method("tempflow", roots=2, branching=3), forest, reward_LP)
    for parent in forest.trained_parents:
        sibling = forest.children[parent][forest.stochastic_N[forest.children[parent]]]
        row_L = [int(np.flatnonzero(forest.descendant_NL[node])[0]) for node in sibling]
        group_KP = reward_LP[row_L]
        wanted = (group_KP - group_KP.mean(axis=0)) / group_KP.std(axis=0)
        np.testing.assert_allclose(credit.advantage_NP[sibling], wanted, rtol=1e-12)
        assert (credit.group_NP[sibling] == parent).all()
    # and no other edge belongs to a group
    assert (credit.group_NP[~forest.stochastic_N] == -1).all()
    assert len(np.unique(credit.group_NP)) == 1 + 2 * 9


def test_a_better_seed_or_step_is_no_advantage() -> None:
    # given rewards that depend on the root and the step only
    forest = plan("tempflow", roots=2, branching=3)
    parent_L = forest.parent_N[forest.path_LD[forest.stochastic_N[forest.path_LD]]]
    credit = credited(method("tempflow", roots=2, branching=3), forest, parent_L[:, None].astype(np.float64))
    assert not credit.advantage_NP.any()


def test_each_reward_is_normalised_by_itself_and_the_batchs_std_is_honoured() -> None:
    settings = {"roots": 1, "branching": 2, "steps": (0,)}
    forest = plan("tempflow", **settings)
    rewards = {"a": np.array([[0.0, 0.0], [8.0, 4.0]]), "b": np.array([[0.1, 0.0], [0.0, 0.1]])}
    rollout = Rollout(forest, rewards, np.zeros((forest.nodes, 2)), {"a": 0.8, "b": 0.2})
    credit = method("tempflow", **settings).credit(rollout)
    np.testing.assert_allclose(credit.advantage_NP[1:3], [[-0.6, -1], [0.6, 1]])
    shared = credited(method("tempflow", std="global", **settings), forest, rewards["a"])
    np.testing.assert_allclose(shared.advantage_NP[2], np.array([4, 2]) / np.std([0, 0, 8, 4]))


def test_weights_of_sd35_are_the_papers() -> None:
    # the released code multiplies g sqrt(h) by 2.25 at T = 10, a = 0.7, which is 1 over their mean to 0.2%
    weight_T = weights_by_step(plan("tempflow"), SCHEDULE)
    np.testing.assert_allclose(weight_T, [1.58, 1.67, 1.21, 1.00, 0.88, 0.79, 0.72, 0.64, 0.51], atol=0.006)
    assert weight_T.mean() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(weight_T / SCHEDULE.std_T[:9], 2.25, rtol=0.002)


def test_weights_are_one_on_average_over_the_steps_that_are_trained() -> None:
    schedules = [make_schedule(shifted_grid(7), "cps"), schedule(12), make_schedule(shifted_grid(9), "flow-sde", 0.3)]
    for on in schedules:
        forest = plan("tempflow", on=on, steps=(0, 2, 5), branching=2)
        weight_T = weights_by_step(forest, on, steps=(0, 2, 5), branching=2)
        assert weight_T.mean() == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(weight_T * on.std_T[0], weight_T[0] * on.std_T[[0, 2, 5]])
    # and one step alone weighs 1
    assert weights_by_step(plan("tempflow", steps=(4,)), SCHEDULE, steps=(4,)) == pytest.approx([1])


def test_weights_can_be_switched_off() -> None:
    assert method("tempflow", weighting="none").weights(plan("tempflow"), SCHEDULE) is None


def test_without_branching_only_the_weights_stay() -> None:
    settings = {"branching": "none", "roots": 24}
    forest = plan("tempflow", **settings)
    assert costs(forest) == (240, 216, 216, 24)
    assert forest.same_as(plan("flat"))
    reward_LP = np.random.default_rng(0).standard_normal((24, 2))
    ours, flat = (
        credited(method(name, **own), forest, reward_LP) for name, own in [("tempflow", settings), ("flat", {})]
    )
    np.testing.assert_array_equal(ours.advantage_NP, flat.advantage_NP)
    np.testing.assert_array_equal(ours.group_NP, flat.group_NP)
    np.testing.assert_array_equal(
        weights_by_step(forest, SCHEDULE, **settings), weights_by_step(plan("tempflow"), SCHEDULE)
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"branching": 1}, r"method\.branching = 1 is not allowed: a child alone"),
        ({"steps": (3, 9)}, "step 9 of 10 is not one"),
        ({"steps": ()}, r"method\.steps = \(\) is not allowed"),
        ({"branching": "none", "steps": (1,)}, "steps says where a trunk branches"),
        ({"branching": "none", "roots": 1}, "roots must be 2 or more"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        plan("tempflow", **settings)
    assert "\n" not in str(caught.value)
