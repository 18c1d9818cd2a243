"""`grpo-bench bundle` and `verify`: what was packed, and what does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from rich.text import Text

from grpo_bench.bundles.verify import NOT_AUTHORSHIP
from grpo_bench.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_bench.bundles.verify import Verified
    from grpo_bench.bundles.write import Bundled

SHOWN = 20
"""Problems that are printed; `--json` has all."""


class ProblemJson(TypedDict):
    """One thing that does not fit."""

    kind: str
    where: str
    said: str


class VerifiedJson(TypedDict):
    """What `verify --json` prints."""

    file: str
    sha256: str
    bytes: int
    written_by: str
    entries: int
    runs: int
    points: int
    views: int
    figures: int
    unknown_rewards: list[str]
    intact: bool
    problems: list[ProblemJson]
    note: str


def print_bundled(done: Bundled, console: Console) -> None:
    """Where the bundle is, what is in it, and what was left out."""
    for said in done.skipped:
        console.print(Text.assemble(("left out", "yellow"), ": ", plain(said)), soft_wrap=True)
    for said in done.impossible[:SHOWN]:
        console.print(Text.assemble(("impossible", "red"), ": ", plain(said)), soft_wrap=True)
    if len(done.impossible) > SHOWN:
        console.print(Text(f"and {len(done.impossible) - SHOWN} more"))
    held = f"{done.runs} runs, {done.pictures} sheets of images, {done.entries} entries, {done.size / 1e6:.2f} MB"
    console.print(Text.assemble(("bundle", "green"), ": ", plain(str(done.path))), soft_wrap=True)
    console.print(Text(f"  {held}"))
    console.print(Text(f"  sha256 {done.sha256}"), soft_wrap=True)
    if done.impossible:
        console.print(Text("  grpo-bench verify will not call it intact", style="red"))
    console.print(Text("  publish this sha256 where readers trust it; grpo-bench verify prints it", style="dim"))


def print_verified(found: Verified, console: Console) -> None:
    """Whether the bundle is intact, what was checked, and what that does not show."""
    problems = found.problems
    word, style = ("intact", "bold green") if not problems else (f"{len(problems)} do not fit", "bold red")
    console.print(Text.assemble(plain(str(found.path), "bold"), ": ", (word, style)), soft_wrap=True)
    console.print(
        Text(f"  {found.entries} entries; {found.runs} runs, {found.points} points, {found.views} views; ").append(
            f"{found.figures:,} figures computed again from the points"
        ),
        soft_wrap=True,
    )
    if found.unknown:
        names = plain(", ".join(found.unknown), limit=200)
        console.print(Text.assemble("  not installed here, so that any score passes: ", names), soft_wrap=True)
    console.print(Text.assemble("  written by grpo-bench ", plain(found.written_by, limit=40)))
    console.print(Text(f"  sha256 {found.sha256}"), soft_wrap=True)
    for problem in problems[:SHOWN]:
        where = plain(f"{problem.where}: " if problem.where else "", "bold", 200)
        console.print(Text.assemble("  ", (problem.kind, "red"), "  ", where, plain(problem.said)), soft_wrap=True)
    if len(problems) > SHOWN:
        console.print(Text(f"  and {len(problems) - SHOWN} more (--json has all)"))
    console.print(Text(f"  {NOT_AUTHORSHIP}", style="dim"), soft_wrap=True)


def verified_json(found: Verified) -> VerifiedJson:
    """What was checked, for a program."""
    return {
        "file": str(found.path),
        "sha256": found.sha256,
        "bytes": found.size,
        "written_by": found.written_by,
        "entries": found.entries,
        "runs": found.runs,
        "points": found.points,
        "views": found.views,
        "figures": found.figures,
        "unknown_rewards": list(found.unknown),
        "intact": not found.problems,
        "problems": [{"kind": one.kind, "where": one.where, "said": one.said} for one in found.problems],
        "note": NOT_AUTHORSHIP,
    }
