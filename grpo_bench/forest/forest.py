"""A forest of sampling transitions: the topology of one prompt's rollout, its builders and its exact costs.

A node is a latent after some steps; an edge is one transition, named by the node it leads to. Plain numpy data, the
same for every prompt of a batch: whatever is counted here is per prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grpo_bench.errors import UserError
from grpo_bench.forest.invariants import Bools, Ints, check_edges, check_topology
from grpo_bench.forest.schedule import check_sigmas

Keys = NDArray[np.uint64]
MOST_NODES = 1 << 18
"""Nodes a prompt, at most: ten times the largest forest ever grown here, and still seconds to plan."""
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Forest:
    """Nodes in breadth-first order: by depth, then by parent, then stochastic children before the deterministic one.

    Attributes:
        sigmas: (T+1,) float64, 1 down to 0.
        parent_N: int64, -1 at a root.
        depth_N: int64, 0 at a root, T at a leaf.
        stochastic_N: bool, the edge into n samples noise.
        trained_N: bool, the edge into n may get a gradient (implies stochastic).
        sibling_noise: None for independent siblings, else the s of BranchGRPO's (xi_0 + s eta_b) / sqrt(1 + s^2),
            whose siblings correlate by 1 / (1 + s^2).
        forward_draws: forward-process samples a leaf is trained on (DiffusionNFT), else 0.

    Arrays are copied and read-only. Two forests are compared with `same_as`.

    Raises:
        UserError: naming the node, if a rule of `grpo_bench.forest.invariants` is broken.
    """

    sigmas: NDArray[np.float64]
    parent_N: Ints
    depth_N: Ints
    stochastic_N: Bools
    trained_N: Bools
    sibling_noise: float | None = None
    forward_draws: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", check_sigmas(self.sigmas))
        _check_size(np.size(self.parent_N))
        for name, dtype in _COLUMNS.items():
            values = np.array(getattr(self, name))
            if values.dtype.kind != np.dtype(dtype).kind or values.shape != np.shape(self.parent_N):
                raise UserError(
                    f"{name} holds one {dtype.__name__} a node, got {values.dtype} of shape {values.shape}: "
                    f"give {np.size(self.parent_N)} values in a flat array"
                )
            object.__setattr__(self, name, _frozen(values.astype(dtype)))
        if self.sibling_noise is not None and not (np.isfinite(self.sibling_noise) and self.sibling_noise > 0):
            raise UserError(
                f"sibling_noise must be positive and finite, got {self.sibling_noise}: use none for "
                "independent siblings"
            )
        if self.forward_draws < 0:
            raise UserError(f"forward_draws counts samples a leaf, got {self.forward_draws}: use 0 or more")
        check_topology(self.steps, self.parent_N, self.depth_N)
        check_edges(self.parent_N, self.stochastic_N, self.trained_N)

    def same_as(self, other: Forest) -> bool:
        """Whether both forests are equal array for array, and in sibling noise and forward draws."""
        return (
            all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("sigmas", *_COLUMNS))
            and self.sibling_noise == other.sibling_noise
            and self.forward_draws == other.forward_draws
        )

    @property
    def steps(self) -> int:
        """The number of transitions from a root to a leaf, T."""
        return int(self.sigmas.size) - 1

    @property
    def nodes(self) -> int:
        """The number of nodes, N."""
        return int(self.parent_N.size)

    @cached_property
    def roots(self) -> int:
        """The number of roots; they are nodes 0 .. roots - 1."""
        return int(np.count_nonzero(self.parent_N == -1))

    @cached_property
    def leaves_L(self) -> Ints:
        """Node ids of the leaves, the last nodes in breadth-first order."""
        return _frozen(np.flatnonzero(self.depth_N == self.steps))

    @property
    def images(self) -> int:
        """Leaves, each decoded and scored once."""
        return int(self.leaves_L.size)

    @cached_property
    def depth_start(self) -> Ints:
        """(T+2,) int64: the nodes at depth d are depth_start[d] .. depth_start[d+1] - 1."""
        return _frozen(np.searchsorted(self.depth_N, np.arange(self.steps + 2)))

    def nodes_at(self, depth: int) -> Ints:
        """Node ids at one depth, 0..T."""
        return np.arange(self.depth_start[depth], self.depth_start[depth + 1], dtype=np.int64)

    @cached_property
    def child_count_N(self) -> Ints:
        """The number of children, 0 at a leaf."""
        return _frozen(np.bincount(self.parent_N[self.roots :], minlength=self.nodes).astype(np.int64))

    @cached_property
    def first_child_N(self) -> Ints:
        """The first child's node id (children are contiguous); meaningless at a leaf."""
        return _frozen(self.roots + np.cumsum(self.child_count_N) - self.child_count_N)

    @cached_property
    def children(self) -> tuple[Ints, ...]:
        """Each node's children, by node id."""
        return tuple(
            _frozen(np.arange(first, first + count, dtype=np.int64))
            for first, count in zip(self.first_child_N, self.child_count_N, strict=True)
        )

    @cached_property
    def child_index_N(self) -> Ints:
        """The index among siblings, the root's own number at a root."""
        index_N = np.arange(self.nodes, dtype=np.int64)
        index_N[self.roots :] -= self.first_child_N[self.parent_N[self.roots :]]
        return _frozen(index_N)

    @cached_property
    def path_LD(self) -> Ints:
        """(L, T+1) node ids on the way from the root (column 0) to each leaf (column T)."""
        path_LD = np.empty((self.images, self.steps + 1), dtype=np.int64)
        path_LD[:, -1] = self.leaves_L
        for depth in range(self.steps, 0, -1):
            path_LD[:, depth - 1] = self.parent_N[path_LD[:, depth]]
        return _frozen(path_LD)

    @cached_property
    def leaf_count_N(self) -> Ints:
        """The number of leaves that descend from a node, 1 at a leaf."""
        return _frozen(np.bincount(self.path_LD.ravel(), minlength=self.nodes).astype(np.int64))

    @cached_property
    def first_leaf_N(self) -> Ints:
        """The place in `leaves_L` of a node's first leaf; in breadth-first order a node's leaves are consecutive."""
        return _frozen(np.cumsum(self.leaf_count_N) - self.leaf_count_N - self.depth_N * self.images)

    def any_leaf(self, chosen_LP: Bools) -> Bools:
        """Whether any of a node's leaves is chosen, (N, P)."""
        before_LP = np.cumsum(np.pad(chosen_LP, ((1, 0), (0, 0))), axis=0, dtype=np.int64)
        any_NP: Bools = before_LP[self.first_leaf_N + self.leaf_count_N] > before_LP[self.first_leaf_N]
        return any_NP

    @cached_property
    def descendant_NL(self) -> Bools:
        """Whether leaf l (by its place in `leaves_L`) descends from node n, or is n.

        A table of N times L; `first_leaf_N` and `leaf_count_N` say the same in two columns.
        """
        descendant_NL = np.zeros((self.nodes, self.images), dtype=np.bool_)
        descendant_NL[self.path_LD, np.arange(self.images)[:, None]] = True
        return _frozen(descendant_NL)

    @cached_property
    def key_N(self) -> Keys:
        """A hash of the path (root number, then child indices): equal paths of different forests get equal noise.

        One splitmix64 output step per edge, a bijection of the parent's key and the child index, so that siblings
        never collide.
        """
        key_N = np.zeros(self.nodes, dtype=np.uint64)
        step_N = (self.child_index_N + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        key_N[: self.roots] = _mix(step_N[: self.roots])
        for depth in range(1, self.steps + 1):
            nodes = self.nodes_at(depth)
            key_N[nodes] = _mix(key_N[self.parent_N[nodes]] + step_N[nodes])
        return _frozen(key_N)

    @cached_property
    def trained_edges_E(self) -> Ints:
        """Node ids of the trained edges."""
        return _frozen(np.flatnonzero(self.trained_N))

    @property
    def trained_edges(self) -> int:
        """Edges that may get a gradient, before any pruning."""
        return int(self.trained_edges_E.size)

    @cached_property
    def trained_parents(self) -> Ints:
        """Node ids of the parents of trained edges, each once."""
        return _frozen(np.unique(self.parent_N[self.trained_edges_E]))

    @property
    def rollout_nfe(self) -> int:
        """Evaluations of the rollout: one a parent, shared by its children."""
        return self.nodes - self.images

    @property
    def train_nfe(self) -> int:
        """Evaluations with a gradient before pruning: one a parent of trained edges, and the leaves' forward draws."""
        return int(self.trained_parents.size) + self.forward_draws * self.images

    def kept_cost(self, keep_NP: Bools) -> tuple[int, int]:
        """(train_nfe, trained_edges) in total over P prompts, when only the trained edges in `keep_NP` are kept.

        Raises:
            UserError: if `keep_NP` is not a bool array with one row a node.
        """
        if keep_NP.ndim != 2 or keep_NP.shape[0] != self.nodes or keep_NP.dtype != np.bool_:
            raise UserError(
                f"keep_NP holds a bool a node and prompt, got {keep_NP.dtype} of shape {keep_NP.shape}: "
                f"give ({self.nodes}, prompts)"
            )
        kept_EP = keep_NP[self.trained_edges_E]
        used_NP = np.zeros_like(keep_NP)
        np.logical_or.at(used_NP, self.parent_N[self.trained_edges_E], kept_EP)
        forward = self.forward_draws * self.images * keep_NP.shape[1]
        return int(np.count_nonzero(used_NP)) + forward, int(np.count_nonzero(kept_EP))


_COLUMNS: Mapping[str, type[np.int64] | type[np.bool_]] = {
    "parent_N": np.int64,
    "depth_N": np.int64,
    "stochastic_N": np.bool_,
    "trained_N": np.bool_,
}


def chains(
    sigmas: ArrayLike,
    group: int,
    stochastic: ArrayLike,
    *,
    shared_noise: bool = False,
    trained: ArrayLike | None = None,
    train_last: bool = False,
    forward_draws: int = 0,
) -> Forest:
    """`group` chains, stochastic at the steps where `stochastic` (T bools) is True.

    Independent chains have a root each. With `shared_noise` they are the children of one node at the first stochastic
    step; the prefix before it is the same for all and stored once. `trained` is (T,) or, for steps that differ by
    chain, (group, T); default: `stochastic`. No mask is True on the last step, unless `train_last`.

    Raises:
        UserError: if group < 1, a mask has the wrong shape or the last step, a trained step is not stochastic, or
            several chains share their noise and no step is stochastic.
    """
    grid = check_sigmas(sigmas)
    steps = grid.size - 1
    stochastic_T = _mask(stochastic, (steps,), "stochastic", train_last=train_last)
    _at_least_one(group, "group")
    if shared_noise and group > 1 and not stochastic_T.any():
        raise UserError(f"{group} chains that share their noise need a stochastic step, got none: they would be equal")
    noisy_T = stochastic_T.astype(np.int64)
    if shared_noise and stochastic_T.any():
        noisy_T[np.argmax(stochastic_T)] = group
    parent_N, depth_N, stochastic_N = _grow(1 if shared_noise else group, noisy_T, ~stochastic_T)
    if trained is None:
        trained_GT = np.broadcast_to(stochastic_T, (group, steps))
    else:
        shape = (steps,) if np.ndim(trained) == 1 else (group, steps)
        trained_GT = np.broadcast_to(_mask(trained, shape, "trained", train_last=train_last), (group, steps))
    trained_N = np.zeros(parent_N.size, dtype=np.bool_)
    start = np.searchsorted(depth_N, np.arange(steps + 2))
    for depth in range(1, steps + 1):
        at_depth = slice(start[depth], start[depth + 1])
        column = trained_GT[:, depth - 1]
        trained_N[at_depth] = column if start[depth + 1] - start[depth] == group else column.any()
    return Forest(grid, parent_N, depth_N, stochastic_N, trained_N, forward_draws=forward_draws)


def branching(
    sigmas: ArrayLike,
    splits: Mapping[int, int],
    stochastic: ArrayLike,
    *,
    roots: int = 1,
    sibling_noise: float | None = None,
    trained: ArrayLike | None = None,
    train_last: bool = False,
) -> Forest:
    """Trees: a node at a step in `splits` has that many stochastic children, any other node has one child.

    `stochastic` and `trained` (default: `stochastic`) are T bools, False on the last step unless `train_last`.

    Raises:
        UserError: if a split is on a step that is not stochastic, a count is below 1, a mask has the wrong shape or the
            last step, or a trained step is not stochastic.
    """
    grid = check_sigmas(sigmas)
    steps = grid.size - 1
    stochastic_T = _mask(stochastic, (steps,), "stochastic", train_last=train_last)
    trained_T = stochastic_T if trained is None else _mask(trained, (steps,), "trained", train_last=train_last)
    _at_least_one(roots, "roots")
    _check_splits(splits, stochastic_T)
    noisy_T = stochastic_T.astype(np.int64)
    for step, count in splits.items():
        noisy_T[step] = count
    parent_N, depth_N, stochastic_N = _grow(roots, noisy_T, ~stochastic_T)
    trained_N = np.append(False, trained_T)[depth_N]
    return Forest(grid, parent_N, depth_N, stochastic_N, trained_N, sibling_noise=sibling_noise)


def trunk(sigmas: ArrayLike, splits: Mapping[int, int], *, roots: int = 1) -> Forest:
    """Deterministic trunks that throw `splits[i]` stochastic children at step i, each finished deterministically.

    The trunk is not decoded: it ends at the last split. Every stochastic edge is trained (TempFlow-GRPO).

    Raises:
        UserError: if there is no split, a split is on the last step or outside the grid, or a count is below 1.
    """
    grid = check_sigmas(sigmas)
    steps = grid.size - 1
    _at_least_one(roots, "roots")
    if not splits:
        raise UserError("a trunk needs at least one split, got none: without one it has no image")
    _check_splits(splits, np.arange(steps) < steps - 1)
    noisy_T = np.zeros(steps, dtype=np.int64)
    for step, count in splits.items():
        noisy_T[step] = count
    parent_N, depth_N, stochastic_N = _grow(roots, noisy_T, np.arange(steps) < max(splits), children_branch=False)
    return Forest(grid, parent_N, depth_N, stochastic_N, stochastic_N)


def _grow(roots: int, noisy_T: Ints, plain_T: Bools, *, children_branch: bool = True) -> tuple[Ints, Ints, Bools]:
    """(parent_N, depth_N, stochastic_N) where a node at step i has noisy_T[i] stochastic and plain_T[i] ODE children.

    Without `children_branch` that holds for the trunk only; a stochastic child and all below it go on by ODE.
    """
    parents, stochastics = [np.full(roots, -1, dtype=np.int64)], [np.zeros(roots, dtype=np.bool_)]
    branches = np.ones(roots, dtype=np.bool_)
    first = 0
    for noisy, plain in zip(noisy_T, plain_T, strict=True):
        noisy_F = np.where(branches, noisy, 0)
        count_F = noisy_F + np.where(branches, plain, 1)
        _check_size(first + branches.size + int(count_F.sum()))
        index = np.arange(count_F.sum()) - np.repeat(np.cumsum(count_F) - count_F, count_F)
        stochastic = index < np.repeat(noisy_F, count_F)
        parents.append(first + np.repeat(np.arange(branches.size, dtype=np.int64), count_F))
        stochastics.append(stochastic)
        first += branches.size
        branches = np.repeat(branches, count_F) & (~stochastic | children_branch)
    depth_N = np.repeat(np.arange(len(parents), dtype=np.int64), [level.size for level in parents])
    return np.concatenate(parents), depth_N, np.concatenate(stochastics)


def _mask(values: ArrayLike, shape: tuple[int, ...], name: str, *, train_last: bool) -> Bools:
    """A copy of a mask over steps (its last axis); True on the last step is an error unless `train_last`."""
    mask = np.array(values)
    if mask.shape != shape or mask.dtype != np.bool_:
        raise UserError(f"{name} holds a bool a step, got {mask.dtype} of shape {mask.shape}: give bools of {shape}")
    if mask[..., -1].any() and not train_last:
        raise UserError(
            f"the last step is deterministic in every method and never trained, but {name} is True for it (step "
            f"{shape[-1] - 1}): make it False there, or pass train_last=schedule.train_last where a recipe trains it"
        )
    return mask


def _check_splits(splits: Mapping[int, int], allowed_T: Bools) -> None:
    for step, count in splits.items():
        _at_least_one(count, f"the number of children at step {step}")
        if not 0 <= step < allowed_T.size or not allowed_T[step]:
            raise UserError(
                f"a split needs a stochastic step, step {step} of {allowed_T.size} is not one (the last "
                f"never is): split at one of {np.flatnonzero(allowed_T).tolist()}"
            )


def _at_least_one(value: int, name: str) -> None:
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}: raise it")
    if value > MOST_NODES:
        raise UserError(f"{name} must be at most {MOST_NODES}, got {value}: lower it")


def _check_size(nodes: int) -> None:
    if nodes > MOST_NODES:
        raise UserError(
            f"this forest has {nodes} nodes a prompt or more, and {MOST_NODES} is the most: lower the method's group "
            "or branching"
        )


def _frozen(array: NDArray[Scalar]) -> NDArray[Scalar]:
    array.flags.writeable = False
    return array


def _mix(state: Keys) -> Keys:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014), modulo 2^64."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
