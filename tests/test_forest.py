"""A forest's queries agree with a plain-Python count, for any topology."""

from __future__ import annotations

import numpy as np
import pytest
from forest_strategy import forests
from hypothesis import given
from hypothesis import strategies as st

from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest, chains

ALL = np.arange(4) < 3
GRID = np.linspace(1, 0, 5)


def ancestors(forest: Forest, node: int) -> list[int]:
    """The node, its parent, and so on up to the root."""
    line = [node]
    while forest.parent_N[line[-1]] >= 0:
        line.append(int(forest.parent_N[line[-1]]))
    return line


@given(forests())
def test_costs_equal_a_count_by_hand(forest: Forest) -> None:
    # when each evaluation is noted down as the parent that caused it
    parents, trained_parents, leaves, edges = set(), set(), 0, 0
    for node in range(forest.nodes):
        parent = int(forest.parent_N[node])
        if parent >= 0:
            parents.add(parent)
        if forest.trained_N[node]:
            trained_parents.add(parent)
            edges += 1
        leaves += node not in forest.parent_N.tolist()
    # then the forest states the same
    assert forest.rollout_nfe == len(parents)
    assert forest.train_nfe == len(trained_parents) + forest.forward_draws * leaves
    assert forest.trained_edges == edges
    assert forest.images == leaves
    assert forest.trained_parents.tolist() == sorted(trained_parents)


@given(forests())
def test_children_are_contiguous_and_indexed_in_order(forest: Forest) -> None:
    for node in range(forest.nodes):
        children = [n for n in range(forest.nodes) if forest.parent_N[n] == node]
        assert forest.children[node].tolist() == children
        assert forest.child_count_N[node] == len(children)
        assert forest.child_index_N[children].tolist() == list(range(len(children)))
        if children:
            assert forest.first_child_N[node] == children[0]
    assert forest.child_index_N[: forest.roots].tolist() == list(range(forest.roots))


@given(forests())
def test_descendants_and_paths_follow_the_parents(forest: Forest) -> None:
    for place, leaf in enumerate(forest.leaves_L):
        line = ancestors(forest, int(leaf))
        assert np.flatnonzero(forest.descendant_NL[:, place]).tolist() == sorted(line)
        assert forest.path_LD[place].tolist() == line[::-1]
    assert forest.descendant_NL.shape == (forest.nodes, forest.images)


@given(forests())
def test_each_depth_is_one_slice(forest: Forest) -> None:
    for depth in range(forest.steps + 1):
        assert forest.nodes_at(depth).tolist() == np.flatnonzero(forest.depth_N == depth).tolist()
    assert forest.leaves_L.tolist() == forest.nodes_at(forest.steps).tolist()


@given(forests(), forests())
def test_a_key_is_the_path_and_nothing_else(one: Forest, other: Forest) -> None:
    # given two forests, and each node's path written out: the root's number, then the child indices
    keys: dict[tuple[int, ...], int] = {}
    for forest in (one, other):
        assert np.unique(forest.key_N).size == forest.nodes
        for node in range(forest.nodes):
            path = tuple(int(forest.child_index_N[n]) for n in reversed(ancestors(forest, node)))
            # then equal paths have equal keys, in whichever forest
            assert keys.setdefault(path, int(forest.key_N[node])) == int(forest.key_N[node])
    # and different paths different ones
    assert len(set(keys.values())) == len(keys)


@given(forests(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_kept_cost_counts_the_kept_edges_and_their_parents(forest: Forest, prompts: int, random) -> None:  # noqa: ANN001
    # given a random choice that also names edges that are not trained
    keep_NP = np.array([[random.random() < 0.5 for _ in range(prompts)] for _ in range(forest.nodes)])
    # when the pairs (parent, prompt) are noted down one by one
    kept = [(n, p) for n in range(forest.nodes) for p in range(prompts) if keep_NP[n, p] and forest.trained_N[n]]
    parents = {(int(forest.parent_N[n]), p) for n, p in kept}
    # then both counts agree, and keeping all costs what the forest states
    assert forest.kept_cost(keep_NP) == (len(parents) + prompts * forest.forward_draws * forest.images, len(kept))
    everything = np.ones((forest.nodes, prompts), dtype=bool)
    assert forest.kept_cost(everything) == (prompts * forest.train_nfe, prompts * forest.trained_edges)


def test_kept_cost_refuses_a_mask_of_another_forest() -> None:
    forest = chains(GRID, 2, ALL)
    with pytest.raises(UserError, match=r"keep_NP .*give \(10, prompts\)"):
        forest.kept_cost(np.ones((3, 1), dtype=bool))


@given(forests())
def test_arrays_cannot_be_written_and_are_copies(forest: Forest) -> None:
    for array in (forest.parent_N, forest.trained_N, forest.descendant_NL, forest.key_N, forest.leaves_L):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    stochastic_N = forest.stochastic_N.copy()
    copy = Forest(forest.sigmas, forest.parent_N, forest.depth_N, stochastic_N, forest.trained_N)
    stochastic_N[:] = False
    assert np.array_equal(copy.stochastic_N, forest.stochastic_N)


def test_same_as_sees_every_field() -> None:
    def build(**changes: object) -> Forest:
        arrays = {
            "sigmas": np.array([1.0, 0.5, 0.0]),
            "parent_N": np.array([-1, 0, 0, 1, 2]),
            "depth_N": np.array([0, 1, 1, 2, 2]),
            "stochastic_N": np.array([False, True, True, False, False]),
            "trained_N": np.array([False, True, True, False, False]),
        }
        return Forest(**{**arrays, **changes})  # type: ignore[arg-type]

    assert build().same_as(build())
    for change in (
        {"sigmas": np.array([1.0, 0.4, 0.0])},
        {"stochastic_N": np.array([False, True, True, True, False])},
        {"trained_N": np.array([False, True, False, False, False])},
        {
            "parent_N": np.array([-1, 0, 0, 1, 2, 2]),
            "depth_N": np.array([0, 1, 1, 2, 2, 2]),
            "stochastic_N": np.array([False, True, True, False, True, False]),
            "trained_N": np.zeros(6, dtype=bool),
        },
        {"sibling_noise": 4.0},
        {"forward_draws": 1},
    ):
        assert not build().same_as(build(**change)), change
        assert not build(**change).same_as(build()), change
