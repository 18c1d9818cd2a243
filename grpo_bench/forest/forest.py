"""A forest of sampling transitions: the topology of one prompt's rollout and its exact costs.

A node is a latent at a grid point; an edge is one transition to a later point, named by the node it leads to. Plain
numpy data, the same for every prompt of a batch: whatever is counted here is per prompt. `builders` makes forests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from grpo_bench.errors import UserError
from grpo_bench.forest.invariants import Bools, Ints, check_edges, check_noise, check_topology
from grpo_bench.forest.schedule import Floats, Schedule, Transition, check_sigmas

Keys = NDArray[np.uint64]
MOST_NODES = 1 << 18
"""Nodes a prompt, at most: ten times the largest forest ever grown here, and still seconds to plan."""
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Forest:
    """Nodes in order of depth, then of their parents, then stochastic children before the deterministic one.

    An edge leads from a grid point to any later one; one that passes over points *jumps*. A node may have stochastic
    children, and deterministic ones to different depths: a deterministic jump to T is the node's clean prediction.

    Attributes:
        sigmas: (T+1,) float64, 1 down to 0.
        parent_N: int64, -1 at a root.
        depth_N: int64, the grid point: 0 at a root, T at a leaf, a child's above its parent's.
        stochastic_N: bool, the edge into n samples noise.
        trained_N: bool, the edge into n may get a gradient (implies stochastic).
        sibling_noise: None for independent siblings, else the s of BranchGRPO's (xi_0 + s eta_b) / sqrt(1 + s^2),
            whose siblings correlate by 1 / (1 + s^2).
        noise_T: (T,) float64, what the kernel's noise level is multiplied by on edges from each grid point; None: 1.

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
    noise_T: Floats | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", check_sigmas(self.sigmas))
        check_size(np.size(self.parent_N))
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
        if self.noise_T is not None:
            object.__setattr__(self, "noise_T", _frozen(check_noise(self.noise_T, self.steps)))
        check_topology(self.steps, self.parent_N, self.depth_N)
        check_edges(self.parent_N, self.depth_N, self.stochastic_N, self.trained_N)

    def same_as(self, other: Forest) -> bool:
        """Whether both forests are equal array for array, and in their noise."""
        ours, theirs = (np.ones(forest.steps) if forest.noise_T is None else forest.noise_T for forest in (self, other))
        return (
            all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("sigmas", *_COLUMNS))
            and self.sibling_noise == other.sibling_noise
            and np.array_equal(ours, theirs)
        )

    @property
    def steps(self) -> int:
        """The number of transitions from a root to a leaf where none jumps, T."""
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
        """Node ids of the leaves, the last nodes."""
        return _frozen(np.flatnonzero(self.depth_N == self.steps))

    @property
    def images(self) -> int:
        """Leaves, each decoded and scored once."""
        return int(self.leaves_L.size)

    @cached_property
    def depth_start(self) -> Ints:
        """(T+2,) int64: the nodes at depth d are depth_start[d] .. depth_start[d+1] - 1, none where all jump over d."""
        return _frozen(np.searchsorted(self.depth_N, np.arange(self.steps + 2)))

    def nodes_at(self, depth: int) -> Ints:
        """Node ids at one depth, 0..T."""
        return np.arange(self.depth_start[depth], self.depth_start[depth + 1], dtype=np.int64)

    @cached_property
    def start_N(self) -> Ints:
        """The grid point that the edge into n starts from, -1 at a root."""
        return _frozen(np.where(self.parent_N < 0, -1, self.depth_N[self.parent_N]))

    @property
    def jumps(self) -> bool:
        """Whether any edge passes over a grid point."""
        return bool((self.depth_N - self.start_N > 1).any())

    @cached_property
    def _spans(self) -> Mapping[int, tuple[tuple[int, Ints], ...]]:
        turn_N = (np.diff(self.depth_N, prepend=-1) != 0) | (np.diff(self.start_N, prepend=-2) != 0)
        spans: dict[int, tuple[tuple[int, Ints], ...]] = {}
        for span in np.split(np.arange(self.nodes, dtype=np.int64), np.flatnonzero(turn_N)[1:]):
            start, end = int(self.start_N[span[0]]), int(self.depth_N[span[0]])
            spans[start] = (*spans.get(start, ()), (end, _frozen(span)))
        return spans

    def edges_from(self, point: int) -> tuple[tuple[int, Ints], ...]:
        """The edges that start at a grid point as (where they end, the nodes they lead to: consecutive ids)."""
        return self._spans.get(point, ())

    @cached_property
    def child_count_N(self) -> Ints:
        """The number of children, 0 at a leaf."""
        return _frozen(np.bincount(self.parent_N[self.roots :], minlength=self.nodes).astype(np.int64))

    @cached_property
    def noisy_count_N(self) -> Ints:
        """The number of stochastic children, to whatever depths."""
        noisy_M = self.parent_N[self.stochastic_N]
        return _frozen(np.bincount(noisy_M, minlength=self.nodes).astype(np.int64))

    @cached_property
    def _family(self) -> Ints:
        """All nodes but the roots, by parent, then stochastic ones first, then by id."""
        order = np.lexsort((~self.stochastic_N[self.roots :], self.parent_N[self.roots :]))
        return _frozen(self.roots + order.astype(np.int64))

    @cached_property
    def first_child_N(self) -> Ints:
        """The node id of child 0; its siblings follow it where no edge jumps. Meaningless at a leaf."""
        place_N = np.minimum(np.cumsum(self.child_count_N) - self.child_count_N, max(self._family.size - 1, 0))
        return _frozen(self._family[place_N] if self._family.size else np.zeros(self.nodes, dtype=np.int64))

    @cached_property
    def children(self) -> tuple[Ints, ...]:
        """Each node's children, by child index."""
        return tuple(_frozen(family) for family in np.split(self._family, np.cumsum(self.child_count_N)[:-1]))

    @cached_property
    def child_index_N(self) -> Ints:
        """The index among siblings, stochastic ones first whatever their depth; the root's own number at a root."""
        index_N = np.arange(self.nodes, dtype=np.int64)
        before_N = np.cumsum(self.child_count_N) - self.child_count_N
        index_N[self._family] = np.arange(self._family.size) - before_N[self.parent_N[self._family]]
        return _frozen(index_N)

    @cached_property
    def path_LD(self) -> Ints:
        """(L, T+1) node ids on the way from the root (column 0) to each leaf (column T).

        A node that jumps stands at the points that it jumps over too.
        """
        path_LD = np.empty((self.images, self.steps + 1), dtype=np.int64)
        path_LD[:, -1] = self.leaves_L
        for depth in range(self.steps, 0, -1):
            node_L = path_LD[:, depth]
            path_LD[:, depth - 1] = np.where(self.depth_N[node_L] == depth, self.parent_N[node_L], node_L)
        return _frozen(path_LD)

    def fold(self, combine: np.ufunc, leaf_LP: NDArray[Scalar], empty: object) -> NDArray[Scalar]:
        """`combine` over the leaves below each node, itself at a leaf, (N, P); `empty` is its value of no leaf."""
        value_NP = np.full((self.nodes, leaf_LP.shape[1]), empty, dtype=leaf_LP.dtype)
        value_NP[self.leaves_L] = leaf_LP
        for depth in range(self.steps, 0, -1):
            child_D = self.nodes_at(depth)
            if not child_D.size:
                continue
            parent_D = self.parent_N[child_D]
            first = np.flatnonzero(np.diff(parent_D, prepend=-2))
            folded = combine.reduceat(value_NP[child_D], first, axis=0)
            value_NP[parent_D[first]] = combine(value_NP[parent_D[first]], folded)
        return value_NP

    @cached_property
    def leaf_count_N(self) -> Ints:
        """The number of leaves that descend from a node, 1 at a leaf."""
        return _frozen(self.fold(np.add, np.ones((self.images, 1), dtype=np.int64), 0)[:, 0])

    @cached_property
    def first_leaf_N(self) -> Ints:
        """The place of a node's first leaf in depth-first order, in which its leaves are consecutive.

        That is the order of `leaves_L` where no edge jumps.
        """
        count_M = self.leaf_count_N[self._family]
        before_M = np.cumsum(count_M) - count_M
        family_N = np.cumsum(self.child_count_N) - self.child_count_N
        first_N = np.zeros(self.nodes, dtype=np.int64)
        first_N[: self.roots] = np.cumsum(self.leaf_count_N[: self.roots]) - self.leaf_count_N[: self.roots]
        offset_N = np.zeros(self.nodes, dtype=np.int64)
        offset_N[self._family] = before_M - before_M[family_N[self.parent_N[self._family]]]
        for depth in range(1, self.steps + 1):
            node_D = self.nodes_at(depth)
            first_N[node_D] = first_N[self.parent_N[node_D]] + offset_N[node_D]
        return _frozen(first_N)

    def any_leaf(self, chosen_LP: Bools) -> Bools:
        """Whether any of a node's leaves is chosen, (N, P)."""
        any_NP: Bools = self.fold(np.logical_or, chosen_LP, False)
        return any_NP

    @cached_property
    def descendant_NL(self) -> Bools:
        """Whether leaf l (by its place in `leaves_L`) descends from node n, or is n."""
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
    def judged_E(self) -> Ints:
        """The nodes whose advantages train something: trained edges, or where none is (forward methods) the leaves."""
        return self.trained_edges_E if self.trained_edges else self.leaves_L

    @property
    def trained_edges(self) -> int:
        """Edges that may get a gradient, before any pruning."""
        return int(self.trained_edges_E.size)

    @cached_property
    def trained_parents(self) -> Ints:
        """Node ids of the parents of trained edges, each once."""
        return _frozen(np.unique(self.parent_N[self.trained_edges_E]))

    @cached_property
    def fans(self) -> Fans:
        """The trained edges by what they share: a parent and the point they end at, hence one mean."""
        edge_E = self.trained_edges_E
        pair_E2 = np.stack([np.searchsorted(self.trained_parents, self.parent_N[edge_E]), self.depth_N[edge_E]], axis=1)
        pair_F2, fan_E = np.unique(pair_E2.reshape(-1, 2), axis=0, return_inverse=True)
        return Fans(_frozen(pair_F2[:, 0]), _frozen(pair_F2[:, 1]), _frozen(fan_E.reshape(-1).astype(np.int64)))

    def transitions(self, schedule: Schedule, node_E: Ints) -> Transition:
        """Coefficients (E,) of the edges into these nodes: the kernel's where they are stochastic.

        Raises:
            UserError: a noise level that the kernel does not allow.
        """
        start_E, end_E = self.start_N[node_E], self.depth_N[node_E]
        noisy_E = self.stochastic_N[node_E]
        factor_E = np.where(noisy_E, 1.0 if self.noise_T is None else self.noise_T[start_E], 1.0)
        noisy, still = schedule.edge(start_E, end_E, factor_E), schedule.still(start_E, end_E)
        return Transition(*(np.where(noisy_E, *values) for values in zip(noisy, still, strict=True)))

    @property
    def rollout_nfe(self) -> int:
        """Evaluations of the rollout: one a parent, shared by its children."""
        return self.nodes - self.images

    @property
    def train_nfe(self) -> int:
        """Evaluations with a gradient before pruning: one a parent of trained edges."""
        return int(self.trained_parents.size)

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
        return int(self.kept_parents(keep_NP).sum()), int(np.count_nonzero(keep_NP[self.trained_edges_E]))

    def kept_parents(self, keep_NP: Bools) -> Ints:
        """How often each node (N,) is evaluated in training: once for each prompt of which a child's edge is kept."""
        used_NP = np.zeros_like(keep_NP)
        np.logical_or.at(used_NP, self.parent_N[self.trained_edges_E], keep_NP[self.trained_edges_E])
        count_N: Ints = np.count_nonzero(used_NP, axis=1).astype(np.int64)
        return count_N


@dataclass(frozen=True, eq=False)
class Fans:
    """F fans: the trained edges of one parent to one grid point, by parent and then by that point.

    Attributes:
        parent_F: the parent, as its place in `trained_parents`.
        end_F: the grid point.
        fan_E: each trained edge's fan.
    """

    parent_F: Ints
    end_F: Ints
    fan_E: Ints


_COLUMNS: Mapping[str, type[np.int64] | type[np.bool_]] = {
    "parent_N": np.int64,
    "depth_N": np.int64,
    "stochastic_N": np.bool_,
    "trained_N": np.bool_,
}


def check_size(nodes: int) -> None:
    """Raise a UserError where a forest would have more than `MOST_NODES` nodes a prompt."""
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
