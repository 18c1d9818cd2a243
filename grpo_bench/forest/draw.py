"""Pictures of a forest, time from left to right: `draw_text` for the terminal and `draw_png` for a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grpo_bench.forest.forest import Forest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 36
MOST_LEAVES = 64
MARGIN = 7

TRAINED, UNTRAINED, ODE = "━", "─", "┄"
LEGEND = {
    TRAINED: "stochastic, trained",
    UNTRAINED: "stochastic, untrained",
    ODE: "deterministic",
    "<": "equal branches",
    "◆": "image",
}


@dataclass(frozen=True)
class _Drawn:
    """A forest thinned for display: which nodes are drawn, and for how many identical siblings each one stands."""

    forest: Forest
    copies: dict[int, int]
    """Drawn node -> identical siblings it stands for (1: itself)."""

    def children(self, node: int) -> list[int]:
        """The drawn children of a drawn node."""
        return [child for child in self.forest.children[node].tolist() if child in self.copies]

    def rows(self) -> int:
        """The number of drawn leaves, one line of text each."""
        return sum(leaf in self.copies for leaf in self.forest.leaves_L.tolist())


def draw_text(forest: Forest) -> str:
    """The forest as lines of Unicode text: a column a step, a row a leaf, identical branches drawn once with a count.

    The last column is the number of images that a row stands for; it adds up to the images of one prompt. A forest
    whose branches all differ is cut in the middle. No line ends in a newline.
    """
    drawn = _thin(forest, MOST_ROWS)
    width = max(2, min(7, 80 // forest.steps))
    rows = _rows(drawn, width)
    if len(rows) > MOST_ROWS:
        head, tail = rows[: MOST_ROWS - 6], rows[-5:]
        rows = [*head, f"{'⋮':>9} {len(rows) - len(head) - len(tail)} more rows", *tail]
    used = set("".join(rows))
    legend = "   ".join(f"{symbol} {meaning}" for symbol, meaning in LEGEND.items() if symbol in used)
    return "\n".join([*_header(forest, width), *rows, "", legend])


def _thin(forest: Forest, most_rows: int) -> _Drawn:
    """Merge equal roots and equal single-leaf siblings; then, while there are too many rows, larger equal subtrees."""
    leaves_N = forest.descendant_NL.sum(axis=1)
    shape_N = _shapes(forest)
    drawn = _merge(forest, shape_N, leaves_N, 1)
    for limit in np.unique(leaves_N)[1:].tolist():
        if drawn.rows() <= most_rows:
            break
        drawn = _merge(forest, shape_N, leaves_N, limit)
    return drawn


def _shapes(forest: Forest) -> NDArray[np.int64]:
    """A number per node, equal where the edge and everything below it are equal."""
    numbers: dict[tuple[bool, bool, tuple[int, ...]], int] = {}
    shape_N = np.zeros(forest.nodes, dtype=np.int64)
    for node in range(forest.nodes - 1, -1, -1):
        below = tuple(shape_N[forest.children[node]].tolist())
        key = bool(forest.stochastic_N[node]), bool(forest.trained_N[node]), below
        shape_N[node] = numbers.setdefault(key, len(numbers))
    return shape_N


def _merge(forest: Forest, shape_N: NDArray[np.int64], leaves_N: NDArray[np.int64], limit: int) -> _Drawn:
    """Draw the first of consecutive equal siblings with at most `limit` leaves each, and of equal roots."""
    copies: dict[int, int] = {}
    families = [np.arange(forest.roots)]
    while families:
        first = -1
        family = families.pop()
        for node in family.tolist():
            small = family[0] < forest.roots or leaves_N[node] <= limit
            if first >= 0 and small and shape_N[node] == shape_N[first]:
                copies[first] += 1
                continue
            first = node
            copies[node] = 1
            if forest.child_count_N[node]:
                families.append(forest.children[node])
    return _Drawn(forest, copies)


def _header(forest: Forest, width: int) -> list[str]:
    """The step numbers over the edges, where there is room the noise levels under them, and the images' column."""
    every = 1 if width > 2 else 5
    steps = "".join(f"{step if step % every == 0 else '':<{width}}" for step in range(forest.steps))
    lines = [f"{'step':<{MARGIN}} {steps} images"]
    if width >= 5:
        lines.append(f"{'sigma':<{MARGIN}}" + "".join(f"{sigma:<{width}.3g}" for sigma in forest.sigmas.round(3)))
    return [line.rstrip() for line in lines]


