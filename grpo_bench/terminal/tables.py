"""Tables of what is installed and of what an iteration will cost; results are in `outcome`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from grpo_bench.forest.draw import TRAINED, draw_text
from grpo_bench.metering.ledger import TRAIN_WEIGHT
from grpo_bench.store.names import clean_text
from grpo_bench.terminal.outcome import OutcomeJson, outcome_json, print_outcome
from grpo_bench.terminal.text import NOTHING, count, plain

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_bench.forest.sketch import Sketch
    from grpo_bench.registry import Entry

__all__ = [
    "ComparedJson",
    "OutcomeJson",
    "PlanJson",
    "comparison_json",
    "outcome_json",
    "plan_json",
    "print_comparison",
    "print_entries",
    "print_outcome",
    "print_plan",
    "print_recipes",
    "stdout_console",
]

WIDTH = 90
RECIPES_WIDTH = 112
VERBOSE_WIDTH = 110
PRUNING = "pruned: what is left after one draw of example rewards, on which it depends"


class PlanJson(TypedDict):
    """The costs per prompt, as `grpo-bench plan --json` prints them."""

    nodes: int
    trained_edges: int
    rollout_nfe: int
    train_nfe: int
    images: int
    reference_nfe: NotRequired[int]
    forward_draws: NotRequired[int]
    kept_edges: NotRequired[int]
    kept_train_nfe: NotRequired[int]


class ComparedJson(PlanJson):
    """One method of `grpo-bench plan --compare --json`; `ratio` is its nfe over the first method's."""

    method: str
    nfe: int
    ratio: float


def stdout_console() -> Console:
    """Where results go; numbers are not coloured by guesswork."""
    from rich.console import Console

    return Console(highlight=False)


def print_entries(kind: str, entries: Sequence[Entry], *, verbose: bool, console: Console) -> None:
    """`grpo-bench list`: name, one line, paper, where it came from; `verbose` adds versions, facts and whole errors.

    `kind` is the plural in the heading, such as "methods". What cannot be loaded is shown with its reason.
    """
    if not entries:
        console.print(Text(f"no {kind} are installed"))
        return
    if verbose:
        for entry in entries:
            _print_whole(entry, console)
        return
    table = _listing(console)
    table.add_column(kind, no_wrap=True)
    table.add_column("what it is", ratio=1, overflow="fold")
    table.add_column("paper", no_wrap=True)
    table.add_column("from", overflow="fold", max_width=24)
    for entry in entries:
        table.add_row(_name(entry), _summary(entry, 60), _paper(entry.paper), plain(entry.origin))
    console.print(table)
    if any(entry.error for entry in entries):
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


def print_plan(sketch: Sketch, baseline: Sketch, *, console: Console) -> None:
    """`grpo-bench plan`: the forest, then its costs per prompt beside those of the baseline's forest."""
    drawing = Text(draw_text(sketch.forest))
    drawing.highlight_regex(f"{TRAINED}+", "bold red")
    drawing.highlight_regex("◆", "cyan")
    console.print(drawing, soft_wrap=True)
    console.print()
    beside = sketch.name != baseline.name
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2))
    table.add_column("per prompt and iteration", no_wrap=True)
    table.add_column(plain(sketch.name, "bold cyan", 40), justify="right")
    if beside:
        table.add_column(plain(baseline.name, limit=40), justify="right")
        table.add_column("ratio", justify="right")
    axis = _axis([sketch, baseline])
    for label, (cost, other) in _costs(sketch, baseline).items():
        if cost or other:
            numbers = [count(other), _ratio(cost, other)] if beside else []
            table.add_row(label, count(cost), *numbers, style="bold" if label == axis else "")
    console.print(table)
    if sketch.prunes or baseline.prunes:
        console.print(Text(PRUNING, style="dim"))


