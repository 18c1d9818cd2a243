"""`grpo-bench doctor`: findings by section, a mark before each, the command that mends it below."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from rich.text import Text

from grpo_bench.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_bench.doctor.facts import Facts, Finding

SUBJECT = 24
MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}


class HealthJson(TypedDict):
    """What `doctor --json` prints; `ok` is whether everything can work, `facts` what was looked at."""

    ok: bool
    findings: list[dict[str, str]]
    facts: dict[str, object]


def health_json(facts: Facts, findings: Sequence[Finding]) -> HealthJson:
    """Findings and facts for a program."""
    known: dict[str, object] = dataclasses.asdict(facts)
    known["declared"] = sorted(facts.declared)
    known["installs"] = [{**dataclasses.asdict(one), "names": sorted(one.names)} for one in facts.installs]
    said = [{name: str(value) for name, value in dataclasses.asdict(one).items()} for one in findings]
    return {"ok": all(one.mark != "fail" for one in findings), "findings": said, "facts": known}


def print_health(findings: Sequence[Finding], console: Console) -> None:
    """Every finding, then how many of them are limits and how many cannot work."""
    width, section = max(60, min(110, console.width)), ""
    for one in findings:
        if one.section != section:
            section = one.section
            console.print(Text.assemble("\n", (section, "bold")))
        _print_finding(one, width, console)
    failed, limits = (sum(one.mark == mark for one in findings) for mark in ("fail", "warn"))
    console.print()
    if failed:
        console.print(Text(f"{failed} cannot work, {limits} limited", style="bold red"))
    elif limits:
        console.print(Text(f"everything works, {limits} limited", style="bold yellow"))
    else:
        console.print(Text("everything works", style="bold green"))


def _print_finding(one: Finding, width: int, console: Console) -> None:
    word, style = MARKS[one.mark]
    indent = 8 + SUBJECT
    subject = plain(one.subject, limit=SUBJECT)
    subject.pad_right(SUBJECT - len(subject))
    lines = textwrap.wrap(plain(one.sentence, limit=1500).plain, width - indent, break_on_hyphens=False) or [""]
    console.print(Text.assemble("  ", (word, style), "  ", subject, lines[0]), soft_wrap=True)
    for line in lines[1:]:
        console.print(Text(" " * indent + line), soft_wrap=True)
    if one.mend:
        # Not wrapped: it is there to be copied.
        console.print(Text.assemble(" " * indent, ("mend: ", "dim"), plain(one.mend, "bold")), soft_wrap=True)