def _rows(drawn: _Drawn, width: int) -> list[str]:
    """One string a drawn leaf, from the top; a parent stands in the line of its first child."""
    forest, nodes = drawn.forest, sorted(drawn.copies)
    # Breadth-first leaves are also the leaves from top to bottom.
    line_of = {leaf: line for line, leaf in enumerate(node for node in nodes if not forest.child_count_N[node])}
    lines = [[" "] * (MARGIN + forest.steps * width + 1) for _ in line_of]
    for node in reversed(nodes):
        children = drawn.children(node)
        if children:
            line_of[node] = line_of[children[0]]
            _place(drawn, node, [(child, line_of[child]) for child in children], lines, width)
    images = {-1: 1}
    for node in nodes:
        images[node] = images[int(forest.parent_N[node])] * drawn.copies[node]
        if not forest.child_count_N[node]:
            lines[line_of[node]][-1:] = ["◆", f"{images[node]:>7}"]
    for root in range(forest.roots):
        if root in drawn.copies:
            mark = "●" if drawn.copies[root] == 1 else f"{drawn.copies[root]} × ●"
            lines[line_of[root]][:MARGIN] = f"{mark:>{MARGIN}}"
    return ["".join(line) for line in lines]


def _place(drawn: _Drawn, node: int, children: list[tuple[int, int]], lines: list[list[str]], width: int) -> None:
    """Draw a parent and the edges to its children, given as (child, line), the first one in the parent's own line."""
    column = MARGIN + int(drawn.forest.depth_N[node]) * width
    top, bottom = children[0][1], children[-1][1]
    for line in range(top, bottom):
        lines[line][column] = "│"
    for child, line in children:
        lines[line][column : column + width] = "├" + _edge(drawn, child, width)
    lines[bottom][column] = "└"
    if len(children) > 1:
        lines[top][column] = "┬"
    elif drawn.forest.child_count_N[node] > 1:
        lines[top][column] = "<"
    else:
        # A root's mark is already to the left of its place.
        lines[top][column] = "•" if drawn.forest.depth_N[node] else _edge(drawn, children[0][0], width)[-1]


def _edge(drawn: _Drawn, node: int, width: int) -> str:
    """The edge into a drawn node, with its count of identical siblings where there is room for it."""
    if drawn.forest.trained_N[node]:
        line = TRAINED
    else:
        line = UNTRAINED if drawn.forest.stochastic_N[node] else ODE
    count = f"×{drawn.copies[node]}" if drawn.copies[node] > 1 else ""
    return (count if len(count) < width - 1 else "").ljust(width - 1, line)


