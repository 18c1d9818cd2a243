"""`grpo-bench check`: one line a check, its figure beside its bound, and a table of methods at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from grpo_bench.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_bench.conformance.finding import Finding

NAME, FIGURE = 12, 19
WORDS = {True: ("PASS", "green"), False: ("FAIL", "bold red"), None: ("skip", "dim")}


class FindingJson(TypedDict):
    """One check as `grpo-bench check --json` prints it; `passed` is null where it does not apply."""

    check: str
    passed: bool | None
    figure: float | None
    bound: float | None
    sentence: str


def verdict_console(*, quiet: bool) -> Console:
    """Where the checks are printed; nowhere when `quiet`."""
    from rich.console import Console

    return Console(highlight=False, quiet=quiet)


def print_heading(name: str, console: Console) -> None:
    """The method's name above its checks."""
    console.print(plain(name, "bold cyan", 64))


def print_finding(finding: Finding, console: Console) -> None:
    """PASS, FAIL or skip, the check, its figure and bound, and what was done or broken or why it does not apply."""
    word, style = WORDS[finding.passed]
    head = Text.assemble("  ", (word, style), f"  {finding.check:<{NAME}} {_figure(finding):<{FIGURE}}  ")
    if finding.passed is not False:
        console.print(Text.assemble(head, plain(finding.sentence, "dim")), soft_wrap=True)
        return
    console.print(Text(head.plain.rstrip(), style=style))
    for line in textwrap.wrap(plain(finding.sentence, limit=1500).plain, max(40, min(110, console.width) - 8)):
        console.print(Text(f"        {line}"), soft_wrap=True)


def _figure(finding: Finding) -> str:
    """`2.2e-15 <= 1e-06`, `13.9 > 3`; empty where a check counts nothing."""
    if finding.figure is None or finding.bound is None:
        return ""
    if finding.at_least:
        return f"{finding.figure:.3g} {'>' if finding.passed else '<='} {finding.bound:.3g}"
    return f"{finding.figure:.2g} {'<=' if finding.passed else '>'} {finding.bound:.2g}"


def print_verdict(findings: Sequence[Finding], seconds: float, console: Console) -> None:
    """How many of a method's checks passed, and how long they took."""
    passed, failed, skipped = (sum(f.passed is state for f in findings) for state in (True, False, None))
    line = f"  {passed} passed, {failed} failed, {skipped} skipped in {seconds:.0f} s"
    console.print(Text(line, style="bold red" if failed else "bold green"))


def print_summary(results: Mapping[str, Sequence[Finding]], console: Console) -> None:
    """`grpo-bench check --all`: a row a method, with the checks that failed."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("method", no_wrap=True)
    for heading in ("passed", "failed", "skipped"):
        table.add_column(heading, justify="right")
    table.add_column("what failed")
    for name, findings in results.items():
        counts = [str(sum(f.passed is state for f in findings)) for state in (True, False, None)]
        failed = ", ".join(f.check for f in findings if f.passed is False)
        table.add_row(plain(name, "bold red" if failed else "bold cyan", 64), *counts, plain(failed))
    console.print(table)


def findings_json(findings: Iterable[Finding]) -> list[FindingJson]:
    """The findings of one method for a program; a figure that is no number is null."""
    return [
        {
            "check": f.check,
            "passed": f.passed,
            "figure": f.figure if f.figure is not None and abs(f.figure) < float("inf") else None,
            "bound": f.bound,
            "sentence": f.sentence,
        }
        for f in findings
    ]
