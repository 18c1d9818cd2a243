"""The built-in models by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_bench.workloads.pretraining.making import Design

DESIGNS = ("shapes", "count", "glyphs", "shapes-sd")


def design(name: str) -> Design:
    """The design of a model of DESIGNS; only its own module is loaded."""
    found: Design = import_module(f"grpo_bench.workloads.{name.replace('-', '_')}.pretrain").DESIGN
    return found
