"""A method is one short file of its own: at most 150 lines, nothing private, no block copied from another."""

from __future__ import annotations

import ast
from itertools import combinations
from pathlib import Path

import pytest

METHODS = sorted(path for path in (Path(__file__).parent.parent / "methods").glob("*.py") if path.name != "__init__.py")
BLOCK = 6


def blocks(path: Path) -> set[tuple[str, ...]]:
    """Every run of BLOCK lines, without blank ones, imports and indentation."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith(("import ", "from "))]
    return {tuple(lines[start : start + BLOCK]) for start in range(len(lines) - BLOCK + 1)}


def test_there_is_a_file_a_method() -> None:
    names = {"flat", "mix", "tree", "branch", "branch_mix", "tempflow", "ddpo", "guard", "nft"}
    assert {path.stem for path in METHODS} == names


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_at_most_150_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_nothing_private_is_imported(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    ]
    assert names
    assert not [name for name in names if any(part.startswith("_") for part in name.split("."))]


@pytest.mark.parametrize(("left", "right"), list(combinations(METHODS, 2)), ids=lambda path: path.stem)
def test_no_block_is_copied(left: Path, right: Path) -> None:
    shared = blocks(left) & blocks(right)
    assert not shared, "\n".join(max(shared))
