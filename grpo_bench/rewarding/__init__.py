"""What learned rewards share, public for rewards of others: published weights, pixels and tokens as the officials take.

The names load on first use, so that a list of rewards does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_bench.rewarding.blip import BlipJudge, load_blip
    from grpo_bench.rewarding.clip import ClipJudge, full_precision
    from grpo_bench.rewarding.head import linear_head
    from grpo_bench.rewarding.pixels import longest_side_padded, short_side_cropped
    from grpo_bench.rewarding.tokens import ClipTokens, Cut
    from grpo_bench.rewarding.weights import fill, find, find_folder, read_tensors

_HOMES = {
    "BlipJudge": "blip",
    "ClipJudge": "clip",
    "ClipTokens": "tokens",
    "Cut": "tokens",
    "fill": "weights",
    "find": "weights",
    "find_folder": "weights",
    "full_precision": "clip",
    "linear_head": "head",
    "load_blip": "blip",
    "longest_side_padded": "pixels",
    "read_tensors": "weights",
    "short_side_cropped": "pixels",
}

__all__ = [
    "BlipJudge",
    "ClipJudge",
    "ClipTokens",
    "Cut",
    "fill",
    "find",
    "find_folder",
    "full_precision",
    "linear_head",
    "load_blip",
    "longest_side_padded",
    "read_tensors",
    "short_side_cropped",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'grpo_bench.rewarding' has no attribute {name!r}")
    return getattr(importlib.import_module(f"grpo_bench.rewarding.{_HOMES[name]}"), name)
