"""Forests as a PNG, one panel a method: noise on the left, images on the right, one column a step.

Noise is a wave, a deterministic step a straight line; what is trained is strong and in the method's colour, what is
not is thin and grey; what pruning drops is dashed, crossed where it is cut. Drawn in points, on one pair of axes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grpo_bench.forest.layout import Layout, edges, fans, place
from grpo_bench.forest.sketch import Sketch
from grpo_bench.forest.strokes import BAND, BARS, INK, KINDS, QUIET, draw_bar, draw_lines, draw_marks, draw_sign
from grpo_bench.metering.ledger import TRAIN_WEIGHT
from grpo_bench.palette import method_colour
from grpo_bench.store.atomic import output_file, write_bytes
from grpo_bench.store.names import clean_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 200
BORDER, GUTTER, TITLE, STEPS, LINE, GAP = 9.0, 14.0, 17.0, 11.0, 10.0, 16.0
FAN = 16.0


@dataclass(frozen=True)
class _Page:
    """Sizes in points: panels left to right, then down, with lines of text and perhaps a bar below each."""

    columns: int
    panel_width: float
    plot_height: float
    row_lines: tuple[int, ...]
    fan: float

    @property
    def bars(self) -> bool:
        return self.columns > 1

    @property
    def row_tops(self) -> list[float]:
        """Distance of each row of panels from the first one's top, and the last row's end."""
        tops = [0.0]
        for lines_ in self.row_lines:
            tops.append(tops[-1] + TITLE + self.plot_height + STEPS + LINE * (lines_ + self.bars) + GAP)
        return tops

    @property
    def width(self) -> float:
        return self.columns * self.panel_width + (self.columns + 1) * BORDER

    @property
    def plot_width(self) -> float:
        return self.panel_width - 2 * GUTTER - self.fan


def draw_png(sketches: Sequence[Sketch], path: Path) -> None:
    """Write the forests side by side as a PNG of 200 dots an inch, 1400 pixels wide for up to four of them.

    Raises:
        UserError: the disk refuses.
    """
    from PIL import Image

    path = output_file(path)
    drawn, small = io.BytesIO(), io.BytesIO()
    forest_figure(sketches).savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        # Few colours need few bytes: a quarter, to the eye the same.
        few = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(small, format="png", optimize=True)
    write_bytes(path, small.getvalue(), "the picture")


def forest_figure(sketches: Sequence[Sketch]) -> Figure:
    """The picture as a matplotlib figure without a window.

    The lines of panel i and of one of `strokes.KINDS` are a collection whose gid is `i/kind`, one segment an edge.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = _page(sketches)
    entries = _legend_entries(sketches)
    legend = LINE * 1.2 * (-(-len(entries) // _entries_a_row(page))) + BORDER
    height = BORDER + page.row_tops[-1] + legend
    figure = Figure(figsize=(page.width / 72, height / 72), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, page.width), ylim=(0, height))
    axes.set_axis_off()
    for index in range(len(sketches)):
        row, column = divmod(index, page.columns)
        left = BORDER + column * (page.panel_width + BORDER)
        _panel(axes, page, sketches, index, np.array([left, height - BORDER - page.row_tops[row]]))
    colour = method_colour(sketches[0].name) if len(sketches) == 1 else INK
    _legend(axes, entries, page, legend, colour)
    return figure


def _page(sketches: Sequence[Sketch]) -> _Page:
    columns = 1 if len(sketches) == 1 else 2 if len(sketches) <= 4 else 3
    fan = FAN if any(sketch.draws for sketch in sketches) else 0.0
    texts = [len(_counts(sketch, brief=columns > 1)) for sketch in sketches]
    row_lines = tuple(max(texts[first : first + columns]) for first in range(0, len(texts), columns))
    if columns == 1:
        height = float(np.clip(8.5 * sketches[0].forest.images, 110, 430))
        return _Page(1, 504 - 2 * BORDER, height, row_lines, fan)
    width = (504 if columns == 2 else 720) - (columns + 1) * BORDER
    return _Page(columns, width / columns, 172, row_lines, fan)


def _panel(axes: Axes, page: _Page, sketches: Sequence[Sketch], index: int, corner: NDArray[np.float64]) -> None:
    """One method, its upper left corner given: name, columns, forest, counts and the bar of what it costs."""
    sketch, (left, top) = sketches[index], corner
    colour = method_colour(sketch.name)
    name = clean_text(sketch.title or sketch.name, 40)
    axes.text(left, top - 9, name, color=colour, fontsize=10.5, fontweight="bold", va="center", parse_math=False)
    origin = np.array([left + GUTTER, top - TITLE - page.plot_height])
    _columns(axes, page, sketch, origin)
    layout = place(sketch.forest, page.plot_width, page.plot_height)
    _draw_edges(axes, sketch, layout, origin, f"{index}/")
    _draw_nodes(axes, sketch, layout, origin)
    line = origin[1] - STEPS - LINE / 2
    if page.bars:
        _bar(axes, page, sketches, index, np.array([left, line]))
        line -= LINE
    for row, text in enumerate(_counts(sketch, brief=page.columns > 1)):
        axes.text(left, line - LINE * row, text, fontsize=7, color=INK if row == 0 else QUIET, va="center")


def _columns(axes: Axes, page: _Page, sketch: Sketch, origin: NDArray[np.float64]) -> None:
    """A band every other step, the steps' numbers below, and which end is which."""
    from matplotlib.patches import Rectangle

    forest = sketch.forest
    wide, every = page.plot_width / forest.steps, 1
    while wide * every < (7 if forest.steps <= 10 else 12):
        every *= 5 if every == 1 else 2
    for step in range(forest.steps):
        x = origin[0] + step * wide
        if step % 2 == 0 and wide >= 4:
            axes.add_patch(Rectangle((x, origin[1]), wide, page.plot_height, facecolor=BAND, linewidth=0, zorder=0))
        if step % every == 0:
            axes.text(x + wide / 2, origin[1] - 6, str(step), fontsize=6.5, color=QUIET, ha="center", va="center")
    axes.text(origin[0], origin[1] - 6, "step", fontsize=6.5, color=QUIET, ha="right", va="center")
    middle = origin[1] + page.plot_height / 2
    right = origin[0] + page.plot_width + (FAN if sketch.draws else 0) + 7
    for x, word in ((origin[0] - 7, "noise"), (right, "images")):
        axes.text(x, middle, word, fontsize=6.5, color=QUIET, rotation=90, ha="center", va="center")


def _kinds(sketch: Sketch) -> dict[str, NDArray[np.int64]]:
    """The edges of every kind that the forest has, by their nodes."""
    forest = sketch.forest
    masks = {
        "ode": (forest.parent_N >= 0) & ~forest.stochastic_N,
        "untrained": forest.stochastic_N & ~forest.trained_N,
        "pruned": sketch.pruned_N,
        "trained": sketch.kept_N,
    }
    return {kind: np.flatnonzero(mask_N) for kind, mask_N in masks.items() if mask_N.any()}


def _draw_edges(axes: Axes, sketch: Sketch, layout: Layout, origin: NDArray[np.float64], gid: str) -> None:
    forest, colour = sketch.forest, method_colour(sketch.name)
    leaves_N = forest.leaf_count_N
    for kind, nodes_E in _kinds(sketch).items():
        lines_ES2 = edges(layout, forest, nodes_E, waves=kind != "ode") + origin
        # An edge that stands for many images, such as a trunk, has the room to be thick.
        images_E = leaves_N[nodes_E] if kind == "ode" else np.ones(nodes_E.size, dtype=np.int64)
        room_E = layout.spacing * images_E.astype(np.float64)
        draw_lines(axes, kind, lines_ES2, room_E, colour, gid + kind)
    if sketch.draws:
        rays_D22 = fans(layout, forest, sketch.draws, FAN - 4) + origin
        draw_lines(axes, "draws", rays_D22, np.full(len(rays_D22), layout.spacing), colour, gid + "draws")


def _draw_nodes(axes: Axes, sketch: Sketch, layout: Layout, origin: NDArray[np.float64]) -> None:
    """Roots, splits and images, and a cross where pruning cuts."""
    forest, point_N2 = sketch.forest, layout.point_N2 + origin
    cut_N = sketch.pruned_N & ~sketch.pruned_N[forest.parent_N]
    marks = {
        "leaf": point_N2[forest.leaves_L],
        "split": point_N2[forest.child_count_N > 1],
        "root": point_N2[: forest.roots],
        "cut": (point_N2[cut_N] + point_N2[forest.parent_N[cut_N]]) / 2,
    }
    for kind, point_M2 in marks.items():
        draw_marks(axes, kind, point_M2, layout.spacing)


def _counts(sketch: Sketch, *, brief: bool) -> list[str]:
    """The costs per prompt in words, short enough for the panel."""
    forest = sketch.forest
    draws = f", {sketch.draws} forward draws a leaf" if sketch.draws else ""
    frozen = f" + {sketch.reference_nfe:,} reference" if sketch.frozen else ""
    evaluations = f"{forest.rollout_nfe:,} rollout + {sketch.train_nfe:,} training{frozen} evaluations"
    made = f"{forest.trained_edges:,} trained edges, {forest.images:,} images{draws}"
    said = [evaluations, made] if brief else [f"per prompt: {evaluations}, {made}"]
    if sketch.prunes:
        left = f"{sketch.kept_train_nfe:,} training evaluations, {sketch.kept_edges:,} edges"
        said.append(f"after pruning: {left}")
    return said


def _bar(axes: Axes, page: _Page, sketches: Sequence[Sketch], index: int, start: NDArray[np.float64]) -> None:
    """What the forest costs beside the dearest one."""
    sketch, first = sketches[index], sketches[0]
    scale = 0.56 * page.panel_width / max(other.nfe for other in sketches)
    parts = (sketch.forest.rollout_nfe, sketch.reference_nfe, TRAIN_WEIGHT * sketch.train_nfe)
    draw_bar(axes, start, [part * scale for part in parts], method_colour(sketch.name))
    beside = f" = {sketch.nfe / first.nfe:.2f} x {clean_text(first.name, 20)}" if index else ""
    axes.text(
        start[0] + sketch.nfe * scale + 4, start[1], f"nfe {sketch.nfe:,}{beside}", fontsize=7, color=INK, va="center",
        fontweight="bold", parse_math=False,
    )  # fmt: skip


def _legend_entries(sketches: Sequence[Sketch]) -> list[tuple[str, str]]:
    """(kind, words) of what occurs in any panel."""
    found = {kind for sketch in sketches for kind in _kinds(sketch)}
    found |= {"draws" for sketch in sketches if sketch.draws}
    entries = [(kind, words) for kind, words in reversed(KINDS.items()) if kind in found]
    splits = any(sketch.forest.child_count_N.max() > 1 for sketch in sketches)
    entries += [("root", "initial noise"), *([("split", "split")] if splits else []), ("leaf", "image")]
    if len(sketches) == 1:
        return entries
    frozen = any(sketch.frozen for sketch in sketches)
    return entries + [(part, words) for part, (words, _) in BARS.items() if frozen or part != "reference"]


def _entries_a_row(page: _Page) -> int:
    return max(1, int((page.width - 2 * BORDER) // 160))


def _legend(axes: Axes, entries: Sequence[tuple[str, str]], page: _Page, top: float, colour: str) -> None:
    """The signs once, in rows below the panels."""
    a_row = _entries_a_row(page)
    for index, (kind, words) in enumerate(entries):
        row, column = divmod(index, a_row)
        x, y = BORDER + column * (page.width - BORDER) / a_row, top - LINE * 1.2 * (row + 0.5)
        axes.text(x + 25, y, words, fontsize=7, color=INK, va="center")
        draw_sign(axes, kind, np.array([[x, y]]), colour)
