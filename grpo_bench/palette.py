"""One colour a method, in every picture: told apart with any colour vision, and dark enough for thin lines on white.

Labels that share a method share its colour and sign, and differ by dash and filling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from grpo_bench.builtin import LOOKS, OTHER_LOOKS, Look

KNOWN = tuple(LOOKS)
"""Names with a colour of their own."""


def method_colour(name: str) -> str:
    """The colour of a method, as #RRGGBB; it depends on the name alone, so that plugins keep theirs too."""
    return _look(name).colour


DASHES = ("solid", "dash", "dot", "dashdot")
"""Plotly's names; labels that share a method, and so its colour, take them in turn."""


@dataclass(frozen=True)
class Style:
    """How a label is drawn, in every plot and in the report."""

    colour: str
    """Its method's, as #RRGGBB."""
    dash: str
    """One of DASHES."""
    marker: str
    """Plotly's name of its method's sign."""
    hollow: bool
    """The sign is an outline, for all labels of a method but one."""


def label_styles(methods: Mapping[str, str]) -> dict[str, Style]:
    """A style for each label, given the method behind it: the method's colour and sign, told apart by dash and filling.

    The label that is the method's own name is the solid one; else the first in order. Give it all labels of a study at
    once, so that a label looks the same in each of its figures.
    """
    styles: dict[str, Style] = {}
    for method in dict.fromkeys(methods.values()):
        own = [label for label in methods if methods[label] == method]
        for place, label in enumerate(sorted(own, key=lambda label: label != method)):
            dash = DASHES[place % len(DASHES)]
            styles[label] = Style(method_colour(method), dash, _look(method).marker, hollow=place > 0)
    return {label: styles[label] for label in methods}


def _look(method: str) -> Look:
    colours, markers = OTHER_LOOKS
    digest = hashlib.sha256(method.encode()).digest()
    return LOOKS.get(method, Look(colours[digest[0] % len(colours)], markers[digest[1] % len(markers)]))


PHASE_COLOURS = {
    "plan": "#BBBBBB",
    "rollout": "#4477AA",
    "decode": "#88CCEE",
    "reward": "#CCBB44",
    "credit": "#777777",
    "train": "#AA3377",
}
"""Phases of the clock, in order; no method's colour."""

ROLE_COLOURS = {"rollout": PHASE_COLOURS["rollout"], "reference": "#88CCEE", "train": PHASE_COLOURS["train"]}
"""Network evaluations by role, those that a budget counts."""
