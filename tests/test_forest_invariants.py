"""Every bad topology is one sentence that names the node."""

from __future__ import annotations

import numpy as np
import pytest
from forest_strategy import forests
from hypothesis import assume, given
from hypothesis import strategies as st

from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.invariants import check_edges, check_topology

# A root, its stochastic and its deterministic child, and a leaf below each.
GOOD = {
    "sigmas": [1.0, 0.5, 0.0],
    "parent_N": [-1, 0, 0, 1, 2],
    "depth_N": [0, 1, 1, 2, 2],
    "stochastic_N": [False, True, False, False, False],
    "trained_N": [False, True, False, False, False],
}


def build(**changes: object) -> Forest:
    return Forest(**{name: np.array(values) for name, values in {**GOOD, **changes}.items()})  # type: ignore[arg-type]


def test_the_starting_point_is_valid() -> None:
    assert build().nodes == 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parent_N": [-1, 0, 0, 5, 2]}, "node 3 has parent 5, but a parent comes before"),
        ({"parent_N": [-1, 0, 0, 3, 2]}, "node 3 has parent 3, but a parent comes before"),
        ({"parent_N": [-2, 0, 0, 1, 2]}, "node 0 has parent -2"),
        ({"parent_N": [-1, 0, 0, 2, 1]}, "node 4 has parent 1, smaller than the node before it"),
        ({"parent_N": [-1, 0, -1, 1, 2]}, "node 2 has depth 1, but a root's depth is 0"),
        (
            {"depth_N": [0, 2, 1, 2, 2], "parent_N": [-1, 0, 0, 2, 2]},
            "node 2 has depth 1, smaller than the node before",
        ),
        ({"depth_N": [1, 1, 1, 2, 2]}, "node 0 has depth 1, but a root's depth is 0"),
        ({"depth_N": [0, 1, 2, 2, 2]}, "node 4 has depth 2, but a child's depth is above its parent's"),
        ({"parent_N": [-1, 0, 0, 1, 1]}, "node 2 ends at depth 1, but every path leads to an image, at depth 2"),
        ({"parent_N": [-1, 0, 0, 1, 3], "depth_N": [0, 1, 1, 2, 3]}, "node 4 has depth 3, but the grid has only 2"),
        ({"stochastic_N": [True, True, False, False, False]}, "node 0 is a root"),
        ({"trained_N": [False, True, True, False, False]}, "node 2 is trained but not stochastic"),
        (
            {"stochastic_N": [False] * 5, "trained_N": [False] * 5},
            "node 2 is a second deterministic child of node 0",
        ),
        (
            {"stochastic_N": [False, False, True, False, False], "trained_N": [False] * 5},
            "node 2 is a stochastic child numbered after the deterministic child of node 0",
        ),
        ({name: [] for name in GOOD if name != "sigmas"} | {"parent_N": np.array([], dtype=int)}, "0 nodes|flat array"),
        ({"depth_N": [0, 1, 1, 2]}, "depth_N holds one int64 a node"),
        ({"stochastic_N": [0, 1, 0, 0, 0]}, "stochastic_N holds one bool"),
        ({"sigmas": [1.0, 0.5, 0.5, 0.0]}, "strictly decrease"),
        ({"sibling_noise": 0.0}, "sibling_noise must be positive"),
        ({"sibling_noise": float("nan")}, "sibling_noise must be positive"),
        ({"noise_T": [1.0]}, "noise_T holds a factor a step, got shape"),
        ({"noise_T": [1.0, 0.0]}, "got 0 at step 1"),
        ({"noise_T": [float("inf"), 1.0]}, "got inf at step 0"),
    ],
)
def test_a_broken_rule_names_the_node(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(**changes)


@given(forests(), st.data())
def test_no_parent_can_be_changed_without_being_noticed(forest: Forest, data: st.DataObject) -> None:
    # given a valid forest with one parent replaced by any other number
    node = data.draw(st.integers(0, forest.nodes - 1))
    parent_N = forest.parent_N.copy()
    parent_N[node] = data.draw(st.integers(-2, forest.nodes).filter(lambda p: p != forest.parent_N[node]))
    # when another forest is not what the change makes: above its child, in order, and no node left childless
    order = [p for p in parent_N if p >= 0]
    childless = set(np.flatnonzero(forest.depth_N < forest.steps)) - set(order)
    places = list(zip(forest.depth_N.tolist(), parent_N.tolist(), strict=True))
    legal = (
        -1 < parent_N[node] < node
        and forest.depth_N[node] > forest.depth_N[parent_N[node]]
        and places == sorted(places)
        and not childless
    )
    assume(not legal)
    # then it is refused
    with pytest.raises(UserError, match=r"node \d+ "):
        check_topology(forest.steps, parent_N, forest.depth_N)


@given(forests(), st.data())
def test_a_trained_deterministic_edge_is_always_refused(forest: Forest, data: st.DataObject) -> None:
    candidates = np.flatnonzero(~forest.stochastic_N).tolist()
    trained_N = forest.trained_N.copy()
    node = data.draw(st.sampled_from(candidates))
    trained_N[node] = True
    with pytest.raises(UserError, match=f"node {node} is trained but not stochastic"):
        check_edges(forest.parent_N, forest.depth_N, forest.stochastic_N, trained_N)
