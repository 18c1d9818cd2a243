"""A suite that every method finishes in a blink: flat and tree on the analytic workload."""

from __future__ import annotations


def small_suite(
    name: str = "small", *, seeds: int = 1, nfe: int = 4000, contrasts: str = '["tree"]', settings: str = ""
) -> str:
    """Its TOML, which ends in the methods' tables, so that more of them can be added; `settings`: lines before them."""
    return f"""
name = "{name}"
workloads = ["gaussian"]
rewards = ["gaussian"]
seeds = {seeds}
baseline = "flat"
contrasts = {contrasts}
budget.nfe = {nfe}
{settings}
[methods.flat]
[methods.tree]
"""
