"""Gold against the distance that the policy moved, and its components apart: a line a label through its points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.analysis.breakeven import shared_seeds
from grpo_bench.analysis.plots.style import (
    LEFT,
    LINE,
    QUIET,
    RIGHT,
    SMALL,
    WIDTH,
    Styles,
    legend,
    legend_rows,
    limits,
    number_ticks,
    page,
    sign,
    stroke,
)
from grpo_bench.config import parse_rewards

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from grpo_bench.analysis.study import Curve, View

TITLE, PANEL, GAP = 14.0, 70.0, 14.0
GRID = 12


@dataclass(frozen=True)
class Path:
    """One label: the mean over seeds of each score's gain where its seeds' distances are `distance`."""

    label: str
    seeds: int
    distance: tuple[float, ...]
    """Root of base_distance, from 0 to where the seed that moved least ends."""
    gains: dict[str, tuple[float, ...]]
    """By score: gold, then its components."""


@dataclass(frozen=True)
class Distances:
    """What the plot shows."""

    title: str
    scores: tuple[str, ...]
    paths: tuple[Path, ...]


def collect(view: View) -> Distances | None:
    """The plot's numbers over the seeds that all labels have; None where points have no distance.

    Between two points a seed's gain is linear in its distance; points nearer to the base than an earlier one are left
    out, since a gain is wanted for each distance.
    """
    seeds = shared_seeds(view) if view.labels else ()
    if not seeds or any("base_distance" not in curve.points for curve in view.curves):
        return None
    scores = ("gold", *gold_parts(view.curves[0], view.reward))
    paths = []
    for label in view.labels:
        runs = [curve for curve in view.of(label) if curve.seed in seeds]
        moved = [np.sqrt(np.maximum(run.column("base_distance"), 0)) for run in runs]
        ahead = [np.concatenate([[True], one[1:] > np.maximum.accumulate(one)[:-1]]) for one in moved]
        grid = np.linspace(0, min(float(one.max()) for one in moved), GRID)
        gains = {
            score: tuple(
                np.mean(
                    [
                        np.interp(grid, one[kept], run.column(score)[kept] - run.column(score)[0])
                        for run, one, kept in zip(runs, moved, ahead, strict=True)
                    ],
                    axis=0,
                ).tolist()
            )
            for score in scores
        }
        paths.append(Path(label, len(runs), tuple(grid.tolist()), gains))
    return Distances(view.title, scores, tuple(paths))


def gold_parts(curve: Curve, reward: str) -> tuple[str, ...]:
    """Columns of gold's components: every reward's but gold's own and those of what was trained on."""
    trained = {f"reward/{name}" for name in parse_rewards(reward)}
    scores = [name for name in curve.points.columns if name.startswith("reward/") and name not in trained]
    return tuple(name for name in scores if not np.array_equal(curve.column(name), curve.gold))


def draw(data: Distances, styles: Styles) -> Figure:
    """A panel a score, one below the other, to one scale of distance."""
    labels = [path.label for path in data.paths]
    bottom = TITLE + len(data.scores) * (PANEL + GAP)
    drawn = page(bottom + 34 + LINE * legend_rows(labels))
    drawn.text(4, 7, data.title)
    end = max(path.distance[-1] for path in data.paths)
    for place, score in enumerate(data.scores):
        top = TITLE + 8 + place * (PANEL + GAP)
        axes = drawn.panel(LEFT, top, WIDTH - LEFT - RIGHT, PANEL)
        axes.axhline(0, color=QUIET, linewidth=0.6, zorder=1)
        for path in data.paths:
            stroke(axes, path.distance, path.gains[score], styles[path.label])
            sign(axes, [path.distance[-1]], [path.gains[score][-1]], styles[path.label])
        axes.set(xlim=(0, 1.04 * end), ylim=limits([gain for path in data.paths for gain in path.gains[score]]))
        axes.tick_params(labelbottom=place == len(data.scores) - 1)
        number_ticks(axes, "x", 5)
        number_ticks(axes, "y", 4)
        drawn.text(LEFT + 2, top - 4, score.removeprefix("reward/"), size=SMALL)
    drawn.text(8, TITLE + (bottom - TITLE) / 2, "gain", turn=90, align="center")
    words = "root mean square change of the velocity"
    drawn.text(LEFT + (WIDTH - LEFT) / 2, bottom + 12, words, align="center")
    legend(drawn, styles, labels, bottom + 25)
    drawn.foot(f"means over {data.paths[0].seeds} seeds; the sign where the first of them ends")
    return drawn.figure
