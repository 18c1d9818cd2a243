"""One colour a method, in every picture: told apart with any colour vision, and dark enough for thin lines on white."""

from __future__ import annotations

import hashlib

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
