"""Forests by name: chains, trees, and trunks that throw branches; `assemble` numbers one of any other shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from grpo_bench.errors import UserError
from grpo_bench.forest.forest import MOST_NODES, Forest, check_size
from grpo_bench.forest.invariants import Bools, Ints
from grpo_bench.forest.schedule import check_sigmas

Stride = int | Sequence[int]
"""How many grid points a branch's deterministic end takes at once; several: it ends once in each way."""


def chains(
    sigmas: ArrayLike,
    group: int,
    stochastic: ArrayLike,
    *,
    shared_noise: bool = False,
    trained: ArrayLike | None = None,
    train_last: bool = False,
    stride: Stride = 1,
    noise_T: ArrayLike | None = None,
) -> Forest:
    """`group` chains, stochastic at the steps where `stochastic` (T bools) is True.

    Independent chains have a root each. With `shared_noise` they are the children of one node at the first stochastic
    step; the prefix before it is the same for all and stored once. `trained` is (T,) or, for steps that differ by
    chain, (group, T); default: `stochastic`. No mask is True on the last step, unless `train_last`. What follows the
    last stochastic step is taken in strides.

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
    shape = _grow(1 if shared_noise else group, noisy_T, ~stochastic_T, stride)
    if trained is None:
        trained_GT = np.broadcast_to(stochastic_T, (group, steps))
    else:
        given = (steps,) if np.ndim(trained) == 1 else (group, steps)
        trained_GT = np.broadcast_to(_mask(trained, given, "trained", train_last=train_last), (group, steps))
        _check_trained(trained_GT, stochastic_T)
    trained_N = np.zeros(shape.parent_N.size, dtype=np.bool_)
    for step in np.flatnonzero(stochastic_T):
        child_D = np.flatnonzero(shape.depth_N == step + 1)
        column = trained_GT[:, step]
        trained_N[child_D] = column if child_D.size == group else column.any()
    return Forest(grid, shape.parent_N, shape.depth_N, shape.stochastic_N, trained_N, None, _factors(noise_T))


def branching(
    sigmas: ArrayLike,
    splits: Mapping[int, int],
    stochastic: ArrayLike,
    *,
    roots: int = 1,
    sibling_noise: float | None = None,
    trained: ArrayLike | None = None,
    train_last: bool = False,
    stride: Stride = 1,
    noise_T: ArrayLike | None = None,
) -> Forest:
    """Trees: a node at a step in `splits` has that many stochastic children, any other node has one child.

    `stochastic` and `trained` (default: `stochastic`) are T bools, False on the last step unless `train_last`. What
    follows the last stochastic step is taken in strides.

    Raises:
        UserError: if a split is on a step that is not stochastic, a count is below 1, a mask has the wrong shape or the
            last step, or a trained step is not stochastic.
    """
    grid = check_sigmas(sigmas)
    steps = grid.size - 1
    stochastic_T = _mask(stochastic, (steps,), "stochastic", train_last=train_last)
    trained_T = stochastic_T if trained is None else _mask(trained, (steps,), "trained", train_last=train_last)
    _check_trained(trained_T, stochastic_T)
    _at_least_one(roots, "roots")
    _check_splits(splits, stochastic_T)
    noisy_T = stochastic_T.astype(np.int64)
    for step, count in splits.items():
        noisy_T[step] = count
    shape = _grow(roots, noisy_T, ~stochastic_T, stride)
    trained_N = np.append(False, trained_T)[shape.depth_N] & shape.stochastic_N
    return Forest(grid, shape.parent_N, shape.depth_N, shape.stochastic_N, trained_N, sibling_noise, _factors(noise_T))


def trunk(
    sigmas: ArrayLike,
    splits: Mapping[int, int],
    *,
    roots: int = 1,
    stride: Stride = 1,
    noise_T: ArrayLike | None = None,
) -> Forest:
    """Deterministic trunks that throw `splits[i]` stochastic children at step i, each finished deterministically.

    The trunk is not decoded: it ends at the last split. Every stochastic edge is trained (TempFlow-GRPO). The branches
    end in strides; with several, each is finished once in each way (G2RPO: 1 and 2).

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
    shape = _grow(roots, noisy_T, np.arange(steps) < max(splits), stride, children_branch=False)
    stochastic_N = shape.stochastic_N
    return Forest(grid, shape.parent_N, shape.depth_N, stochastic_N, stochastic_N, None, _factors(noise_T))


def assemble(
    sigmas: ArrayLike,
    parent: ArrayLike,
    depth: ArrayLike,
    stochastic: ArrayLike,
    trained: ArrayLike,
    *,
    sibling_noise: float | None = None,
    noise_T: ArrayLike | None = None,
) -> Forest:
    """A forest whose nodes may be given in any order that has parents before their children.

    Args:
        sigmas: (T+1,) the grid.
        parent: (N,) each node's parent as its place in these lists, -1 at a root.
        depth: (N,) grid points.
        stochastic: (N,) whether the edge into the node samples noise.
        trained: (N,) whether that edge may get a gradient.
        sibling_noise: as `Forest`'s.
        noise_T: as `Forest`'s.

    Raises:
        UserError: a child before its parent, or what no forest may have.
    """
    parent_N, depth_N = np.asarray(parent, dtype=np.int64), np.asarray(depth, dtype=np.int64)
    noisy_N = np.asarray(stochastic, dtype=np.bool_)
    late_N = parent_N >= np.arange(parent_N.size)
    if late_N.any():
        node = int(np.argmax(late_N))
        raise UserError(f"node {node} has parent {parent_N[node]}, but a parent comes before its children: reorder")
    place_N = np.full(parent_N.size, -1, dtype=np.int64)
    order: list[Ints] = []
    for point in np.unique(depth_N):
        node_D = np.flatnonzero(depth_N == point)
        above_D = np.where(parent_N[node_D] < 0, -1, place_N[parent_N[node_D]])
        node_D = node_D[np.lexsort((~noisy_N[node_D], above_D))]
        place_N[node_D] = sum(part.size for part in order) + np.arange(node_D.size)
        order.append(node_D)
    order_N = np.concatenate(order) if order else np.zeros(0, dtype=np.int64)
    above_N = np.where(parent_N < 0, -1, place_N[np.maximum(parent_N, 0)]) if parent_N.size else parent_N
    trained_N = np.asarray(trained, dtype=np.bool_)
    return Forest(
        check_sigmas(sigmas), above_N[order_N], depth_N[order_N], noisy_N[order_N], trained_N[order_N], sibling_noise,
        _factors(noise_T),
    )  # fmt: skip


