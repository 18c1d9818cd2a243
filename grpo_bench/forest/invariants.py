"""What makes arrays a forest: every broken rule is an error that names the node."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpo_bench.errors import UserError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def check_topology(steps: int, parent_N: Ints, depth_N: Ints) -> None:
    """Nodes in order of depth and of their parents, edges that lead on, every path to depth `steps`.

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
    root_N = parent_N == -1
    _refuse(root_N & (depth_N != 0), "has depth {value}, but a root's depth is 0", depth_N)
    _refuse(
        ~root_N & (depth_N <= depth_N[parent_N]),
        "has depth {value}, but a child's depth is above its parent's",
        depth_N,
    )
    _refuse(depth_N > steps, f"has depth {{value}}, but the grid has only {steps} steps", depth_N)
    _refuse(
        np.append(False, np.diff(depth_N) < 0),
        "has depth {value}, smaller than the node before it, but nodes are in order of depth",
        depth_N,
    )
    _refuse(
        np.append(False, (np.diff(depth_N) == 0) & (np.diff(parent_N) < 0)),
        "has parent {value}, smaller than the node before it, but nodes of one depth are in order of their parents",
        parent_N,
    )
    has_child_N = np.zeros(parent_N.size, dtype=np.bool_)
    has_child_N[parent_N[~root_N]] = True
    _refuse(
        ~has_child_N & (depth_N < steps),
        f"ends at depth {{value}}, but every path leads to an image, at depth {steps}",
        depth_N,
    )


def check_edges(parent_N: Ints, depth_N: Ints, stochastic_N: Bools, trained_N: Bools) -> None:
    """Roots have no edge, a trained edge is stochastic, and of the children at one depth the deterministic one is last.

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
    beside = (np.diff(parent_N) == 0) & (np.diff(depth_N) == 0) & (parent_N[1:] != -1)
    after_ode = np.append(False, beside & ~stochastic_N[:-1])
    _refuse(
        after_ode & ~stochastic_N,
        "is a second deterministic child of node {value} at its depth, the same latent twice",
        parent_N,
    )
    _refuse(
        after_ode,
        "is a stochastic child numbered after the deterministic child of node {value}, but that one comes last",
        parent_N,
    )


def check_noise(noise_T: ArrayLike, steps: int) -> NDArray[np.float64]:
    """The factors on the noise level, one a step.

    Raises:
        UserError: another number of them, or one that is not positive and finite.
    """
    factors = np.array(noise_T, dtype=np.float64)
    if factors.shape != (steps,):
        raise UserError(f"noise_T holds a factor a step, got shape {factors.shape}: give {steps} numbers")
    wrong_T = ~(np.isfinite(factors) & (factors > 0))
    if wrong_T.any():
        step = int(np.argmax(wrong_T))
        raise UserError(
            f"noise_T multiplies the noise level by a positive number, got {factors[step]:g} at step {step}: where "
            "there is to be none, make the edge deterministic"
        )
    return factors


def _refuse(bad_N: Bools, sentence: str, value_N: Ints) -> None:
    """Raise about the first True of `bad_N`, with that node's value."""
    if bad_N.any():
        node = int(np.argmax(bad_N))
        raise UserError(
            f"node {node} {sentence.format(value=int(value_N[node]))}: build forests with chains(), "
            "branching(), trunk() or assemble()"
        )
