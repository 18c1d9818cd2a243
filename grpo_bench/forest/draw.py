"""A forest as text for the terminal, time from left to right; `picture` draws one for a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grpo_bench.forest.forest import Forest

MOST_ROWS = 36
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
    leaves_N = forest.leaf_count_N
    shape_N = _shapes(forest)
    drawn = _merge(forest, shape_N, leaves_N, 1)
    for limit in np.unique(leaves_N)[1:].tolist():
        if drawn.rows() <= most_rows:
            break
        drawn = _merge(forest, shape_N, leaves_N, limit)
    return drawn


def _shapes(forest: Forest) -> NDArray[np.int64]:
    """A number per node, equal where the edge and everything below it are equal."""
    numbers: dict[tuple[bool, bool, int, tuple[int, ...]], int] = {}
    shape_N = np.zeros(forest.nodes, dtype=np.int64)
    for node in range(forest.nodes - 1, -1, -1):
        below = tuple(shape_N[forest.children[node]].tolist())
        length = int(forest.depth_N[node] - forest.start_N[node])
        key = bool(forest.stochastic_N[node]), bool(forest.trained_N[node]), length, below
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
    leaves = sorted((node for node in nodes if not forest.child_count_N[node]), key=forest.first_leaf_N.__getitem__)
    line_of = {leaf: line for line, leaf in enumerate(leaves)}
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
        edge = "├" + _edge(drawn, child, width)
        lines[line][column : column + len(edge)] = edge
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
    forest = drawn.forest
    if forest.trained_N[node]:
        line = TRAINED
    else:
        line = UNTRAINED if forest.stochastic_N[node] else ODE
    count = f"×{drawn.copies[node]}" if drawn.copies[node] > 1 else ""
    length = int(forest.depth_N[node] - forest.start_N[node]) * width - 1
    return (count if len(count) < width - 1 else "").ljust(length, line)
