"""What makes arrays a forest: every broken rule is an error that names the node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grpo_bench.errors import UserError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def check_topology(steps: int, parent_N: Ints, depth_N: Ints) -> None:
    """Nodes in breadth-first order (a parent's children contiguous), every leaf at depth `steps`.

    Raises:
        UserError: naming the first offending node.
    """
    if parent_N.size == 0:
        raise UserError("a forest needs at least one root, got 0 nodes: give a group or roots of 1 or more")
    node_N = np.arange(parent_N.size)
    _refuse(
        (parent_N < -1) | (parent_N >= node_N),
        "has parent {value}, but a parent comes before its children (-1 at a root)",
        parent_N,
    )
    out_of_order = np.append(False, np.diff(parent_N) < 0)
    _refuse(
        out_of_order,
        "has parent {value}, smaller than the node before it, but nodes are in breadth-first order",
        parent_N,
    )
    root_N = parent_N == -1
    expected_N = np.where(root_N, 0, depth_N[parent_N] + 1)
    _refuse(
        depth_N != expected_N, "has depth {value}, but a root's depth is 0 and a child's its parent's plus 1", depth_N
    )
    _refuse(depth_N > steps, f"has depth {{value}}, but the grid has only {steps} steps", depth_N)
    has_child_N = np.zeros(parent_N.size, dtype=np.bool_)
    has_child_N[parent_N[~root_N]] = True
    _refuse(
        ~has_child_N & (depth_N < steps), f"is a leaf at depth {{value}}, but every leaf is at depth {steps}", depth_N
    )


def check_edges(parent_N: Ints, stochastic_N: Bools, trained_N: Bools) -> None:
    """Roots have no edge, a trained edge is stochastic, and a parent's one deterministic child comes last.

    Assumes that `check_topology` passed.

    Raises:
        UserError: naming the first offending node.
    """
    root_N = parent_N == -1
    _refuse(root_N & stochastic_N, "is a root, but only an edge (a node with a parent) can be stochastic", parent_N)
    _refuse(
        trained_N & ~stochastic_N,
        "is trained but not stochastic (parent {value}), and a deterministic edge has no density to train",
        parent_N,
    )
    same_parent = np.append(False, (np.diff(parent_N) == 0) & (parent_N[1:] != -1))
    after_ode = same_parent & np.append(False, ~stochastic_N[:-1])
    _refuse(
        after_ode & ~stochastic_N, "is a second deterministic child of node {value}, the same latent twice", parent_N
    )
    _refuse(
        after_ode,
        "is a stochastic child numbered after the deterministic child of node {value}, but that one comes last",
        parent_N,
    )


def _refuse(bad_N: Bools, sentence: str, value_N: Ints) -> None:
    """Raise about the first True of `bad_N`, with that node's value."""
    if bad_N.any():
        node = int(np.argmax(bad_N))
        raise UserError(
            f"node {node} {sentence.format(value=int(value_N[node]))}: build forests with chains(), "
            "branching() or trunk()"
        )
