"""The built-in plugins that the rest of the code knows by name: defaults, the baseline, and how methods are drawn.

Nowhere else does it name a method, a reward or a model family, but in the identities that `check` holds methods to.
"""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_METHOD, DEFAULT_REWARD, DEFAULT_WORKLOAD, DEFAULT_POLICY = "tree", "shapes", "shapes", "sd3"
BASELINE = "flat"
"""Compared with where nobody names another."""
EXACT_WORKLOAD = "gaussian"
"""The one whose moments and gradient are known exactly; `check` plays methods on it."""
PREFERENCE = "shapes-pref"
"""The shipped learned proxy, which `pretrain` makes again beside the workloads' models."""


class Look(NamedTuple):
    """How a method is drawn in every picture."""

    colour: str
    """#RRGGBB."""
    marker: str
    """Plotly's name."""


# Okabe and Ito's and Paul Tol's colours. For normal, protan, deutan and tritan vision any two are at least 0.065 apart
# in OKLab (a just visible difference is about 0.02). Where lines cross, give them markers or dashes of their own too.
LOOKS = {
    "flat": Look("#0072B2", "circle"),
    "mix": Look("#56B4E9", "square"),
    "tree": Look("#009E73", "triangle-up"),
    "branch": Look("#D55E00", "diamond"),
    "branch-mix": Look("#7A4B00", "triangle-down"),
    "tempflow": Look("#882255", "cross"),
    "ddpo": Look("#332288", "triangle-left"),
    "guard": Look("#E69F00", "triangle-right"),
    "nft": Look("#B5338A", "x"),
}
OTHER_LOOKS = (("#CC79A7", "#117733", "#999933", "#6699CC", "#666666"), ("pentagon", "hexagon", "star"))
"""Colours and markers of all other methods, by a digest of their names."""