def draw_png(forest: Forest, path: Path | str, title: str) -> None:
    """Write the forest as a PNG (1400 pixels wide), its costs per prompt under the title.

    Equal roots are drawn once, with their number, when there would be more than 64 leaves.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    copies = _equal_roots(forest) if forest.images > MOST_LEAVES else 1
    shown_N = np.flatnonzero(_root_of(forest) < forest.roots // copies)
    leaves = forest.images // copies
    height = min(9.0, 1.6 + 0.085 * max(leaves, 12))
    figure = Figure(figsize=(7.0, height), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.055, 0.75 / height, 0.93, 1 - 1.35 / height))
    _draw_edges(axes, forest, shown_N)
    _finish(axes, forest, copies)
    figure.text(0.03, 1 - 0.1 / height, title, va="top", ha="left", fontsize=11, fontweight="bold")
    figure.text(0.03, 1 - 0.33 / height, _caption(forest, copies), va="top", ha="left", fontsize=8, color="#444444")
    figure.legend(
        loc="lower left",
        bbox_to_anchor=(0.02, 0.0),
        ncols=5,
        fontsize=8,
        frameon=False,
        handlelength=2,
        columnspacing=1.6,
    )
    figure.savefig(path, format="png")


def _caption(forest: Forest, copies: int) -> str:
    """The costs in words."""
    cost = (
        f"per prompt: {forest.rollout_nfe} evaluations to roll out, {forest.train_nfe} to train, "
        f"{forest.trained_edges} trained edges, {forest.images} images"
    )
    return cost + (f"; drawn: one of {copies} equal trees" if copies > 1 else "")


def _equal_roots(forest: Forest) -> int:
    """The number of roots if all their trees are equal, else 1."""
    return forest.roots if np.unique(_shapes(forest)[: forest.roots]).size == 1 else 1


def _root_of(forest: Forest) -> NDArray[np.int64]:
    """The number of each node's root."""
    root_N = np.arange(forest.nodes)
    root_N[forest.path_LD] = forest.path_LD[:, :1]
    return root_N


def _heights(forest: Forest) -> NDArray[np.float64]:
    """Each node at the middle of its leaves, leaves one apart from the top down."""
    last_N = forest.images - 1 - np.argmax(forest.descendant_NL[:, ::-1], axis=1)
    heights_N: NDArray[np.float64] = -(np.argmax(forest.descendant_NL, axis=1) + last_N) / 2
    return heights_N


def _draw_edges(axes: Axes, forest: Forest, shown_N: NDArray[np.int64]) -> None:
    """Edges by kind, the trained ones on top, then nodes and images."""
    from matplotlib.collections import LineCollection

    point_N2 = np.stack([forest.depth_N.astype(np.float64), _heights(forest)], axis=1)
    edges = shown_N[forest.parent_N[shown_N] >= 0]
    trained, noisy = forest.trained_N[edges], forest.stochastic_N[edges]
    kinds = (
        (~noisy, "deterministic", "#8c8c8c", 0.8, (0, (3, 2))),
        (noisy & ~trained, "stochastic, untrained", "#8ec1e3", 1.3, "solid"),
        (trained, "stochastic, trained", "#d1411e", 1.6, "solid"),
    )
    for chosen, label, colour, width, style in kinds:
        if chosen.any():
            ends = np.stack([point_N2[forest.parent_N[edges[chosen]]], point_N2[edges[chosen]]], axis=1)
            axes.add_collection(
                LineCollection(list(ends), colors=colour, linewidths=width, linestyles=style, label=label)
            )
    inner = shown_N[forest.depth_N[shown_N] < forest.steps]
    leaves = shown_N[forest.depth_N[shown_N] == forest.steps]
    axes.plot(*point_N2[inner].T, "o", color="#222222", markersize=2.2, label="evaluation", zorder=3)
    axes.plot(*point_N2[leaves].T, "s", color="#222222", markersize=3.2, label="image", zorder=3)


def _finish(axes: Axes, forest: Forest, copies: int) -> None:
    """A time axis with steps and noise levels, and nothing else."""
    every = max(1, forest.steps // 20)
    ticks = np.arange(0, forest.steps + 1, every)
    axes.set_xticks(ticks, [f"{tick}\n{round(forest.sigmas[tick], 3):.2g}" for tick in ticks], fontsize=7)
    axes.set_xlim(-0.4, forest.steps + 0.4)
    axes.set_ylim(-forest.images / copies + 0.2, 0.8)
    axes.set_yticks([])
    axes.tick_params(length=2, color="#888888")
    axes.annotate(
        "step\nsigma",
        (0, 0),
        (-4, -5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=7,
        ha="right",
        va="top",
    )
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#888888")
