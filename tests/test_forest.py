"""A forest's queries agree with a plain-Python count, for any topology."""

from __future__ import annotations

import numpy as np
import pytest
from forest_strategy import forests
from hypothesis import given
from hypothesis import strategies as st

from grpo_bench.errors import UserError
from grpo_bench.forest.builders import chains
from grpo_bench.forest.forest import Forest
from grpo_bench.sampling.kernels import make_schedule

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
    assert forest.train_nfe == len(trained_parents)
    assert forest.trained_edges == edges
    assert forest.images == leaves
    assert forest.trained_parents.tolist() == sorted(trained_parents)


@given(forests())
def test_children_are_indexed_stochastic_ones_first_whatever_their_depth(forest: Forest) -> None:
    for node in range(forest.nodes):
        children = [n for n in range(forest.nodes) if forest.parent_N[n] == node]
        ordered = sorted(children, key=lambda child: (not forest.stochastic_N[child], child))
        assert forest.children[node].tolist() == ordered
        assert forest.child_count_N[node] == len(children)
        assert forest.noisy_count_N[node] == np.count_nonzero(forest.stochastic_N[children])
        assert forest.child_index_N[ordered].tolist() == list(range(len(children)))
        if children:
            assert forest.first_child_N[node] == ordered[0]
    assert forest.child_index_N[: forest.roots].tolist() == list(range(forest.roots))


@given(forests())
def test_descendants_and_paths_follow_the_parents(forest: Forest) -> None:
    for place, leaf in enumerate(forest.leaves_L):
        line = ancestors(forest, int(leaf))
        assert np.flatnonzero(forest.descendant_NL[:, place]).tolist() == sorted(line)
        # at every grid point the latest node reached: one that jumps stands where it jumps over too
        reached = [max(node for node in line if forest.depth_N[node] <= point) for point in range(forest.steps + 1)]
        assert forest.path_LD[place].tolist() == reached
    assert forest.descendant_NL.shape == (forest.nodes, forest.images)


@given(forests())
def test_edges_by_where_they_start_and_end(forest: Forest) -> None:
    found = {}
    for point in range(forest.steps):
        for end, node_C in forest.edges_from(point):
            assert np.diff(node_C).tolist() == [1] * (len(node_C) - 1)
            found.update({int(node): (point, end) for node in node_C})
    edges = range(forest.roots, forest.nodes)
    assert found == {node: (int(forest.depth_N[forest.parent_N[node]]), int(forest.depth_N[node])) for node in edges}
    assert forest.start_N[forest.roots :].tolist() == [found[node][0] for node in edges]
    assert forest.jumps == any(end > start + 1 for start, end in found.values())


@given(forests())
def test_a_fan_is_the_trained_edges_of_one_parent_to_one_point(forest: Forest) -> None:
    fans = forest.fans
    parent_F = forest.trained_parents[fans.parent_F]
    members = list(zip(parent_F.tolist(), fans.end_F.tolist(), strict=True))
    assert members == sorted(set(members))
    for edge, fan in zip(forest.trained_edges_E.tolist(), fans.fan_E.tolist(), strict=True):
        assert members[fan] == (forest.parent_N[edge], forest.depth_N[edge])


@given(forests())
def test_coefficients_of_any_edge_are_the_schedules(forest: Forest) -> None:
    schedule = make_schedule(forest.sigmas, "flow-sde", 0.6)
    node_E = np.arange(forest.roots, forest.nodes)
    found = forest.transitions(schedule, node_E)
    for place, node in enumerate(node_E.tolist()):
        start, end = int(forest.start_N[node]), int(forest.depth_N[node])
        factor = 1.0 if forest.noise_T is None else forest.noise_T[start]
        wanted = schedule.edge(start, end, factor) if forest.stochastic_N[node] else schedule.still(start, end)
        assert [float(values[place]) for values in found] == [float(value) for value in wanted]


@given(forests(), st.integers(0, 99))
def test_leaves_folded_into_their_nodes(forest: Forest, seed: int) -> None:
    reward_LP = np.random.default_rng(seed).standard_normal((forest.images, 2))
    for combine, empty in ((np.minimum, np.inf), (np.maximum, -np.inf), (np.add, 0.0)):
        folded_NP = forest.fold(combine, reward_LP, empty)
        for node in range(forest.nodes):
            wanted = combine.reduce(reward_LP[forest.descendant_NL[node]], axis=0)
            assert folded_NP[node] == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    assert np.array_equal(forest.any_leaf(reward_LP > 1), forest.descendant_NL @ (reward_LP > 1))


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
    assert forest.kept_cost(keep_NP) == (len(parents), len(kept))
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
        {"noise_T": np.array([1.0, 2.0])},
    ):
        assert not build().same_as(build(**change)), change
        assert not build(**change).same_as(build()), change
