"""The code knows no method, reward or model family by name: those it must know are in one table."""

from __future__ import annotations

import ast
from pathlib import Path

import grpo_bench
from grpo_bench.builtin import BASELINE, DEFAULT_METHOD, DEFAULT_POLICY, DEFAULT_REWARD, DEFAULT_WORKLOAD, LOOKS
from grpo_bench.registry import METHODS, POLICIES, REWARDS, WORKLOADS

HOMONYMS = {
    ("analysis/report/fairness.py", "clip"),  # a row of the card: the ratio's clip
    ("config.py", "gaussian"),  # the log-prob of a Gaussian, as in the three below
    ("sampling/gaussian.py", "gaussian"),
    ("training/planning.py", "gaussian"),
    ("conformance/credit.py", "shapes"),  # of arrays
    ("conformance/suite.py", "shapes"),
    ("doctor/probes.py", "image-reward"),  # the distribution
    ("rewarding/__init__.py", "clip"),  # the module, OpenAI's model
    ("store/images.py", "count"),  # a column
    ("training/credit_log.py", "flat"),  # groups without spread
}
"""Texts that are spelt like a plugin's name and mean something else."""
OWN = ("builtin.py", "policies/", "workloads/", "conformance/identity.py", "conformance/scale.py")
"""The table, the plugins themselves, and what `check` holds single methods to."""


def test_no_other_file_names_a_plugin() -> None:
    names = {*METHODS.names(), *REWARDS.names(), *POLICIES.names()}
    root = Path(grpo_bench.__file__).parent
    found = set()
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).as_posix()
        texts = {node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if _is_text(node)}
        found |= set() if place.startswith(OWN) else {(place, text) for text in texts & names}
    assert found == HOMONYMS


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_what_the_table_names_is_registered() -> None:
    assert {DEFAULT_METHOD, BASELINE, *LOOKS} <= set(METHODS.names())
    assert DEFAULT_REWARD in REWARDS.names() and DEFAULT_WORKLOAD in WORKLOADS.names()
    assert DEFAULT_POLICY in POLICIES.names()
