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
DRAWS = {"random", "secrets", "uuid"}
OUTSIDE = {
    "os", "io", "pathlib", "shutil", "tempfile", "glob", "mmap", "sqlite3", "pickle", "marshal", "shelve", "subprocess",
    "multiprocessing", "concurrent", "threading", "asyncio", "signal", "atexit", "socket", "http", "urllib", "requests",
    "platform", "getpass",
}  # fmt: skip
REACHES = {
    "sys", "gc", "inspect", "ctypes", "cffi", "importlib", "imp", "runpy", "pkgutil", "builtins", "traceback",
    "tracemalloc", "faulthandler", "bdb", "pdb", "dis", "codeop",
}  # fmt: skip
"""Modules with which code finds objects that it was not given: frames, modules, other objects' insides."""
FRAMES = {
    "f_back", "f_locals", "f_globals", "f_builtins", "tb_frame", "gi_frame", "cr_frame", "ag_frame", "__globals__",
    "__closure__", "__code__", "__builtins__", "__subclasses__", "__traceback__", "settrace", "setprofile",
    "with_traceback", "__import__", "__loader__", "grad_fn", "next_functions", "register_hook",
    "register_post_accumulate_grad_hook", "data_ptr", "untyped_storage",
}  # fmt: skip
"""Attributes and names that lead to frames, to the insides of functions and modules, or along a tensor's graph."""
CALLS = {"open", "eval", "exec", "compile", "globals", "breakpoint", "input"}
FREEZES = {"setflags", "writeable"}
"""What numpy calls the lock on an array."""
FILES = {"load", "save", "savez", "savez_compressed", "loadtxt", "savetxt", "genfromtxt", "fromfile", "memmap"}
"""What numpy and torch call reading and writing."""
STREAMS = {"Generator", "BitGenerator"}
"""Names of numpy.random that draw nothing: a plan is given its stream."""
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like", "randn_like",
               "randint_like", "poisson"}  # fmt: skip
TORCH_SEEDS = {"manual_seed", "seed", "set_rng_state", "default_generator"}
OWN = "a method sees its arguments and itself, and reaches into nothing else"


def check_source(subject: Subject) -> Iterator[Finding]:
    """Every rule over every module; one line, the first fault by line number."""
    faults = [
        f"{Path(file).name}, line {line}: {fault}"
        for file in subject.modules.values()
        for line, fault in sorted(set(source_faults(Path(file).read_text(encoding="utf-8"))))
    ]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    yield Finding("source", not faults, faults[0] + more if faults else ", ".join(subject.modules))


def source_faults(source: str) -> Iterator[tuple[int, str]]:
    """(line, sentence) of everything in a module's source that a method may not use."""
    tree = ast.parse(source)
    names = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr):
            yield from ((node.lineno, fault) for fault in _faults(node, names, tree))


def _faults(node: ast.stmt | ast.expr, names: dict[str, str], tree: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for origin in _origins(node):
            yield from _import_fault(origin)
    elif isinstance(node, ast.Global):
        yield f"it changes the module's {node.names[0]}; what a method remembers is in itself and in state_dict"
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.Delete):
        yield from _change_fault(node, names)
    elif isinstance(node, ast.Call):
        yield from _call_fault(node, names)
    if isinstance(node, ast.Attribute | ast.Name):
        dotted = _dotted(node, names)
        yield from _reach_fault(node, dotted)
        yield from _random_fault(dotted, node, tree)


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
    elif package in OUTSIDE | DRAWS:
        yield f"it imports {package}; draw from the rng that plan is given, and leave files and processes to the engine"
    elif package in REACHES:
        yield f"it imports {package}; {OWN}"
    elif package == "grpo_bench" and rest not in ("", "*", *grpo_bench.__all__):
        yield f"it imports {origin}, which is private; the public API is what `from grpo_bench import ...` offers"
    elif any(part.startswith("_") and part != "__future__" for part in origin.split(".")):
        yield f"it imports the private name {origin}; use what its package makes public"
    elif package and rest.split(".")[-1] in OUTSIDE | REACHES | CLOCKS | DRAWS - {"random"}:
        yield f"it imports {rest.split('.')[-1]} by way of {package}; {OWN}"


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`np.random.rand` as numpy.random.rand; "" where it does not start at an imported name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _call_fault(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name in CALLS and name not in names:
        yield f"it calls {name}(); a method computes, it reads, writes and runs nothing"
    texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    private = [text for text in texts if text.startswith("_")]
    if name in ("getattr", "setattr", "delattr") and private and not _about_itself(node):
        yield f"it calls {name}() with the private name {private[0]!r}; {OWN}"
    attribute = node.func.attr if isinstance(node.func, ast.Attribute) else name
    if attribute in ("__setattr__", "__delattr__", "setattr", "delattr") and not _about_itself(node):
        yield f"it calls {attribute} on something that is not itself; {OWN}"


def _about_itself(node: ast.Call) -> bool:
    """`f(self, ...)`, or a call of `super().f`."""
    inner = node.func.value if isinstance(node.func, ast.Attribute) else None
    if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "super":
        return True
    return bool(node.args) and isinstance(node.args[0], ast.Name) and node.args[0].id == "self"


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _change_fault(node: ast.Assign | ast.AugAssign | ast.Delete, names: dict[str, str]) -> Iterator[str]:
    """An assignment into what was imported: another class's method, a package's setting."""
    for target in [node.target] if isinstance(node, ast.AugAssign) else node.targets:
        owner = target.value if isinstance(target, ast.Attribute | ast.Subscript) else target
        dotted = "" if owner is target else _dotted(owner, names)
        if dotted:
            yield f"it changes {dotted}, which is not its own; derive a class from it instead"


def _reach_fault(node: ast.Attribute | ast.Name, dotted: str) -> Iterator[str]:
    last = node.attr if isinstance(node, ast.Attribute) else node.id
    if last in FRAMES:
        yield f"it uses {last}; {OWN}"
    elif last == "data" and isinstance(node, ast.Attribute) and not dotted and not _is_self(node.value):
        yield "it uses .data, behind which tensors are changed unseen; a method changes nothing that it is given"
    elif last in FREEZES and isinstance(node, ast.Attribute):
        yield f"it uses {last}; arrays that a method is given are read-only, so copy what is to be changed"
    elif isinstance(node, ast.Attribute) and dotted:
        package, _, rest = dotted.partition(".")
        if package == "grpo_bench" and rest not in grpo_bench.__all__ and "." not in rest:
            yield f"it uses {dotted}, which is private; the public API is what `from grpo_bench import ...` offers"
        elif last.startswith("_") and not last.startswith("__"):
            yield f"it uses the private name {dotted}; use what its package makes public"
        elif dotted == "numpy.datetime64":
            yield f"it uses {dotted}, which can tell the time; a method has no clock"
        elif package in ("numpy", "torch") and "." not in rest and last in FILES:
            yield f"it uses {dotted}; a method computes, it reads, writes and runs nothing"
        elif package == "torch" and last.startswith("set_") and last != "set_grad_enabled":
            yield f"it uses {dotted}; global settings are nobody's to change"
        elif last in REACHES | OUTSIDE - {"io", "signal"}:
            yield f"it uses {dotted}; {OWN}"


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
