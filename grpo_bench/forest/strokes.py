"""The strokes of a picture of forests: lines, marks and bars, drawn alike in the panels and in the legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grpo_bench.forest.layout import Points, lines
from grpo_bench.metering.ledger import TRAIN_WEIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, QUIET, NOISE, ODE, BAND = "#222222", "#666666", "#8C8C8C", "#B4B4B4", "#F5F5F5"
KINDS = {
    "ode": "deterministic step (ODE)",
    "untrained": "stochastic step (SDE), no gradient",
    "pruned": "pruned after example rewards",
    "trained": "stochastic step (SDE), trained",
    "draws": "forward draws, trained",
}
"""Kinds of line, from the lowest to the topmost, and their names in the legend."""
BARS = {
    "rollout": ("nfe: rollout evaluations", (20.0, 0.0, 0.0)),
    "reference": ("nfe: reference evaluations", (0.0, 20.0, 0.0)),
    "training": (f"nfe: {TRAIN_WEIGHT} x training evaluations", (0.0, 0.0, 20.0)),
}
"""Parts of the bar of costs: their words and their lengths in the legend."""
ROOM = np.array([8.0])
"""Room around the legend's lines and marks, in points."""


def draw_lines(axes: Axes, kind: str, lines_ES2: Points, room_E: Points, colour: str, gid: str) -> None:
    """Lines of one kind (E, S, 2), thinner where there is little room (points) around them."""
    from matplotlib.collections import LineCollection

    ink, share, least, most = {
        "ode": (ODE, 0.1, 0.2, 0.8),
        "untrained": (NOISE, 0.1, 0.3, 0.7),
        "pruned": (NOISE, 0.1, 0.35, 0.7),
        "trained": (colour, 0.18, 0.45, 1.4),
        "draws": (colour, 0.05, 0.25, 0.6),
    }[kind]
    axes.add_collection(
        LineCollection(
            list(lines_ES2),
            colors=ink,
            linewidths=np.clip(share * room_E, least, most).tolist(),
            linestyles=(0, (2.5, 1.5)) if kind == "pruned" else "solid",
            capstyle="butt" if kind == "pruned" else "round",
            zorder=1 + list(KINDS).index(kind),
            gid=gid,
            snap=False,
        ),
        autolim=False,
    )


def draw_marks(axes: Axes, kind: str, point_M2: Points, spacing: float) -> None:
    """Marks of one kind, smaller where leaves lie close together."""
    shape, face, small, large, edge = {
        "leaf": ("s", INK, 0.7, 2.6, 0.0),
        "split": ("o", INK, 2.2, 3.2, 0.0),
        "root": ("o", "white", 2.6, 3.8, 0.8),
        "cut": ("x", INK, 2.2, 3.6, 0.8),
    }[kind]
    axes.plot(
        *point_M2.T, shape, color=face, markersize=float(np.clip(0.5 * spacing, small, large)), mec=INK, mew=edge,
        zorder=9 if kind == "root" else 8,
    )  # fmt: skip


def draw_bar(axes: Axes, start: NDArray[np.float64], widths: Sequence[float], colour: str) -> None:
    """A bar of rollout (light), reference (hatched) and training (strong)."""
    from matplotlib.patches import Rectangle

    x, y = float(start[0]), float(start[1]) - 2.5
    for width, alpha, hatch in zip(widths, (0.35, 0.35, 1.0), (None, "//////", None), strict=True):
        axes.add_patch(Rectangle((x, y), width, 5.0, facecolor=colour, alpha=alpha, hatch=hatch, linewidth=0))
        x += width


def draw_sign(axes: Axes, kind: str, at: Points, colour: str) -> None:
    """The picture of one legend entry, drawn as in the panels."""
    middle, end = at + np.array([10, 0]), at + np.array([20, 0])
    if kind in ("root", "split", "leaf"):
        draw_marks(axes, kind, middle, ROOM[0])
    elif kind in BARS:
        draw_bar(axes, at[0], BARS[kind][1], colour)
    elif kind == "draws":
        ends_D2 = at + np.stack([np.full(7, 16.0), np.linspace(3, -3, 7)], axis=1)
        draw_lines(axes, kind, np.stack([np.broadcast_to(at, ends_D2.shape), ends_D2], axis=1), ROOM, colour, "legend")
    else:
        line_ES2 = lines(at, end, waves=0 if kind == "ode" else 1.25)
        draw_lines(axes, kind, line_ES2, ROOM, colour, "legend")
        if kind == "pruned":
            draw_marks(axes, "cut", middle, ROOM[0])