def print_comparison(sketches: Sequence[Sketch], *, console: Console) -> None:
    """`grpo-bench plan --compare`: one row a method, a second one for what pruning leaves; ratios to the first."""
    first = sketches[0]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("per prompt", overflow="fold")
    frozen = any(sketch.frozen for sketch in sketches)
    reference = ["reference\nNFE"] if frozen else []
    for heading in ("rollout\nNFE", *reference, "train\nNFE", "trained\nedges", "images", "nfe"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(Text.assemble("x ", plain(first.name, limit=20)), justify="right", no_wrap=True)
    for sketch in sketches:
        whole = (sketch.reference_nfe, sketch.train_nfe, sketch.forest.trained_edges, sketch.nfe)
        kept = (sketch.frozen * sketch.kept_train_nfe, sketch.kept_train_nfe, sketch.kept_edges, sketch.kept_nfe)
        rows = [(plain(sketch.name, "bold cyan", 40), "", whole), (Text("  pruned"), "dim", kept)]
        for label, style, (frozen_nfe, train_nfe, edges, nfe) in rows[: 1 + sketch.prunes]:
            beside = [frozen_nfe] if frozen else []
            costs = [sketch.forest.rollout_nfe, *beside, train_nfe, edges, sketch.forest.images, nfe]
            table.add_row(label, *map(count, costs), _ratio(nfe, first.nfe), style=style)
    console.print(table)
    notes = [f"{_axis(sketches)}, guidance not counted"]
    notes += [
        f"{clean_text(sketch.name, 40)}: {sketch.draws} forward draws a leaf" for sketch in sketches if sketch.draws
    ]
    for note in [*notes, *([PRUNING] if any(sketch.prunes for sketch in sketches) else [])]:
        console.print(Text(note, style="dim"))


def plan_json(sketch: Sketch) -> PlanJson:
    """The forest's exact costs per prompt, guidance not counted; what does not occur is left out."""
    forest = sketch.forest
    costs: PlanJson = {
        "nodes": forest.nodes,
        "trained_edges": forest.trained_edges,
        "rollout_nfe": forest.rollout_nfe,
        "train_nfe": sketch.train_nfe,
        "images": forest.images,
    }
    if sketch.frozen:
        costs["reference_nfe"] = sketch.reference_nfe
    if sketch.draws:
        costs["forward_draws"] = sketch.draws
    if sketch.prunes:
        costs["kept_edges"], costs["kept_train_nfe"] = sketch.kept_edges, sketch.kept_train_nfe
    return costs


def comparison_json(sketches: Sequence[Sketch]) -> list[ComparedJson]:
    """`plan_json` of each method, with its name, its nfe and that relative to the first method's."""
    first = sketches[0]
    return [
        {"method": sketch.name, **plan_json(sketch), "nfe": sketch.nfe, "ratio": sketch.nfe / first.nfe}
        for sketch in sketches
    ]


def _costs(sketch: Sketch, other: Sketch) -> dict[str, tuple[int, int]]:
    """Labelled costs of two forests; the kept ones are zero where neither prunes, so that they are not shown."""
    one, two = sketch.forest, other.forest
    prunes = sketch.prunes or other.prunes
    return {
        "nodes": (one.nodes, two.nodes),
        "rollout evaluations": (one.rollout_nfe, two.rollout_nfe),
        "training evaluations": (sketch.train_nfe, other.train_nfe),
        "reference evaluations": (sketch.reference_nfe, other.reference_nfe),
        "trained edges": (one.trained_edges, two.trained_edges),
        "forward draws a leaf": (sketch.draws, other.draws),
        "images": (one.images, two.images),
        _axis([sketch, other]): (sketch.nfe, other.nfe),
        "training evaluations, pruned": (prunes * sketch.kept_train_nfe, prunes * other.kept_train_nfe),
        "trained edges, pruned": (prunes * sketch.kept_edges, prunes * other.kept_edges),
        "nfe, pruned": (prunes * sketch.kept_nfe, prunes * other.kept_nfe),
    }


def _axis(sketches: Sequence[Sketch]) -> str:
    """What nfe adds up, with the reference where one is evaluated."""
    reference = "reference + " if any(sketch.frozen for sketch in sketches) else ""
    return f"nfe (rollout + {reference}{TRAIN_WEIGHT} x train)"


def _ratio(cost: int, other: int) -> str:
    return f"{cost / other:.2f}" if other else NOTHING


def _listing(console: Console, width: int = WIDTH) -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), width=min(width, console.width))


def _name(entry: Entry) -> Text:
    return plain(entry.name, "bold red" if entry.error is not None else "bold cyan", 64)


def _summary(entry: Entry, limit: int) -> Text:
    """What it is, or why it cannot be loaded, of which `limit` characters are shown."""
    if entry.error is None:
        return plain(entry.summary, limit=200)
    return Text.assemble(("cannot be loaded: ", "red"), plain(entry.error, limit=limit))


def _print_whole(entry: Entry, console: Console) -> None:
    """One entry as a paragraph, which holds more than a table's cell does at 80 columns."""
    origin = " ".join(part for part in (entry.origin, entry.version) if part)
    source = Text(", ", style="dim").join(part for part in (_paper(entry.paper), plain(origin, "dim")) if part)
    lines = [_summary(entry, 500), *(plain(fact, "dim", 300) for fact in entry.facts)]
    console.print(Text("  ").join([_name(entry), source]))
    for line in lines:
        console.print(Padding(line, (0, 0, 0, 4)), width=min(VERBOSE_WIDTH, console.width))
    console.print()


def _paper(paper: str) -> Text:
    """arXiv numbers said to be such; anything else as it is."""
    return plain(f"arXiv {paper}" if re.fullmatch(r"\d{4}\.\d{4,5}(v\d+)?", paper) else paper, "dim", 60)
