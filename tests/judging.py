"""A claim about what `write_study` makes, and its verdict."""

from __future__ import annotations

from pathlib import Path

from grpo_bench.analysis.claims import Claim, Judged, judge
from grpo_bench.analysis.study import studies


def claim(**over: object) -> Claim:
    """A claim that binds on what `write_study` makes, unless told otherwise."""
    table = {
        "id": "a-claim", "metric": "gold", "method": "tree", "baseline": "flat", "relation": "greater", "value": 0.0,
        "protocol": "controlled", "tier": "tiny", "text": "Tree is ahead", "source": "nobody",
    }  # fmt: skip
    return Claim.model_validate(table | over)


def judged(folder: Path, **over: object) -> Judged:
    """The verdict on that claim by what a folder holds."""
    (found,) = judge([claim(**over)], studies(folder))
    return found
