"""Where the reward is decided, beside where each method trains and how TempFlow-like weights fall."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.analysis.diagnosis import label_figures, potential_shares
from grpo_bench.analysis.plots.style import (
    DASHES,
    INK,
    LEFT,
    LINE,
    QUIET,
    RIGHT,
    SMALL,
    WIDTH,
    Styles,
    legend,
    legend_rows,
    number_ticks,
    page,
    stroke,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from grpo_bench.store.diagnosis import Diagnosis

TITLE, UPPER, LOWER, BETWEEN = 14.0, 84.0, 64.0, 16.0


@dataclass(frozen=True)
class Course:
    """A reward's or component's share decided from each grid point on, with standard errors."""

    name: str
    sigma: tuple[float, ...]
    share: tuple[float, ...]
    error: tuple[float, ...]


@dataclass(frozen=True)
class Trained:
    """At each step, by the sigma that it starts from: a label's share of trained edges, and that times its weight."""

    label: str
    sigma: tuple[float, ...]
    share: tuple[float, ...]
    weighted: tuple[float, ...]
    """The weighted shares, which sum to one as well; equal to `share` for a label without weights."""


@dataclass(frozen=True)
class Potential:
    """What the plot shows."""

    title: str
    courses: tuple[Course, ...]
    trained: tuple[Trained, ...]


def collect(diagnosis: Diagnosis) -> Potential | None:
    """The plot's numbers, at the first policy whose potential was measured; None where none was."""
    policy = next((one for one in diagnosis.policies if one.potential is not None), None)
    if policy is None or policy.potential is None:
        return None
    points = potential_shares(policy.potential)
    courses = [
        Course(
            name,
            tuple(point.sigma for point in points),
            tuple(point.by_reward[name].value for point in points),
            tuple(point.by_reward[name].error for point in points),
        )
        for name in policy.potential.within
    ]
    trained = []
    for one in label_figures(policy):
        weighted = np.array(one.share_T) * np.array(one.weight_T)
        total = max(float(weighted.sum()), 1e-12)
        trained.append(Trained(one.label, policy.sigmas[:-1], one.share_T, tuple((weighted / total).tolist())))
    kernel = f"{policy.potential.kernel} {policy.potential.noise:g}"
    return Potential(f"{diagnosis.workload} at {policy.name}, {kernel}", tuple(courses), tuple(trained))


def draw(data: Potential, styles: Styles) -> Figure:
    """Above: shares by sigma, from noise on the left. Below: each label's trained steps, dotted where weighted."""
    labels = [one.label for one in data.trained]
    bottom = TITLE + UPPER + BETWEEN + LOWER
    drawn = page(bottom + 40 + LINE * (legend_rows(labels) if labels else 0))
    drawn.text(4, 7, data.title)
    upper = drawn.panel(LEFT, TITLE, WIDTH - LEFT - RIGHT, UPPER)
    for place, course in enumerate(data.courses):
        upper.errorbar(
            course.sigma, course.share, yerr=course.error, color=INK if place == 0 else QUIET,
            linestyle=DASHES[place % len(DASHES)], linewidth=1.0, elinewidth=0.5, marker=".", markersize=3,
            label=course.name,
        )  # fmt: skip
    upper.legend(fontsize=SMALL, frameon=False, loc="upper right")
    finite = [share for course in data.courses for share in course.share if math.isfinite(share)]
    upper.set(xlim=(1.02, -0.02), ylim=(0, max([1.0, *finite]) * 1.03))
    upper.tick_params(labelbottom=False)
    number_ticks(upper, "y", 5)
    lower = drawn.panel(LEFT, TITLE + UPPER + BETWEEN, WIDTH - LEFT - RIGHT, LOWER)
    for one in data.trained:
        stroke(lower, one.sigma, one.share, styles[one.label])
        if not np.allclose(one.share, one.weighted, atol=1e-3):
            lower.plot(one.sigma, one.weighted, color=styles[one.label].colour, linestyle=":", linewidth=0.9)
    lower.set(xlim=(1.02, -0.02))
    lower.set_ylim(bottom=0)
    number_ticks(lower, "x", 6)
    number_ticks(lower, "y", 4)
    drawn.text(8, TITLE + UPPER / 2, "decided later", turn=90, align="center")
    drawn.text(8, TITLE + UPPER + BETWEEN + LOWER / 2, "trained", turn=90, align="center")
    drawn.text(LEFT + (WIDTH - LEFT) / 2, bottom + 16, "sigma", align="center")
    if labels:
        legend(drawn, styles, labels, bottom + 29)
    drawn.foot("bars: one standard error over prompts; dotted: times the loss's weights")
    return drawn.figure
