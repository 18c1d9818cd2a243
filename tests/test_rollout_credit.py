"""Credit by its properties (check items 2 and 4) and by hand: z-scores, back-up, several rewards."""

from __future__ import annotations

import numpy as np
import pytest
from forest_strategy import forests
from hypothesis import given

from grpo_bench.config import validated
from grpo_bench.forest.builders import branching, chains
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Credit, Rollout, back_up, leaf_credit, zscore
from grpo_bench.method import Method, MethodConfig
from grpo_bench.registry import METHODS
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.schedule import shifted_grid

SCHEDULE = make_schedule(shifted_grid(8), "flow-sde")
PROMPTS = 4
CASES = [
    ("flat", {"group": 6}),
    ("flat", {"group": 6, "shared_noise": True, "train_fraction": 0.6}),
    ("mix", {"group": 6}),
    ("mix", {"group": 6, "shared_noise": False, "window": 2}),
    ("tree", {}),
    ("tree", {"branching": 2, "window": 2, "roots": 2}),
]
EVERY_METHOD = pytest.mark.parametrize(("name", "settings"), CASES)


def made(name: str, settings: dict[str, object]) -> tuple[Method[MethodConfig], Forest]:
    kind = METHODS.get(name)
    method = kind(validated(kind.Config, settings, "method"))
    return method, method.plan(0, np.random.default_rng(3), SCHEDULE)


def rewards(forest: Forest, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((forest.images, PROMPTS))


def credit(method: Method[MethodConfig], forest: Forest, reward_LP: np.ndarray) -> Credit:
    return method.credit(Rollout(forest, {"r": reward_LP}, np.zeros((forest.nodes, reward_LP.shape[1]))))


def last_kept_edge(forest: Forest, leaf: int) -> int:
    """The deepest trained node on the way to a leaf."""
    path = forest.path_LD[leaf]
    return int(path[forest.trained_N[path]][-1])


@EVERY_METHOD
def test_advantages_of_a_declared_group_sum_to_zero(name: str, settings: dict[str, object]) -> None:
    method, forest = made(name, settings)
    out = credit(method, forest, rewards(forest))
    # every trained edge is in a group
    assert (out.group_NP[forest.trained_edges_E] >= 0).all()
    for group in np.unique(out.group_NP[out.group_NP >= 0]):
        member_NP = out.group_NP == group
        total_P = np.where(member_NP, out.advantage_NP, 0).sum(0)
        np.testing.assert_allclose(total_P, 0, atol=1e-12, err_msg=f"group {group}")


@EVERY_METHOD
@pytest.mark.parametrize("std", ["group", "global"])
def test_an_affine_reward_changes_nothing(name: str, settings: dict[str, object], std: str) -> None:
    method, forest = made(name, settings | {"std": std})
    before = credit(method, forest, rewards(forest)).advantage_NP
    after = credit(method, forest, 20 * rewards(forest) - 7).advantage_NP
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)


@EVERY_METHOD
@pytest.mark.parametrize("std", ["group", "global"])
def test_prompts_in_another_order_get_the_same_credit(name: str, settings: dict[str, object], std: str) -> None:
    method, forest = made(name, settings | {"std": std})
    order = [2, 0, 3, 1]
    before = credit(method, forest, rewards(forest)).advantage_NP
    after = credit(method, forest, rewards(forest)[:, order]).advantage_NP
    np.testing.assert_allclose(after, before[:, order], rtol=0, atol=1e-12)


@given(forest=forests())
def test_a_declared_depth_sums_to_zero_in_any_forest(forest: Forest) -> None:
    """Where nodes have different numbers of leaves, or leaves jump the depth, nothing is declared."""
    rollout = Rollout(forest, {"r": rewards(forest)}, np.zeros((forest.nodes, PROMPTS)), prompts=("a",) * PROMPTS)
    found = leaf_credit(rollout)
    for depth in range(1, forest.steps + 1):
        node_D = forest.nodes_at(depth)
        counts = set(forest.leaf_count_N[node_D].tolist())
        whole = forest.leaf_count_N[node_D].sum() == forest.images and len(counts) == 1
        assert (found.group_NP[node_D] == (depth if whole else -1)).all()
        if whole:
            np.testing.assert_allclose(found.advantage_NP[node_D].sum(axis=0), 0, atol=1e-9)
    assert (found.group_NP[: forest.roots] == -1).all()


@EVERY_METHOD
def test_a_better_leaf_raises_its_own_last_edge(name: str, settings: dict[str, object]) -> None:
    method, forest = made(name, settings)
    before = credit(method, forest, rewards(forest)).advantage_NP
    for leaf in range(forest.images):
        raised_LP = rewards(forest)
        raised_LP[leaf, 1] += 0.5
        edge = last_kept_edge(forest, leaf)
        assert credit(method, forest, raised_LP).advantage_NP[edge, 1] > before[edge, 1], leaf


@EVERY_METHOD
def test_another_prompts_rewards_change_nothing(name: str, settings: dict[str, object]) -> None:
    method, forest = made(name, settings)
    other_LP = rewards(forest)
    other_LP[:, 2] = 100 * rewards(forest, seed=1)[:, 2]
    before, after = (credit(method, forest, r).advantage_NP for r in (rewards(forest), other_LP))
    np.testing.assert_array_equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
    assert not np.allclose(after[:, 2], before[:, 2])


