"""Tables of what is installed and of what an iteration will cost; results are in `outcome`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from grpo_bench.forest.draw import TRAINED, draw_text
from grpo_bench.metering.ledger import TRAIN_WEIGHT
from grpo_bench.terminal.outcome import OutcomeJson, outcome_json, print_outcome
from grpo_bench.terminal.text import NOTHING, count, plain

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_bench.forest.forest import Forest
    from grpo_bench.registry import Entry

__all__ = [
    "OutcomeJson",
    "PlanJson",
    "outcome_json",
    "plan_json",
    "print_entries",
    "print_outcome",
    "print_plan",
    "print_recipes",
    "stdout_console",
]

WIDTH = 90
RECIPES_WIDTH = 112
AXIS = f"nfe (rollout + {TRAIN_WEIGHT} x train)"


class PlanJson(TypedDict):
    """The costs per prompt, as `grpo-bench plan --json` prints them."""

    nodes: int
    trained_edges: int
    rollout_nfe: int
    train_nfe: int
    images: int


def stdout_console() -> Console:
    """Where results go; numbers are not coloured by guesswork."""
    from rich.console import Console

    return Console(highlight=False)


def print_entries(kind: str, entries: Sequence[Entry], *, verbose: bool, console: Console) -> None:
    """`grpo-bench list`: name, one line, paper, where it came from; `verbose` adds versions and whole import errors.

    `kind` is the plural in the heading, such as "methods". What cannot be loaded is shown with its reason.
    """
    if not entries:
        console.print(Text(f"no {kind} are installed"))
        return
    table = _listing(console)
    table.add_column(kind, no_wrap=True)
    table.add_column("what it is", ratio=1)
    table.add_column("paper", no_wrap=True)
    table.add_column("from", overflow="fold", max_width=24)
    for entry in entries:
        broken = entry.error is not None
        summary = _broken(entry.error, verbose=verbose) if entry.error is not None else plain(entry.summary, limit=200)
        origin = f"{entry.origin} {entry.version}" if verbose and entry.version else entry.origin
        table.add_row(
            plain(entry.name, "bold red" if broken else "bold cyan", 64), summary, _paper(entry.paper), plain(origin)
        )
    console.print(table)
    if not verbose and any(entry.error for entry in entries):
        console.print(Text("-v shows the whole errors", style="dim"))


def print_recipes(recipes: Mapping[str, Mapping[str, object]], console: Console) -> None:
    """`grpo-bench list recipes`: each recipe's name and its `[about]` table (summary, follows, paper)."""
    if not recipes:
        console.print(Text("no recipes are installed"))
        return
    table = _listing(console, RECIPES_WIDTH)
    table.add_column("recipes", no_wrap=True)
    table.add_column("what it is", ratio=1)
    table.add_column("follows", no_wrap=True)
    for name, recipe in recipes.items():
        about = recipe.get("about")
        said = {key: str(text) for key, text in about.items()} if isinstance(about, Mapping) else {}
        source = [plain(said.get("follows", ""), "dim", 30), _paper(said.get("paper", ""))]
        table.add_row(
            plain(name, "bold cyan", 64),
            plain(said.get("summary", "")),
            Text(", ", style="dim").join(part for part in source if part),
        )
    console.print(table)


def print_plan(name: str, forest: Forest, baseline: str, compared: Forest, *, console: Console) -> None:
    """`grpo-bench plan`: the forest, then its costs per prompt beside those of the baseline's forest `compared`."""
    drawing = Text(draw_text(forest))
    drawing.highlight_regex(f"{TRAINED}+", "bold red")
    drawing.highlight_regex("◆", "cyan")
    console.print(drawing, soft_wrap=True)
    console.print()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2))
    table.add_column("per prompt and iteration", no_wrap=True)
    table.add_column(plain(name, "bold cyan", 40), justify="right")
    if name != baseline:
        table.add_column(plain(baseline, limit=40), justify="right")
        table.add_column("ratio", justify="right")
    others = _costs(compared)
    for label, cost in _costs(forest).items():
        beside = [count(others[label]), _ratio(cost, others[label])] if name != baseline else []
        table.add_row(label, count(cost), *beside, style="bold" if label == AXIS else "")
    console.print(table)


def plan_json(forest: Forest) -> PlanJson:
    """The forest's exact costs per prompt, guidance not counted."""
    return {
        "nodes": forest.nodes,
        "trained_edges": forest.trained_edges,
        "rollout_nfe": forest.rollout_nfe,
        "train_nfe": forest.train_nfe,
        "images": forest.images,
    }


def _costs(forest: Forest) -> dict[str, int]:
    return {
        "nodes": forest.nodes,
        "rollout evaluations": forest.rollout_nfe,
        "training evaluations": forest.train_nfe,
        "trained edges": forest.trained_edges,
        "images": forest.images,
        AXIS: forest.rollout_nfe + TRAIN_WEIGHT * forest.train_nfe,
    }


def _ratio(cost: int, other: int) -> str:
    return f"{cost / other:.2f}" if other else NOTHING


def _listing(console: Console, width: int = WIDTH) -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), width=min(width, console.width))


def _broken(error: str, *, verbose: bool) -> Text:
    return Text.assemble(("cannot be loaded: ", "red"), plain(error, limit=500 if verbose else 60))


def _paper(paper: str) -> Text:
    """arXiv numbers said to be such; anything else as it is."""
    return plain(f"arXiv {paper}" if re.fullmatch(r"\d{4}\.\d{4,5}(v\d+)?", paper) else paper, "dim", 60)
