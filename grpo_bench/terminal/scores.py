"""`grpo-bench score`: what held-out rewards say of a run's images, beside what it was trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

from rich.table import Table
from rich.text import Text

from grpo_bench.store.run import SCORES
from grpo_bench.terminal.outcome import BaseFinal, shown_path
from grpo_bench.terminal.text import Row, change, plain, score, sparkline, value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from grpo_bench.evaluation.rescore import Report
    from grpo_bench.store.run import RunStore


class ScoresJson(TypedDict):
    """What `score --json` prints; `images` are those of one point, `added` the points that were scored now."""

    run: str
    points: int
    prompts: int
    images: int
    scores: dict[str, BaseFinal]
    added: dict[str, int]
    kept: dict[str, str]
    seconds: float


def scores_json(store: RunStore, report: Report) -> ScoresJson:
    """The columns of the command's rewards at the first and the last point, and what became of each reward."""
    rows = _rows(store)
    ends: dict[str, BaseFinal] = {}
    for name in (name for one in report.rewards for name in one.columns):
        first, last = value(rows[0], name), value(rows[-1], name)
        ends[name] = {
            "base": first if math.isfinite(first) else None,
            "final": last if math.isfinite(last) else None,
        }
    return {
        "run": store.record.run,
        "points": report.points,
        "prompts": report.prompts,
        "images": report.images,
        "scores": ends,
        "added": {one.reward: one.added for one in report.rewards},
        "kept": {one.reward: one.kept for one in report.rewards if one.kept},
        "seconds": round(report.seconds, 3),
    }


def print_scores(store: RunStore, report: Report, console: Console) -> None:
    """Base, final, change and course of every column; which were added, which were there, and of how many images."""
    rows, record = _rows(store), store.record
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=26, overflow="fold")
    for _ in range(3):
        table.add_column(justify="right", min_width=9, no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row(*(Text(heading, style="dim") for heading in ("  mean over images", "base", "final", "change", "")))
    trained = "gold = proxy" if record.gold_is_proxy else "proxy"
    lines = [] if record.gold_is_proxy else [(Text("  gold"), "gold")]
    lines.append((Text.assemble("  ", plain(f"{trained} ({record.reward})", limit=40)), "proxy"))
    for one in report.rewards:
        lines += [(Text.assemble("  ", plain(name, "bold cyan", 70)), name) for name in one.columns]
    for label, name in lines:
        table.add_row(label, *_numbers([value(row, name) for row in rows]))
    console.print()
    console.print(Text.assemble("  ", plain(record.run, "bold")), soft_wrap=True)
    console.print()
    console.print(table)
    console.print()
    _print_notes(store, report, console)


def _print_notes(store: RunStore, report: Report, console: Console) -> None:
    each = report.images // report.prompts
    of = f"{report.prompts} held-out prompts x {each} images at each of {_points(report.points)}"
    console.print(Text(f"  {of}, {report.points * report.images:,} images"))
    added = [one for one in report.rewards if one.added]
    if added:
        said = ", ".join(f"{one.reward} at {_points(one.added)}" for one in added)
        console.print(Text.assemble("  ", ("scored", "green"), ": ", plain(said), f", in {report.seconds:.1f} s"))
        console.print(Text.assemble("  ", ("stored", "green"), ": ", shown_path(store.folder / SCORES)), soft_wrap=True)
    for one in report.rewards:
        if one.kept:
            console.print(Text.assemble("  ", ("kept", "yellow"), ": ", plain(f"{one.reward}: {one.kept}")))


def _points(count: int) -> str:
    return f"{count} point{'' if count == 1 else 's'}"


def _rows(store: RunStore) -> list[Row]:
    rows = store.rows()
    added = store.held_out([int(row["iteration"] or 0) for row in rows])
    return [{**row, **more} for row, more in zip(rows, added, strict=True)]


def _numbers(course: Sequence[float]) -> tuple[str | Text, ...]:
    first, last = course[0], course[-1] if len(course) > 1 else math.nan
    line = Text(sparkline(course, 16) if len(course) > 1 else "", style="cyan")
    return score(first), score(last), change(last - first), line
