"""Check 9: the method's own source uses the public API, and no clock, process, file or global random state.

It reads the syntax tree of every module that makes the method's class. It is not a sandbox: it catches mistakes and
shortcuts, not malice.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import grpo_bench
from grpo_bench.conformance.finding import Finding
from grpo_bench.conformance.subject import Subject

CLOCKS = {"time", "datetime"}
OUTSIDE = {
    "os",
    "subprocess",
    "socket",
    "importlib",
    "ctypes",
    "threading",
    "multiprocessing",
    "sys",
    "shutil",
    "asyncio",
}
CALLS = {"open", "eval", "exec", "compile", "__import__", "globals"}
STREAMS = {"Generator", "BitGenerator"}
"""Names of numpy.random that draw nothing: a plan is given its stream."""
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like", "randn_like",
               "randint_like", "poisson"}  # fmt: skip
TORCH_SEEDS = {"manual_seed", "seed", "set_rng_state", "default_generator"}


def check_source(subject: Subject) -> Iterator[Finding]:
    """Every rule over every module; one line, the first fault by line number."""
    faults = [
        f"{Path(file).name}, line {line}: {fault}"
        for file in subject.modules.values()
        for line, fault in sorted(source_faults(Path(file).read_text(encoding="utf-8")))
    ]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    yield Finding("source", not faults, faults[0] + more if faults else ", ".join(subject.modules))


def source_faults(source: str) -> Iterator[tuple[int, str]]:
    """(line, sentence) of everything in a module's source that a method may not use."""
    tree = ast.parse(source)
    names = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for origin in _origins(node):
                yield from ((node.lineno, fault) for fault in _import_fault(origin))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield node.lineno, f"it calls {node.func.id}(); a method computes, it reads, writes and runs nothing"
        if isinstance(node, ast.Attribute | ast.Name):
            yield from ((node.lineno, fault) for fault in _random_fault(_dotted(node, names), node, tree))


def _origins(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Full dotted names that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    module = "." * node.level + (node.module or "")
    return [f"{module}.{alias.name}" for alias in node.names]


def _imported(tree: ast.AST) -> dict[str, str]:
    """Local name -> full dotted name, of everything that is imported anywhere in the module."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _import_fault(origin: str) -> Iterator[str]:
    package, _, rest = origin.partition(".")
    if package in CLOCKS:
        yield f"it imports {package}; a method has no clock: what it does depends on iteration, rng and rewards only"
    elif package in OUTSIDE or package == "random":
        yield f"it imports {package}; draw from the rng that plan is given, and leave files and processes to the engine"
    elif package == "grpo_bench" and rest not in ("", *grpo_bench.__all__):
        yield f"it imports {origin}, which is private; the public API is what `from grpo_bench import ...` offers"
    elif any(part.startswith("_") and part != "__future__" for part in origin.split(".")):
        yield f"it imports the private name {origin}; use what its package makes public"


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`np.random.rand` as numpy.random.rand; "" where it does not start at an imported name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _random_fault(name: str, node: ast.expr, tree: ast.AST) -> Iterator[str]:
    parts = name.split(".")
    if name.startswith("numpy.random.") and parts[2] not in STREAMS and len(parts) == 3:
        yield f"it uses {name}; draw from the rng that plan is given"
    elif parts[0] == "torch" and parts[-1] in TORCH_SEEDS:
        yield f"it uses {name}; global random state is nobody's to set"
    elif parts[0] == "torch" and len(parts) == 2 and parts[1] in TORCH_DRAWS and not _has_generator(node, tree):
        yield f"it uses {name} without a generator; a loss draws nothing, a plan draws from its rng"


def _has_generator(node: ast.expr, tree: ast.AST) -> bool:
    """Whether the function is called with `generator=`."""
    calls = [call for call in ast.walk(tree) if isinstance(call, ast.Call) and call.func is node]
    return any(keyword.arg == "generator" for call in calls for keyword in call.keywords)
