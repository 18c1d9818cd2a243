"""One colour a method, in every picture: told apart with any colour vision, and dark enough for thin lines on white.

Labels that share a method share its colour and sign, and differ by dash and filling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

# Okabe and Ito's and Paul Tol's colours. For normal, protan, deutan and tritan vision any two are at least 0.065 apart
# in OKLab (a just visible difference is about 0.02). Where lines cross, give them markers or dashes of their own too.
_KNOWN = {
    "flat": "#0072B2",
    "mix": "#56B4E9",
    "tree": "#009E73",
    "branch": "#D55E00",
    "branch-mix": "#7A4B00",
    "tempflow": "#882255",
    "ddpo": "#332288",
    "guard": "#E69F00",
    "nft": "#B5338A",
}
_OTHERS = ("#CC79A7", "#117733", "#999933", "#6699CC", "#666666")

KNOWN = tuple(_KNOWN)
"""Names with a colour of their own."""


def method_colour(name: str) -> str:
    """The colour of a method, as #RRGGBB; it depends on the name alone, so that plugins keep theirs too."""
    digest = hashlib.sha256(name.encode()).digest()
    return _KNOWN.get(name, _OTHERS[digest[0] % len(_OTHERS)])


DASHES = ("solid", "dash", "dot", "dashdot")
"""Plotly's names; labels that share a method, and so its colour, take them in turn."""

_MARKERS = {
    "flat": "circle",
    "mix": "square",
    "tree": "triangle-up",
    "branch": "diamond",
    "branch-mix": "triangle-down",
    "tempflow": "cross",
    "ddpo": "triangle-left",
    "guard": "triangle-right",
    "nft": "x",
}
_OTHER_MARKERS = ("pentagon", "hexagon", "star")


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
            styles[label] = Style(method_colour(method), dash, _marker(method), hollow=place > 0)
    return {label: styles[label] for label in methods}


def _marker(method: str) -> str:
    digest = hashlib.sha256(method.encode()).digest()
    return _MARKERS.get(method, _OTHER_MARKERS[digest[1] % len(_OTHER_MARKERS)])


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
