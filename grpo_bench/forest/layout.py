"""Where a forest's nodes and edges lie in a picture: plain numpy, lengths in points, time from left to right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo_bench.forest.forest import Forest

Points = NDArray[np.float64]

WAVE = 6.0
"""Length of one wave of a stochastic edge, in points."""
FLAT_PART = 0.35
"""Share of a step, at its end, in which an edge has reached its child's height: splits look like splits."""


@dataclass(frozen=True)
class Layout:
    """`point_N2` (x, y) of every node in points, y upwards from 0, and the distance between two leaves of a tree."""

    point_N2: Points
    spacing: float


def place(forest: Forest, width: float, height: float) -> Layout:
    """Depths equally far apart over `width`; leaves equally far apart over `height`, trees set apart from each other.

    A parent is at the middle of its leaves. Trees of one leaf each, such as independent chains, need no extra gap.
    """
    # In depth-first order a node's leaves lie side by side, so that no edge crosses another tree's.
    leaf_L = np.arange(forest.images, dtype=np.float64)
    if forest.images > forest.roots:
        tree_L = np.repeat(np.arange(forest.roots), forest.leaf_count_N[: forest.roots])
        leaf_L += tree_L * max(1.0, 0.04 * forest.images)
    rows = leaf_L[-1] + 1
    last_N = forest.first_leaf_N + forest.leaf_count_N - 1
    row_N = (leaf_L[forest.first_leaf_N] + leaf_L[last_N]) / 2
    spacing = height / rows
    return Layout(
        np.stack([forest.depth_N * (width / forest.steps), height - (row_N + 0.5) * spacing], axis=1), spacing
    )


def edges(layout: Layout, forest: Forest, nodes_E: NDArray[np.int64], *, waves: bool) -> Points:
    """(E, S, 2) polylines of the edges into these nodes: smooth from parent to child, wavy where `waves`."""
    start_E2 = layout.point_N2[forest.parent_N[nodes_E]]
    return lines(start_E2, layout.point_N2[nodes_E], waves=min(1.25, max(0.35, 0.3 * layout.spacing)) if waves else 0)


def lines(start_E2: Points, end_E2: Points, *, waves: float) -> Points:
    """(E, S, 2) polylines, E > 0, from start to end, with waves of this height in points (0: none)."""
    along_E2 = end_E2 - start_E2
    longest = float(np.abs(along_E2).sum(axis=1).max())
    along_S = np.linspace(0, 1, 16 * max(2, round(longest / WAVE)) + 1)
    rise_S = np.minimum(along_S / (1 - FLAT_PART), 1)
    rise_S = rise_S**2 * (3 - 2 * rise_S)
    line_ES2 = start_E2[:, None] + np.stack([along_S, rise_S], axis=1) * along_E2[:, None]
    return _wavy(line_ES2, waves) if waves else line_ES2


def _wavy(line_ES2: Points, height: float) -> Points:
    """Waves across each line that fade towards its ends, so that it still begins and ends at its nodes."""
    slope_ES2 = np.gradient(line_ES2, axis=1)
    speed_ES = np.maximum(np.linalg.norm(slope_ES2, axis=2), 1e-12)
    walked_ES = np.cumsum(speed_ES, axis=1) - speed_ES[:, :1]
    length_E1 = walked_ES[:, -1:]
    # Of one length in a forest, so that siblings swing together; whole waves where the line is level.
    step = float(line_ES2[0, -1, 0] - line_ES2[0, 0, 0])
    wave = step / max(2, round(step / WAVE))
    share_ES = walked_ES / length_E1
    # Calmer where the line is steep, since a wide split has many such lines side by side.
    fade_ES = np.minimum(1, 8 * np.minimum(share_ES, 1 - share_ES)) * np.sqrt(slope_ES2[..., 0] / speed_ES)
    swing_ES = height * fade_ES * np.sin(2 * np.pi * walked_ES / wave)
    across_ES2 = np.stack([-slope_ES2[..., 1], slope_ES2[..., 0]], axis=2) / speed_ES[..., None]
    wavy_ES2: Points = line_ES2 + swing_ES[..., None] * across_ES2
    return wavy_ES2


def fans(layout: Layout, forest: Forest, draws: int, reach: float) -> Points:
    """(leaves x draws, 2, 2) rays from every leaf: its forward-process draws."""
    spread_D = np.linspace(0.42, -0.42, draws) if draws > 1 else np.zeros(1)
    start_L2 = layout.point_N2[forest.leaves_L]
    end_LD2 = start_L2[:, None] + np.stack([np.full(spread_D.size, reach), spread_D * layout.spacing], axis=1)
    return np.stack([np.broadcast_to(start_L2[:, None], end_LD2.shape), end_LD2], axis=2).reshape(-1, 2, 2)
