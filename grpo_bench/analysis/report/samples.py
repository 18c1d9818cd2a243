"""A short piece of each label's line with its sign on it, as SVG, for legends and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grpo_bench.analysis.report.figures import ink_classes
from grpo_bench.palette import Style

_DASHES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}
SIGNS = {
    "circle": "M9 5a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "square": "M9.5 1.5h7v7h-7z",
    "triangle-up": "M13 .8l4.4 7.8H8.6z",
    "triangle-down": "M13 9.2L8.6 1.4h8.8z",
    "triangle-left": "M8.8 5L16.6 .6v8.8z",
    "triangle-right": "M17.2 5L9.4 .6v8.8z",
    "diamond": "M13 .2L17.8 5L13 9.8L8.2 5z",
    "cross": "M11.6 1h2.8v2.6H17v2.8h-2.6V9h-2.8V6.4H9V3.6h2.6z",
    "x": "M10.3 1L13 3.6L15.7 1l1.5 1.5L14.5 5l2.7 2.5L15.7 9L13 6.4L10.3 9L8.8 7.5L11.5 5L8.8 2.5z",
    "pentagon": "M13 .8l4.2 3.1l-1.6 4.9h-5.2L8.8 3.9z",
    "hexagon": "M9 5l2-3.6h4L17 5l-2 3.6h-4z",
    "star": "M13 .4l1.3 3l3.3 .3l-2.5 2.2l.8 3.3L13 7.5l-2.9 1.7l.8-3.3L8.4 3.7l3.3-.3z",
}
"""Outline of each of the palette's signs, about (13, 5)."""


@dataclass(frozen=True)
class Sample:
    """What sets a label's line apart."""

    ink: str
    """The class that has its colour."""
    dashes: str
    sign: str
    """Outline of its sign."""
    hollow: bool


def samples(drawn: Mapping[str, Style]) -> dict[str, Sample]:
    """One sample a label."""
    inks = ink_classes(drawn)
    return {
        label: Sample(inks[label], _DASHES[style.dash], SIGNS[style.marker], style.hollow)
        for label, style in drawn.items()
    }
