"""The builders make the published trees: counts from hand formulas, and pairs that are equal array for array."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import branching, chains, trunk
from grpo_bench.forest.forest import Forest
from grpo_bench.sampling.schedule import shifted_grid

T = 10
GRID, GRID_20 = shifted_grid(10), shifted_grid(20)


def window(start: int, width: int, steps: int = T) -> np.ndarray:
    step_T = np.arange(steps)
    return (start <= step_T) & (step_T < start + width)


def everywhere(steps: int = T) -> np.ndarray:
    return np.arange(steps) < steps - 1


def costs(forest: Forest) -> tuple[int, int, int, int]:
    return forest.rollout_nfe, forest.train_nfe, forest.trained_edges, forest.images


def assert_same(one: Forest, other: Forest) -> None:
    assert one.same_as(other), (one, other)
    assert np.array_equal(one.key_N, other.key_N)


def test_flat_counts() -> None:
    # 24 chains: 10 evaluations and 9 trained edges each; a shared root replaces 24 evaluations by 1
    assert costs(chains(GRID, 24, everywhere())) == (240, 216, 216, 24)
    assert costs(chains(GRID, 24, everywhere(), shared_noise=True)) == (217, 193, 216, 24)


def test_mix_counts_with_independent_noise() -> None:
    assert costs(chains(GRID, 24, window(0, 3))) == (240, 72, 72, 24)


@pytest.mark.parametrize("start", range(T - 3))
def test_mix_counts_with_a_shared_prefix(start: int) -> None:
    group, width = 24, 3
    expected = (start + 1 + group * (T - start - 1), 1 + group * (width - 1), group * width, group)
    forest = chains(GRID, group, window(start, width), shared_noise=True)
    assert costs(forest) == expected
    # and the prefix is one node a depth
    assert [forest.nodes_at(d).size for d in range(start + 2)] == [1] * (start + 1) + [group]


@pytest.mark.parametrize(("start", "rollout"), [(0, 202), (1, 176), (6, 46)])
def test_tree_counts(start: int, rollout: int) -> None:
    # i + (b^w - 1)/(b - 1) + (T - i - w) b^w with b = w = 3
    assert rollout == start + 13 + (T - start - 3) * 27
    forest = branching(GRID, {start + j: 3 for j in range(3)}, window(start, 3))
    assert costs(forest) == (rollout, 13, 39, 27)


def test_tree_rollout_expected_under_the_papers_window_law() -> None:
    # Pr[i] proportional to 0.5^i on 0..6 gives 177.4 (methods: tree)
    law = 0.5 ** np.arange(7)
    cost = [branching(GRID, {i + j: 3 for j in range(3)}, window(i, 3)).rollout_nfe for i in range(7)]
    assert np.dot(law / law.sum(), cost) == pytest.approx(177.4, abs=0.05)


def test_branch_counts() -> None:
    forest = branching(GRID_20, {0: 2, 3: 2, 6: 2, 9: 2}, everywhere(20), sibling_noise=4.0)
    assert costs(forest) == (203, 187, 202, 16)
    assert (forest.nodes, forest.sibling_noise) == (219, 4.0)
    assert costs(branching(GRID, {0: 2, 1: 2, 3: 2, 4: 2}, everywhere())) == (99, 83, 98, 16)


def test_branch_as_published_trains_the_last_step() -> None:
    forest = branching(GRID_20, {0: 2, 3: 2, 6: 2, 9: 2}, np.ones(20, dtype=bool), train_last=True)
    assert (forest.trained_edges, forest.train_nfe) == (218, 203)


def test_branch_mix_trains_the_window_and_the_splits() -> None:
    # window 0..3: 2 + 2 + 2 + 4 edges; splits 6 and 9: 8 + 16
    forest = branching(GRID_20, {0: 2, 3: 2, 6: 2, 9: 2}, window(0, 4, 20) | window(6, 1, 20) | window(9, 1, 20))
    assert forest.trained_edges == 34


def test_tempflow_counts() -> None:
    splits = dict.fromkeys(range(T - 1), 6)
    assert costs(trunk(GRID, splits, roots=4)) == (1116, 36, 216, 216)
    assert costs(trunk(GRID, splits)) == (279, 9, 54, 54)


def test_the_trunk_is_not_decoded_and_its_child_comes_last() -> None:
    # given a trunk that throws 2 children at steps 0 and 2 of 4
    forest = trunk([1, 0.8, 0.6, 0.3, 0], {0: 2, 2: 2})
    # then, by hand: node 3 is the trunk at depth 1, 6 at depth 2, and it ends with its children 9 and 10
    assert forest.parent_N.tolist() == [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10]
    assert np.flatnonzero(forest.stochastic_N).tolist() == [1, 2, 9, 10]
    assert forest.images == 4


def test_chains_by_hand() -> None:
    forest = chains([1, 0.7, 0.3, 0], 2, [False, True, False], shared_noise=True)
    assert forest.parent_N.tolist() == [-1, 0, 1, 1, 2, 3]
    assert forest.stochastic_N.tolist() == [False, False, True, True, False, False]
    assert forest.trained_N.tolist() == forest.stochastic_N.tolist()


def test_steps_trained_by_chain() -> None:
    # given DanceGRPO's choice of steps, drawn per chain
    trained_GT = np.array([[True, False, True, False], [False, True, True, False]])
    forest = chains(np.linspace(1, 0, 5), 2, everywhere(4), shared_noise=True, trained=trained_GT)
    # then chain g's edge at step i, node 1 + 2 i + g, is trained as asked
    assert forest.trained_N[1:].reshape(4, 2).T.tolist() == trained_GT.tolist()
    assert forest.stochastic_N[1:7].all()


LAST = np.ones(T, dtype=bool)
"""A mask that is True on the last step too."""


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda last: chains(GRID, 2, LAST, train_last=last), "stochastic"),
        (lambda last: chains(GRID, 2, LAST, trained=window(0, 4) | window(9, 1), train_last=last), "stochastic"),
        (lambda last: chains(GRID, 2, LAST if last else everywhere(), trained=LAST, train_last=last), "trained"),
        (lambda last: branching(GRID, {0: 2}, LAST, train_last=last), "stochastic"),
        (lambda last: branching(GRID, {}, LAST if last else everywhere(), trained=LAST, train_last=last), "trained"),
    ],
)
def test_a_stochastic_last_step_is_an_error_unless_asked(build: Callable[[bool], Forest], name: str) -> None:
    # what a builder dropped without a word, a method would believe to be trained
    with pytest.raises(UserError, match=rf"last step is deterministic .* but {name} is True for it \(step 9\)"):
        build(False)
    assert build(True).trained_N[build(True).leaves_L].all()


def test_the_last_step_of_a_single_chain_is_an_error_too() -> None:
    # one row of a mask by chain is enough
    by_chain = np.array([[True, False, False], [False, False, True]])
    with pytest.raises(UserError, match=r"trained is True for it \(step 2\)"):
        chains([1, 0.7, 0.3, 0], 2, [True, True, False], trained=by_chain)


def test_an_ode_rollout_has_no_stochastic_edge() -> None:
    forest = chains(GRID, 5, np.zeros(T, dtype=bool))
    assert not forest.stochastic_N.any()
    assert costs(forest) == (50, 0, 0, 5)


@pytest.mark.parametrize("start", range(T - 1))
def test_one_split_is_one_forest_whichever_builder_makes_it(start: int) -> None:
    # tree(w=1) = mix(w=1, shared) = tempflow(one root, one step)
    mix = chains(GRID, 7, window(start, 1), shared_noise=True)
    assert_same(branching(GRID, {start: 7}, window(start, 1)), mix)
    assert_same(trunk(GRID, {start: 7}), mix)


def test_a_split_at_the_root_is_flat_with_shared_noise() -> None:
    assert_same(branching(GRID, {0: 24}, everywhere()), chains(GRID, 24, everywhere(), shared_noise=True))


def test_roots_repeat_the_same_tree() -> None:
    one = branching(GRID, {0: 3, 2: 2}, everywhere())
    four = branching(GRID, {0: 3, 2: 2}, everywhere(), roots=4)
    assert costs(four) == tuple(4 * cost for cost in costs(one))
    assert np.isin(one.key_N, four.key_N).all()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: chains(GRID, 0, everywhere()), "group must be at least 1, got 0"),
        (lambda: chains(GRID, 2, everywhere(9)), "stochastic holds a bool a step"),
        (lambda: chains(GRID, 2, [0, 1, 2] + [3] * 7), "stochastic holds a bool a step, got int"),
        (
            lambda: chains(GRID, 2, window(0, 3), trained=window(3, 1)),
            "trained is True on step 3, which is not stochastic",
        ),
        (
            lambda: chains(GRID, 2, window(3, 2), shared_noise=True, trained=window(0, 5)),
            "trained is True on step 0, which is not stochastic",
        ),
        (lambda: chains(GRID, 2, everywhere(), trained=np.ones((3, T), dtype=bool)), "trained holds a bool a step"),
        (lambda: chains(GRID, 2, window(0, 0), shared_noise=True), "share their noise"),
        (lambda: branching(GRID, {9: 2}, everywhere()), "step 9 of 10 is not one"),
        (lambda: branching(GRID, {12: 2}, everywhere()), "step 12 of 10 is not one"),
        (lambda: branching(GRID, {-1: 2}, everywhere()), "step -1 of 10 is not one"),
        (lambda: branching(GRID, {5: 2}, window(0, 3)), r"step 5 .* split at one of \[0, 1, 2\]"),
        (lambda: branching(GRID, {0: 0}, everywhere()), "children at step 0 must be at least 1"),
        (lambda: branching(GRID, {0: 2}, everywhere(), roots=0), "roots must be at least 1"),
        (lambda: trunk(GRID, {}), "at least one split"),
        (lambda: trunk(GRID, {9: 6}), "step 9 of 10 is not one"),
    ],
)
def test_a_wrong_request_is_one_sentence(build: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build()  # type: ignore[operator]