@EVERY_METHOD
def test_inside_a_group_advantages_follow_the_descendants_rewards(name: str, settings: dict[str, object]) -> None:
    method, forest = made(name, settings)
    reward_LP = rewards(forest)
    out = credit(method, forest, reward_LP)
    mean_NP = forest.descendant_NL @ reward_LP / forest.descendant_NL.sum(1, keepdims=True)
    for group in np.unique(out.group_NP[out.group_NP >= 0]):
        member_N = out.group_NP[:, 0] == group
        for prompt in range(PROMPTS):
            order = np.argsort(mean_NP[member_N, prompt], kind="stable")
            ranked = out.advantage_NP[member_N, prompt][order]
            assert (np.diff(ranked) >= -1e-12).all(), (group, prompt)


@EVERY_METHOD
def test_equal_rewards_give_no_advantage(name: str, settings: dict[str, object]) -> None:
    # 0.1 is not exact in binary: a mean of equal numbers can differ from them in the last bit
    method, forest = made(name, settings)
    out = credit(method, forest, np.full((forest.images, PROMPTS), 0.1))
    np.testing.assert_array_equal(out.advantage_NP, 0)


def test_a_chains_edges_all_carry_its_leafs_z_score() -> None:
    method, forest = made("flat", {"group": 3})
    out = credit(method, forest, np.array([[1.0], [2.0], [6.0]]))
    # mean 3, population std sqrt((4 + 1 + 9) / 3)
    expected_L = np.array([-2, -1, 3]) / np.sqrt(14 / 3)
    for leaf, expected in enumerate(expected_L):
        np.testing.assert_allclose(out.advantage_NP[forest.path_LD[leaf], 0], expected, rtol=1e-12)


def test_a_trees_parents_carry_their_childrens_mean() -> None:
    # given 2 x 2 leaves with rewards 1 2 3 6: mean 3, population std sqrt(14 / 4)
    method, forest = made("tree", {"branching": 2, "window": 2, "window_law": "fixed"})
    out = credit(method, forest, np.array([[1.0], [2.0], [3.0], [6.0]]))
    leaf = np.array([-2, -1, 0, 3]) / np.sqrt(3.5)
    np.testing.assert_allclose(out.advantage_NP[[3, 4, 5, 6], 0], leaf, rtol=1e-12)
    # then the root's children have -1.5 and 1.5 of these units, the root 0
    np.testing.assert_allclose(out.advantage_NP[[1, 2], 0], np.array([-1.5, 1.5]) / np.sqrt(3.5), rtol=1e-12)
    assert out.advantage_NP[0, 0] == pytest.approx(0, abs=1e-12)


def test_zscore_by_hand() -> None:
    reward_LP = np.array([[0.0, 5.0], [4.0, 5.0], [1.0, 0.0], [3.0, 2.0]])
    # one group a prompt: prompt 0 has mean 2 and variance (4 + 4 + 1 + 1) / 4
    np.testing.assert_allclose(zscore(reward_LP)[:, 0], np.array([-2, 2, -1, 1]) / np.sqrt(2.5))
    np.testing.assert_allclose(zscore(reward_LP, ddof=1)[:, 0], np.array([-2, 2, -1, 1]) / np.sqrt(10 / 3))
    np.testing.assert_allclose(zscore(reward_LP, eps=0.5)[:, 0], np.array([-2, 2, -1, 1]) / (np.sqrt(2.5) + 0.5))
    # two groups: {0, 4} and {1, 3}; prompt 1's first group is flat
    grouped_LP = zscore(reward_LP, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(grouped_LP, [[-1, 0], [1, 0], [-1, -1], [1, 1]])
    # the whole batch's std: all eight numbers, mean 2.5
    whole = np.sqrt(((reward_LP - 2.5) ** 2).mean())
    np.testing.assert_allclose(zscore(reward_LP, std="global")[:, 0], np.array([-2, 2, -1, 1]) / whole)


def test_the_std_has_a_floor() -> None:
    # rewards that differ by 2e-9 are not blown up to plus and minus one: 1e-9 / 1e-6
    np.testing.assert_allclose(zscore(np.array([[0.0], [2e-9]]))[:, 0], [-1e-3, 1e-3], rtol=1e-6)


def test_a_group_of_one_has_no_advantage_with_ddof_one() -> None:
    assert zscore(np.array([[3.0]]), ddof=1).tolist() == [[0.0]]


def test_several_rewards_are_scored_each_and_then_added() -> None:
    forest = chains(SCHEDULE.sigmas, 2, np.arange(8) < 7)
    rewards_LP = {"small": np.array([[0.0], [1e-3]]), "large": np.array([[500.0], [100.0]])}
    weights = {"small": 0.8, "large": 0.2}

    def leaf_advantage(combine: str) -> list[float]:
        rollout = Rollout(forest, rewards_LP, np.zeros((forest.nodes, 1)), weights, combine)  # type: ignore[arg-type]
        return leaf_credit(rollout).advantage_NP[forest.leaves_L, 0].tolist()

    # z-scores are (-1, 1) and (1, -1): .8 - .2 = .6; raw, the large one decides
    assert leaf_advantage("zscore") == pytest.approx([-0.6, 0.6])
    assert leaf_advantage("raw") == pytest.approx([1.0, -1.0])


def test_back_up_with_weights() -> None:
    forest = branching([1.0, 0.5, 0.0], {0: 2}, [True, False])
    leaf_LP = np.array([[2.0], [10.0]])
    weight_NP = np.array([0, 0.25, 0.75, 1, 1])[:, None]
    assert back_up(forest, leaf_LP, weight_NP)[0, 0] == pytest.approx(0.25 * 2 + 0.75 * 10)
    assert back_up(forest, leaf_LP)[0, 0] == pytest.approx(6)
