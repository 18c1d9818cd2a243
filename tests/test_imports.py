"""What may be imported where: start-up must not load torch, and plugins use the public API only."""

from __future__ import annotations

import ast
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from fresh import loaded_by

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft"}
# Drawing and tables are quick enough for a plot, not for `--help`.
SLOW = HEAVY | {"pandas", "pyarrow", "matplotlib", "scipy"}

LIGHT_MODULES = [
    "grpo_bench",
    "grpo_bench.config",
    "grpo_bench.errors",
    "grpo_bench.forest.draw",
    "grpo_bench.forest.builders",
    "grpo_bench.forest.forest",
    "grpo_bench.forest.rollout",
    "grpo_bench.isolated.commands",
    "grpo_bench.isolated.reward",
    "grpo_bench.method",
    "grpo_bench.registry",
    "grpo_bench.resolve",
    "grpo_bench.reward",
    "grpo_bench.rewarding",
    "grpo_bench.sampling.kernels",
    "grpo_bench.sampling.schedule",
    "grpo_bench.store",
    "grpo_bench.workloads.gaussian",
    "grpo_bench.workloads.gaussian.workload",
]


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_module_does_not_load_torch(module: str) -> None:
    assert not loaded_by(f"import {module}") & HEAVY


def test_every_name_of_the_public_api_resolves_without_torch() -> None:
    code = "import grpo_bench\nfor name in grpo_bench.__all__: getattr(grpo_bench, name)"

    assert not loaded_by(code) & HEAVY


@pytest.mark.parametrize("method", [point.value for point in entry_points(group="grpo_bench.methods")])
def test_method_does_not_load_torch(method: str) -> None:
    assert not loaded_by(f"import {method.partition(':')[0]}") & HEAVY


def test_command_line_loads_nothing_slow() -> None:
    assert not loaded_by("import grpo_bench.cli") & SLOW


@pytest.mark.parametrize("path", sorted([*ROOT.glob("methods/*.py"), *ROOT.glob("rewards/*.py")]), ids=str)
def test_plugin_uses_the_public_api_only(path: Path) -> None:
    # given the imports of a built-in plugin
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    origins = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    # then it reaches into no submodule of the engine, as a third party's would not; a workload's world is public, and
    # so is what learned rewards share
    public = tuple(f"grpo_bench.workloads.{name}" for name in ("shapes", "count", "glyphs", "gaussian"))
    inside = [name for name in plain + origins if name.startswith("grpo_bench.") and name != "grpo_bench.rewarding"]
    assert not [name for name in inside if not name.startswith(public)]