@dataclass(frozen=True)
class _Shape:
    parent_N: Ints
    depth_N: Ints
    stochastic_N: Bools


@dataclass(frozen=True)
class _Arrivals:
    """Nodes that some of one grid point's nodes lead to, at one later point, in the order of their parents.

    `stride_M`: 0 where the node still branches, -1 where its end begins, else the stride that its end is taken in.
    """

    parent_M: Ints
    stochastic_M: Bools
    stride_M: Ints


def _grow(roots: int, noisy_T: Ints, plain_T: Bools, stride: Stride, *, children_branch: bool = True) -> _Shape:
    """Nodes at step i have noisy_T[i] stochastic and plain_T[i] deterministic children, up to the last branching.

    Without `children_branch` that holds for the trunk only, and a stochastic child's end begins where it is born.
    """
    steps = noisy_T.size
    strides = _strides(stride)
    busy_T = (noisy_T > 0) | (plain_T & (not children_branch))
    last = int(np.flatnonzero(busy_T).max(initial=-1))
    root_R = np.full(roots, -1, dtype=np.int64)
    arriving: list[list[_Arrivals]] = [[] for _ in range(steps + 1)]
    arriving[0].append(_Arrivals(root_R, np.zeros(roots, dtype=np.bool_), np.zeros(roots, dtype=np.int64)))
    levels, first = [], 0
    for point, parts in enumerate(arriving):
        if not sum(part.parent_M.size for part in parts):
            continue
        parent_D, noisy_D, stride_D = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("parent_M", "stochastic_M", "stride_M")
        )
        order = np.argsort(parent_D, kind="stable")
        parent_D, noisy_D, stride_D = parent_D[order], noisy_D[order], stride_D[order]
        levels.append(_Shape(parent_D, np.full(parent_D.size, point, dtype=np.int64), noisy_D))
        if point == steps:
            break
        if point > last:
            stride_D = np.where(stride_D == 0, -1, stride_D)
        id_D = first + np.arange(parent_D.size, dtype=np.int64)
        first += parent_D.size
        branch_D = stride_D == 0
        if branch_D.any():
            children = int(noisy_T[point]), bool(plain_T[point])
            check_size(first + int(branch_D.sum()) * sum(children))  # before anything of that size is made
            arriving[point + 1].append(_branches(id_D[branch_D], *children, children_branch=children_branch))
        _send_on(arriving, point, id_D, stride_D, strides)
        check_size(first + sum(part.parent_M.size for parts in arriving[point + 1 :] for part in parts))
    return _Shape(
        np.concatenate([level.parent_N for level in levels]),
        np.concatenate([level.depth_N for level in levels]),
        np.concatenate([level.stochastic_N for level in levels]),
    )


def _branches(id_B: Ints, noisy: int, plain: bool, *, children_branch: bool) -> _Arrivals:
    """The children of nodes that still branch: stochastic ones, then the deterministic one."""
    stochastic = np.arange(noisy + plain) < noisy
    stride = np.where(stochastic & (not children_branch), -1, 0)
    return _Arrivals(np.repeat(id_B, noisy + plain), np.tile(stochastic, id_B.size), np.tile(stride, id_B.size))


def _send_on(arriving: list[list[_Arrivals]], point: int, id_D: Ints, stride_D: Ints, strides: Sequence[int]) -> None:
    """One deterministic child of every node whose end has begun, several where it begins in several ways."""
    steps, begun = len(arriving) - 1, set()
    for size in strides:
        end = min(point + size, steps)
        # Two strides that reach the last point at once are one and the same edge.
        new_M = id_D[(stride_D == size) | ((stride_D == -1) & (end not in begun))]
        begun.add(end)
        arriving[end].append(_Arrivals(new_M, np.zeros(new_M.size, dtype=np.bool_), np.full(new_M.size, size)))


def _strides(stride: Stride) -> list[int]:
    """The different strides, the smallest first.

    Raises:
        UserError: none, or one below 1.
    """
    strides = sorted({stride} if isinstance(stride, int) else set(stride))
    if not strides or strides[0] < 1:
        raise UserError(f"a stride takes at least 1 step at once, got {stride}: use 1 for the grid's own steps")
    return strides


def _factors(noise_T: ArrayLike | None) -> np.ndarray | None:
    return None if noise_T is None else np.asarray(noise_T, dtype=np.float64)


def _check_trained(trained: Bools, stochastic_T: Bools) -> None:
    bad_T = np.atleast_2d(trained & ~stochastic_T).any(axis=0)
    if bad_T.any():
        raise UserError(
            f"trained is True on step {int(np.argmax(bad_T))}, which is not stochastic: a deterministic edge has no "
            "density to train; make it False there"
        )


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
