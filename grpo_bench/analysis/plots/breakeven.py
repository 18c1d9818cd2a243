"""Who leads at each price of a reward call and each cost of a backward pass, and in how many seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_bench.analysis.breakeven import Lead, break_even
from grpo_bench.analysis.plots.style import (
    LEFT,
    LINE,
    RIGHT,
    SMALL,
    WIDTH,
    Styles,
    amount,
    legend,
    legend_rows,
    page,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from grpo_bench.analysis.study import View

TITLE, CELL = 14.0, 18.0


@dataclass(frozen=True)
class BreakEven:
    """What the plot shows."""

    title: str
    leads: tuple[Lead, ...]


def collect(view: View) -> BreakEven | None:
    """The plot's numbers; None for fewer than two labels, or where no seed is common to all."""
    leads = break_even(view)
    return BreakEven(view.title, leads) if leads else None


def draw(data: BreakEven, styles: Styles) -> Figure:
    """A cell for each pair: the leader's colour, and the number of seeds in which it leads."""
    from matplotlib.patches import Rectangle

    prices = list(dict.fromkeys(lead.price for lead in data.leads))
    backwards = list(dict.fromkeys(lead.backward for lead in data.leads))
    labels = list(dict.fromkeys(lead.label for lead in data.leads))
    bottom = TITLE + CELL * len(backwards)
    drawn = page(bottom + 40 + LINE * legend_rows(labels))
    drawn.text(4, 7, data.title)
    axes = drawn.panel(LEFT, TITLE, WIDTH - LEFT - RIGHT, CELL * len(backwards))
    axes.grid(visible=False)
    for lead in data.leads:
        column, row = prices.index(lead.price), backwards.index(lead.backward)
        share = lead.led / lead.seeds
        face = styles[lead.label].colour
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=face, alpha=0.25 + 0.6 * share, edgecolor="white"))
        axes.text(column + 0.5, row + 0.5, f"{lead.led}/{lead.seeds}", ha="center", va="center", fontsize=SMALL)
    axes.set(xlim=(0, len(prices)), ylim=(0, len(backwards)))
    axes.set_xticks([at + 0.5 for at in range(len(prices))], [amount(price) for price in prices])
    axes.set_yticks([at + 0.5 for at in range(len(backwards))], [amount(cost) for cost in backwards])
    drawn.text(8, TITLE + CELL * len(backwards) / 2, "backward", turn=90, align="center")
    words = "price of a reward call, in network evaluations"
    drawn.text(LEFT + (WIDTH - LEFT) / 2, bottom + 16, words, align="center")
    legend(drawn, styles, labels, bottom + 29)
    drawn.foot("colour: the highest mean gold; numbers: in how many seeds it is the highest")
    return drawn.figure
